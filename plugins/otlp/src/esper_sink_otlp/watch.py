"""What became of the request that the SDK's exporter sends now: filled in where it leaves the exporter."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from esper_sink_otlp.answer import Answer
    from esper_sink_otlp.settings import SignalSettings

__all__ = ["Watch"]


class Watch:
    """Follows one request. Used by the exporter's thread.

    Attributes:
        settings: of the signal.
        until: monotonic time at which the request has to be over.
        answer: what became of it; None when it never left the exporter.
        tries: how often it left, at most twice: once more on a new connection when a kept one was closed.
        said: the exporter's own last log line.
    """

    def __init__(self, settings: SignalSettings) -> None:
        self.settings = settings
        self.until = 0.0
        self.answer: Answer | None = None
        self.tries = 0
        self.said = ""

    def begin(self, timeout_s: float) -> None:
        """Forget the last request."""
        self.until = time.monotonic() + timeout_s
        self.answer, self.tries, self.said = None, 0, ""

    def left_s(self, timeout_s: float) -> float:
        """What the exporter grants, or what the sink has left, if that is less."""
        return max(0.001, min(timeout_s, self.until - time.monotonic()))
