"""One request and its answer, whatever the protocol: what the exporters know of the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["Answer", "Transport"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What became of one request.

    Attributes:
        ok: the receiver took it.
        code: what the receiver said, as a person knows it: ``HTTP 200``, ``UNAVAILABLE``; empty without an answer.
        cause: in words, why it failed; empty when it did not.
        hint: in words, what to do about it.
        retryable: the same request may succeed later (OTLP specification, section Failures).
        too_large: smaller requests may succeed.
        retry_after_s: how long the receiver asked to wait.
        rejected: items that the receiver took no part of (partial success).
        latency_s: from sending to the answer.
    """

    ok: bool
    code: str = ""
    cause: str = ""
    hint: str = ""
    retryable: bool = False
    too_large: bool = False
    retry_after_s: float | None = None
    rejected: int = 0
    latency_s: float = 0.0


class Transport(Protocol):
    """Sends encoded OTLP requests of one signal. Used by one thread; ``close`` may come from another."""

    def send(self, body: bytes, timeout_s: float) -> Answer:
        """Send one serialised ``Export<Signal>ServiceRequest``. Never raises; waits at most about ``timeout_s``."""

    def close(self) -> None:
        """Let go of connections. A request that is under way may end in an error."""
