"""How events reach one sink: inline, through a bounded queue and a thread, or only the newest of each hook.

A channel never raises into the emitter. It blocks the emitter in one case only: for a short time, when a full queue
would drop an important event. After a fork the channel ignores every call in the child process: the channel's thread
does not exist there, and its locks may be held for ever.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, Final, Protocol

from esper_core.host.process.started import owned_by

if TYPE_CHECKING:
    from collections.abc import Callable

    from esper_core.host.deliver.guard import Guard
    from esper_core.reading.account import SinkAccount

__all__ = ["CUT_OFF_S", "LAST_STEPS_S", "BaseChannel", "Channel"]

CUT_OFF_S: Final = 0.25
"""The longest time that a sink which is cut off has to take what is in hand, and again to count what it holds."""
LAST_STEPS_S: Final = 1.0
"""The longest wait for a thread that has done its work and only has to return: a run leaves no thread behind."""


class Channel(Protocol):
    """Delivers events to one sink; this is the interface that the hub calls."""

    guard: Guard
    delivery: str

    def in_child(self) -> None:
        """In a forked child, without the channel's thread: drop what is queued, and replace locks that may be held."""

    def open(self) -> None:
        """Start opening the sink."""

    def opened(self, timeout_s: float) -> BaseException | None:
        """Wait until the sink is open; return the exception that it raised, or None."""

    def put(self, hook: str, event: Any) -> None:
        """Accept one event. Never raises."""

    def begin_close(self, reason: object) -> None:
        """Start flushing and closing, in a daemon thread. Returns at once."""

    def closed(self, timeout_s: float) -> bool:
        """Wait until closing has ended; False when it has not after ``timeout_s`` seconds."""

    def cut_off(self) -> None:
        """Stop waiting for the sink: its undelivered events count as lost."""

    def pending(self) -> int:
        """The number of events accepted and not yet delivered."""

    def report(self) -> SinkAccount:
        """The sink's counters now."""


class BaseChannel:
    """What all channels share.

    Args:
        guard: catches and counts what the sink raises.
        deliver: calls the sink: ``deliver(hook, event)``.
        opener: opens the sink; may raise.
        closer: closes the sink; may raise.
        counter: lets a sink that is cut off report what it still holds; may raise, and may hang.
    """

    delivery = "all"

    def __init__(
        self,
        guard: Guard,
        deliver: Callable[[str, Any], object],
        *,
        opener: Callable[[], object] | None = None,
        closer: Callable[[object], object] | None = None,
        counter: Callable[[], object] | None = None,
    ) -> None:
        self.guard = guard
        self._deliver = deliver
        self._opener = opener
        self._closer = closer
        self._counter = counter
        self.counts_itself = counter is not None
        """Whether the sink counts what it has taken and not yet passed on."""
        self._pid = os.getpid()
        self._is_open = threading.Event()
        self._open_error: BaseException | None = None
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        self._reason: object = None
        self._usable = False

    def in_child(self) -> None:
        """In a forked child: nothing is queued here, and no lock is held."""
        self.guard.in_child()

    def _open_now(self) -> None:
        try:
            if self._opener is not None:
                with self.guard.place, owned_by(self.guard.owner):
                    self._opener()
            self._usable = True
        except BaseException as error:  # noqa: BLE001  # a sink may raise anything; the hub decides what it means
            self._open_error = error
        finally:
            self._is_open.set()

    def opened(self, timeout_s: float) -> BaseException | None:
        """Wait until the sink is open; return the exception that it raised, or None."""
        if not self._is_open.wait(timeout_s):
            return TimeoutError(f"did not open within {timeout_s:.0f} s")
        return self._open_error

    def _close_now(self, reason: object) -> None:
        if self._usable and self._closer is not None:
            self._usable = False
            self.guard.call(self._closer, reason, counts=False)

    def closed(self, timeout_s: float) -> bool:
        """Wait until closing has ended; False when it has not after ``timeout_s`` seconds."""
        if os.getpid() != self._pid:
            return True  # a forked child has nothing to close, and its locks may be held for ever
        finished = self._done.wait(timeout_s)
        if finished:
            if self._thread is not None:
                self._thread.join(LAST_STEPS_S)
            self.guard.close("closed")
        return finished

    def pending(self) -> int:
        """Nothing is kept back here."""
        return 0

    def cut_off(self) -> None:
        """Stop waiting for the sink: its undelivered events count as lost."""
        held = self._stop()
        if self._counter is not None:
            # In a thread of its own: a sink that hangs may hang here too.
            counting = threading.Thread(
                target=self.guard.call, args=(self._counter,), kwargs={"counts": False}, daemon=True
            )
            counting.start()
            counting.join(CUT_OFF_S)
        kept = f", {held} events in hand" if held else ""
        self.guard.close("cut_off", lost=held, message=f"cut off at the deadline{kept}")

    def _stop(self) -> int:
        """Hand nothing more over; return the number of events accepted and not delivered."""
        return self.pending()

    def report(self) -> SinkAccount:
        """The sink's counters now."""
        lag_s = None if self.delivery == "inline" else 0.0
        return self.guard.snapshot(delivery=self.delivery, queued=self.pending(), lag_s=lag_s)
