"""How a run ended, and whether its events have told so."""

from __future__ import annotations

import logging
import signal
from typing import TYPE_CHECKING

from esper_core.errors import error_text
from esper_core.health import RunState
from esper_core.hooks import hookimpl
from esper_core.masking import redact

if TYPE_CHECKING:
    from esper_core.host.process.signals import StopFlag

__all__ = ["Outcome", "StartAndEnd"]


class Outcome:
    """How a run ended, as its owner says or as the exception tells that left the with block.

    Attributes:
        state: done, stopped or failed; None while nobody has said.
        reason: what ended it, as text.
        message: a longer text for ``run.json``; empty when there is none.
    """

    def __init__(self) -> None:
        self.state: RunState | None = None
        self.reason = ""
        self.message = ""

    def set(self, state: RunState, reason: str, message: str = "") -> None:
        """Say how it ended; the last call counts."""
        self.state = state
        self.reason = reason
        self.message = message

    def judge(self, error: BaseException, stop: StopFlag) -> bool:
        """Set how the run ended from the exception that left the with block; True when it has failed by it."""
        if isinstance(error, KeyboardInterrupt):
            stop.request(signal.SIGINT)
            self.set(RunState.STOPPED, "SIGINT")
            return False
        if isinstance(error, SystemExit) and not error.code:
            self.set(self.state or RunState.DONE, self.reason)
            return False
        self.set(RunState.FAILED, redact(error_text(error)))
        logging.getLogger("esper.host").error("the run ended with an error", exc_info=error)
        return True


class StartAndEnd:
    """Observes whether the run's first and last event were emitted."""

    def __init__(self) -> None:
        self.started = False
        self.finished = False

    @hookimpl
    def esper_run_started(self) -> None:
        """Note the first event."""
        self.started = True

    @hookimpl
    def esper_run_finished(self) -> None:
        """Note the last event."""
        self.finished = True
