"""Delivery in a thread of the channel's own: what a queue and the newest of each hook share."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, Final

from esper_core.hooks import CloseReason
from esper_core.host.deliver.channel import CUT_OFF_S, BaseChannel

if TYPE_CHECKING:
    from collections.abc import Callable

    from esper_core.host.deliver.guard import Guard
    from esper_core.reading.account import SinkAccount

__all__ = ["ThreadChannel"]

TRIES: Final = 4
"""Delivery attempts of one event after I/O errors, before it counts as lost and the next event is delivered."""


class ThreadChannel(BaseChannel):
    """A channel with a thread of its own: the sink needs no locks."""

    def __init__(self, guard: Guard, deliver: Callable[[str, Any], object], **hooks: Any) -> None:
        super().__init__(guard, deliver, **hooks)
        self._wake = threading.Condition(threading.Lock())
        self._in_hand = 0
        self._coalesced = 0
        self._capacity = 0

    def in_child(self) -> None:
        """In a forked child, without the channel's thread: drop what is queued, and replace locks that may be held."""
        super().in_child()
        self._wake = threading.Condition(threading.Lock())
        self._in_hand = 0
        self._drop_all()

    def open(self) -> None:
        """Start the thread, which opens the sink."""
        self._thread = threading.Thread(target=self._run, name=f"esper-sink-{self.guard.name}", daemon=True)
        self._thread.start()

    def begin_close(self, reason: object) -> None:
        """Let the thread deliver what is queued, then close the sink."""
        if os.getpid() != self._pid:
            return
        with self._wake:
            if self._reason is None:
                self._reason = reason
            self._wake.notify_all()

    # The queue. Callers hold the lock.

    def _take(self) -> tuple[str, Any] | None:
        raise NotImplementedError

    def _held(self) -> int:
        raise NotImplementedError

    def _lag_s(self) -> float:
        return 0.0

    def _linger(self) -> None:
        """Wait for more events after the first one, or not."""

    def pending(self) -> int:
        """The number of events accepted and not yet delivered."""
        return self._held() + self._in_hand

    def report(self) -> SinkAccount:
        """The sink's counters now."""
        return self.guard.snapshot(
            delivery=self.delivery,
            queued=self.pending(),
            capacity=self._capacity,
            lag_s=self._lag_s(),
            coalesced=self._coalesced,
        )

    # The thread.

    def _run(self) -> None:
        self._open_now()
        if self._usable:
            self._work()
        self._done.set()

    def _work(self) -> None:
        while (taken := self._next()) is not None:
            self._hand_over(*taken)
            if self.guard.is_disabled():
                with self._wake:
                    self._in_hand = 0
                    self.guard.lose(self._drop_all())
                    self._wake.notify_all()
                self._close_now(CloseReason.DISABLED)
                return
        self._close_now(self._reason)

    def _next(self) -> tuple[str, Any] | None:
        with self._wake:
            self._in_hand = 0
            while (taken := self._take()) is None:
                self.guard.drained()
                self._wake.notify_all()
                if self._reason is not None:
                    return None
                self._wake.wait()
                self._linger()
            self._in_hand = 1
            self._wake.notify_all()
            return taken

    def _hand_over(self, hook: str, event: Any) -> None:
        for _ in range(TRIES):
            if self.guard.call(self._deliver, hook, event, hook=hook) != "retry":
                return
            if not self._rest(self.guard.retry_delay_s):
                # The channel is closing: try once more without waiting, then go on with the next event.
                if self.guard.call(self._deliver, hook, event, hook=hook) == "retry":
                    break
                return
        self.guard.lose(1)

    def _rest(self, seconds: float) -> bool:
        """Wait before the next attempt; return False as soon as the channel is closing."""
        end = self.guard.clock() + seconds
        with self._wake:
            while self._reason is None and (left := end - self.guard.clock()) > 0:
                self._wake.wait(left)
            return self._reason is None

    def _stop(self) -> int:
        with self._wake:
            dropped = self._drop_all()
            # What is being taken now is then the sink's to count, and not counted here as well.
            self._wake.wait_for(lambda: not self._in_hand, CUT_OFF_S if self.counts_itself else 0.0)
            return dropped + self._in_hand

    def _drop_all(self) -> int:
        dropped = 0
        while self._take() is not None:
            dropped += 1
        return dropped
