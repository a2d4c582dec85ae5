"""Delivery in the emitter's own thread."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

from esper_core.hooks import CloseReason
from esper_core.host.deliver.buffer import LIFECYCLE, priority_of
from esper_core.host.deliver.channel import BaseChannel

if TYPE_CHECKING:
    from collections.abc import Callable

    from esper_core.host.deliver.guard import Guard

__all__ = ["InlineChannel"]


class InlineChannel(BaseChannel):
    """Delivers in the emitter's thread, for sinks that only append to a file; one event at a time.

    This is the only delivery in which a sink that hangs blocks the trainer. Finished episodes may come from a thread of
    the emitter's.
    """

    delivery = "inline"

    def __init__(self, guard: Guard, deliver: Callable[[str, Any], object], **hooks: Any) -> None:
        super().__init__(guard, deliver, **hooks)
        self._one = threading.RLock()

    def in_child(self) -> None:
        """In a forked child: the lock may be held for ever."""
        super().in_child()
        self._one = threading.RLock()

    def open(self) -> None:
        """Open the sink in the caller's thread."""
        self._open_now()

    def put(self, hook: str, event: Any) -> None:
        """Deliver one event before returning."""
        if os.getpid() != self._pid:
            return
        with self._one:
            self._put(hook, event)

    def _put(self, hook: str, event: Any) -> None:
        guard = self.guard
        if guard.is_disabled():
            guard.lose(1)
            return
        # After an I/O error (a full disk) the next attempt waits for the back-off, so that not every event costs one.
        if guard.retry_delay_s and priority_of(hook) < LIFECYCLE:
            guard.lose(1)
            return
        outcome = guard.call(self._deliver, hook, event, hook=hook)
        if outcome == "retry":
            guard.lose(1)
        elif outcome == "failed" and guard.is_disabled():
            self.begin_close(CloseReason.DISABLED)

    def begin_close(self, reason: object) -> None:
        """Start closing, in a daemon thread: a sink that hangs while closing must not block the emitter's thread."""
        if self._reason is not None or os.getpid() != self._pid:
            return
        self._reason = reason
        if not self._usable or self._closer is None:
            self._done.set()
            return
        self._thread = threading.Thread(target=self._finish, name=f"esper-close-{self.guard.name}", daemon=True)
        self._thread.start()

    def _finish(self) -> None:
        self._close_now(self._reason)
        self._done.set()
