"""How events reach one sink: inline, through a bounded queue and a thread, or only the newest of each hook.

A channel never raises into the emitter. It blocks the emitter in one case only: for a short time, when a full queue
would drop an important event. After a fork the channel ignores every call in the child process: the channel's thread
does not exist there, and its locks may be held for ever.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, Final, Protocol

from esper_core.hooks import CloseReason
from esper_core.host.deliver.buffer import LIFECYCLE, PriorityBuffer, priority_of
from esper_core.host.process.started import owned_by

if TYPE_CHECKING:
    from collections.abc import Callable

    from esper_core.host.deliver.guard import Guard
    from esper_core.reading.account import SinkAccount

__all__ = ["Channel", "InlineChannel", "LatestChannel", "QueueChannel"]

FULL_WAIT_S: Final = 0.05
"""The longest total time in seconds that the emitter waits for room, counted until the queue has drained."""
CUT_OFF_S: Final = 0.25
"""The longest time that a sink which is cut off has to take what is in hand, and again to count what it holds."""
TRIES: Final = 4
"""Delivery attempts of one event after I/O errors, before it counts as lost and the next event is delivered."""


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


class _Base:
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
        if not self._is_open.wait(timeout_s):
            return TimeoutError(f"did not open within {timeout_s:.0f} s")
        return self._open_error

    def _close_now(self, reason: object) -> None:
        if self._usable and self._closer is not None:
            self._usable = False
            self.guard.call(self._closer, reason, counts=False)

    def closed(self, timeout_s: float) -> bool:
        if os.getpid() != self._pid:
            return True  # a forked child has nothing to close, and its locks may be held for ever
        finished = self._done.wait(timeout_s)
        if finished:
            self.guard.close("closed")
        return finished

    def pending(self) -> int:
        return 0

    def cut_off(self) -> None:
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
        lag_s = None if self.delivery == "inline" else 0.0
        return self.guard.snapshot(delivery=self.delivery, queued=self.pending(), lag_s=lag_s)


class InlineChannel(_Base):
    """Delivers in the emitter's thread, for sinks that only append to a file.

    This is the only delivery in which a sink that hangs blocks the trainer.
    """

    delivery = "inline"

    def open(self) -> None:
        """Open the sink in the caller's thread."""
        self._open_now()

    def put(self, hook: str, event: Any) -> None:
        """Deliver one event before returning."""
        guard = self.guard
        if os.getpid() != self._pid:
            return
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
        threading.Thread(target=self._finish, name=f"esper-close-{self.guard.name}", daemon=True).start()

    def _finish(self) -> None:
        self._close_now(self._reason)
        self._done.set()


class _ThreadChannel(_Base):
    """A channel with a thread of its own: the sink needs no locks."""

    def __init__(self, guard: Guard, deliver: Callable[[str, Any], object], **hooks: Any) -> None:
        super().__init__(guard, deliver, **hooks)
        self._wake = threading.Condition(threading.Lock())
        self._in_hand = 0
        self._coalesced = 0
        self._capacity = 0
        self._thread = threading.Thread(target=self._run, name=f"esper-sink-{guard.name}", daemon=True)

    def in_child(self) -> None:
        super().in_child()
        self._wake = threading.Condition(threading.Lock())
        self._in_hand = 0
        self._drop_all()

    def open(self) -> None:
        self._thread.start()

    def begin_close(self, reason: object) -> None:
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

    def pending(self) -> int:
        return self._held() + self._in_hand

    def report(self) -> SinkAccount:
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


class QueueChannel(_ThreadChannel):
    """Delivers every event, in order, until the bounded queue is full (``all``).

    Args:
        guard: catches and counts what the sink raises.
        deliver: calls the sink.
        size: the number of events that the queue holds.
        patience_s: the longest time that the emitter waits before an event of the same or higher priority is dropped.
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
        **hooks: Any,
    ) -> None:
        super().__init__(guard, deliver, **hooks)
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
            self._wake.notify_all()
        if lost:
            self.guard.lose(lost, f"too slow: its queue of {self._capacity} events is full")

    def flush(self, timeout_s: float) -> bool:
        """Wait until all accepted events are delivered; return False when they are not after ``timeout_s`` seconds."""
        with self._wake:
            return self._wake.wait_for(lambda: not self.pending(), timeout_s)

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


class LatestChannel(_ThreadChannel):
    """Delivers the newest event of each hook (``latest``), for displays. A replaced event does not count as lost."""

    delivery = "latest"

    def __init__(self, guard: Guard, deliver: Callable[[str, Any], object], **hooks: Any) -> None:
        super().__init__(guard, deliver, **hooks)
        self._newest: dict[str, Any] = {}

    def put(self, hook: str, event: Any) -> None:
        """Store one event; it replaces an older undelivered event of the same hook."""
        if os.getpid() != self._pid:
            return
        if self.guard.is_disabled():
            self.guard.lose(1)
            return
        with self._wake:
            if self._reason is not None:
                self.guard.lose(1)
                return
            # Remove and append again, so that events are delivered in the order in which they were emitted.
            self._coalesced += self._newest.pop(hook, None) is not None
            self._newest[hook] = event
            self._wake.notify_all()

    def _take(self) -> tuple[str, Any] | None:
        if not self._newest:
            return None
        hook = next(iter(self._newest))
        return hook, self._newest.pop(hook)

    def _held(self) -> int:
        return len(self._newest)
