"""Delivery of every event through a bounded queue."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from esper_core.host.deliver.buffer import PriorityBuffer, priority_of
from esper_core.host.deliver.thread_channel import ThreadChannel

if TYPE_CHECKING:
    from collections.abc import Callable

    from esper_core.host.deliver.guard import Guard

__all__ = ["FULL_WAIT_S", "QueueChannel"]

FULL_WAIT_S: Final = 0.05
"""The longest total time in seconds that the emitter waits for room, counted until the queue has drained."""


class QueueChannel(ThreadChannel):
    """Delivers every event, in order, until the bounded queue is full (``all``).

    Args:
        guard: catches and counts what the sink raises.
        deliver: calls the sink.
        size: the number of events that the queue holds.
        patience_s: the longest time that the emitter waits before an event of the same or higher priority is dropped.
        linger_s: how long the thread waits for more after the first event, unless the queue is half full: each time
            that it wakes, the emitter's thread hands it Python's lock and waits to get it back.
        once: True (training): ``patience_s`` is the total wait until the queue has drained. False (replay): the emitter
            waits that long for each event, as long as the sink delivers.
        hooks: ``opener`` and ``closer``.
    """

    delivery = "all"

    def __init__(
        self,
        guard: Guard,
        deliver: Callable[[str, Any], object],
        *,
        size: int = 1024,
        patience_s: float = FULL_WAIT_S,
        once: bool = True,
        linger_s: float = 0.0,
        **hooks: Any,
    ) -> None:
        super().__init__(guard, deliver, **hooks)
        self._linger_s = linger_s
        self._hurried = False
        self._buffer = PriorityBuffer(size)
        self._capacity = size
        self._patience_s = patience_s
        self._once = once
        self._wait_left_s = patience_s

    def put(self, hook: str, event: Any) -> None:
        """Queue one event; when the queue is full, wait up to the time left, then drop the event of lowest priority."""
        if os.getpid() != self._pid:
            return
        if self.guard.is_disabled():
            self.guard.lose(1)
            return
        priority = priority_of(hook)
        with self._wake:
            if self._reason is not None:
                self.guard.lose(1)
                return
            # A replay waits before it drops any event; training waits only before it drops an important one.
            pressed = priority and self._buffer.must_lose(priority) if self._once else self._buffer.full
            if pressed and self._wait_left_s > 0:
                begun = self.guard.clock()
                room = self._wake.wait_for(lambda: not self._buffer.full or self.guard.is_disabled(), self._wait_left_s)
                # A sink that delivered nothing in that time gets no further wait. In a replay, a sink that delivered
                # something keeps its full waiting time.
                if not room:
                    self._wait_left_s = 0.0
                elif self._once:
                    self._wait_left_s -= self.guard.clock() - begun
                if self.guard.is_disabled():
                    self.guard.lose(1)
                    return
            lost = self._buffer.put(hook, event, priority, self.guard.clock())
            if len(self._buffer) == 1 or self._half_full():
                self._wake.notify_all()
        if lost:
            self.guard.lose(lost, f"too slow: its queue of {self._capacity} events is full")

    def flush(self, timeout_s: float) -> bool:
        """Wait until all accepted events are delivered; return False when they are not after ``timeout_s`` seconds."""
        with self._wake:
            self._hurried = True
            self._wake.notify_all()
            flushed = self._wake.wait_for(lambda: not self.pending(), timeout_s)
            self._hurried = False
            return flushed

    def _half_full(self) -> bool:
        return 2 * len(self._buffer) >= self._capacity

    def _linger(self) -> None:
        if self._linger_s:
            self._wake.wait_for(lambda: self._reason is not None or self._hurried or self._half_full(), self._linger_s)

    def _take(self) -> tuple[str, Any] | None:
        taken = self._buffer.pop()
        if taken is None:
            self._wait_left_s = self._patience_s
        return taken

    def _held(self) -> int:
        return len(self._buffer)

    def _lag_s(self) -> float:
        oldest = self._buffer.oldest()
        return 0.0 if oldest is None else self.guard.clock() - oldest
