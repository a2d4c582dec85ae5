"""Isolates one sink: catches and counts what it raises, counts what it loses, and times its calls.

A guard belongs to one sink, or to one span processor that a sink contributed. Its counters are written by the thread
that delivers and by the thread that emits, and read by the heartbeat, so every change happens under its lock.
"""

from __future__ import annotations

import operator
import threading
import time
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from esper_core import forks
from esper_core.errors import error_text
from esper_core.events import EVENTS, PPOUpdatePayload, SinkState, SinkStatusChanged
from esper_core.host.deliver.sink_report import wrong_report
from esper_core.host.process.started import running
from esper_core.masking import redact
from esper_core.reading.account import SinkAccount

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

__all__ = ["CallResult", "Guard"]

CallResult: TypeAlias = Literal["ok", "failed", "retry"]
"""ok: the call returned; failed: it raised; retry: it raised an I/O error, so try again after ``retry_delay_s``."""

FIRST_BACKOFF_S: Final = 0.25
LONGEST_BACKOFF_S: Final = 10.0
SLOW_CALL_S: Final = 0.5
_UPDATE: Final = EVENTS[PPOUpdatePayload.kind].hook


class Guard:
    """Catches exceptions of, times and counts every call into one sink.

    Args:
        name: the sink's name.
        distribution: where it came from.
        version: of the distribution.
        owner: the sink as the owner of what it starts, in words.
        keeps_record: whether the sink keeps the run's record.
        max_failures: failures in a row after which it is disabled.
        logger: writes to ``trainer.log``.
        on_change: receives every change of state; called under no lock, from any thread.
        on_interrupt: called after a KeyboardInterrupt was caught in the sink's code: it may be the user's Ctrl-C.
        clock: monotonic seconds; the sink's channel uses it too.
    """

    def __init__(
        self,
        name: str,
        *,
        distribution: str = "",
        version: str = "",
        owner: str = "",
        keeps_record: bool = False,
        max_failures: int = 5,
        logger: logging.Logger | None = None,
        on_change: Callable[[SinkStatusChanged], None] | None = None,
        on_interrupt: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.distribution = distribution
        self.version = version
        self.keeps_record = keeps_record
        self.owner = owner or f"sink {name}"
        self._max_failures = max_failures
        self._logger = logger
        self._on_change = on_change
        self._on_interrupt = on_interrupt
        self.clock = clock
        self._lock = threading.Lock()
        self._state: SinkState = "ok"
        self._delivered = 0
        self._lost = 0
        self._failures = 0
        self._in_a_row = 0
        self._io_in_a_row = 0
        self._io_hooks: set[str] = set()
        self._retry_at = 0.0
        self._losing = False
        self._told = False
        self._misreporting = False
        self._final = False
        self._slowest_s = 0.0
        self._message = ""
        self.place = forks.Place(f"sink {name}")
        self._came_back_before = self.place.came_back

    # --- calls --------------------------------------------------------------------------------

    def call(
        self, function: Callable[..., object], /, *args: Any, counts: bool = True, hook: str = "", **kwargs: Any
    ) -> CallResult:
        """Call into the sink. An exception that it raises, SystemExit included, is caught and counted.

        Args:
            function: the sink's code.
            args: passed to ``function``.
            counts: False for a call that delivers no event (``shutdown``): its success does not count as a delivery.
            hook: the hook that is delivered. The sink has recovered from an I/O error when a call of the same hook
                succeeds, or of the update hook: a full disk that refuses every update still takes a short line.
            kwargs: passed to ``function``.
        """
        begun = self.clock()
        process = forks.process()
        before, running.owner = running.owner, self.owner
        try:
            function(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001  # a sink may raise anything; even SystemExit stays here
            if forks.process() != process:
                self.place.end(error)
            return self._failed(error, begun, hook)
        finally:
            running.owner = before
        if forks.process() != process:
            self.place.end()
        self._succeeded(begun, counts=counts, hook=hook)
        return "ok"

    def _succeeded(self, begun: float, *, counts: bool, hook: str) -> None:
        change = None
        with self._lock:
            if self._final:
                return
            spent = self._timed(begun)
            self._delivered += counts
            over = not self._io_in_a_row or hook == _UPDATE or hook in self._io_hooks
            if (self._in_a_row or self._io_in_a_row) and over:
                self._in_a_row = self._io_in_a_row = 0
                self._io_hooks.clear()
                # A failure that the sink reported (an export) ends with the sink's report, not when a hook returns.
                if not self._losing and not self._told and self._state == "failing":
                    change = self._change("recovered", f"works again, {self._lost} events lost so far")
        if spent > SLOW_CALL_S and self._logger is not None:
            self._logger.warning("sink %s: one call took %.2f s", self.name, spent)
        self._tell(change)

    def _failed(self, error: BaseException, begun: float, hook: str) -> CallResult:
        message = redact(error_text(error))
        retry = isinstance(error, OSError)
        change = None
        with self._lock:
            if self._final:
                return "failed"
            self._timed(begun)
            self._failures += 1
            if retry:
                delay = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2**self._io_in_a_row)
                self._io_in_a_row += 1
                self._io_hooks.add(hook)
                self._retry_at = self.clock() + delay
                if self._state in {"ok", "recovered"}:
                    change = self._change("failing", f"{message}; will try again")
            else:
                self._lost += 1
                self._in_a_row += 1
                if self._in_a_row >= self._max_failures and self._state != "disabled":
                    change = self._change("disabled", f"disabled after {self._in_a_row} failures in a row: {message}")
                elif self._state in {"ok", "recovered"}:
                    change = self._change("failing", message)
        if self._logger is not None:
            self._logger.warning("sink %s failed: %s", self.name, message, exc_info=error)
        if isinstance(error, KeyboardInterrupt) and self._on_interrupt is not None:
            self._on_interrupt()
        self._tell(change)
        return "retry" if retry else "failed"

    def _timed(self, begun: float) -> float:
        spent = self.clock() - begun
        self._slowest_s = max(self._slowest_s, spent)
        return spent

    # --- losses -------------------------------------------------------------------------------

    def lose(self, count: int, why: str = "") -> None:
        """Count events that were never delivered. The first loss of a series changes the state to ``failing``."""
        change = None
        with self._lock:
            if self._final or not count:
                return
            self._lost += count
            if why and not self._losing and self._state != "disabled":
                self._losing = True
                if self._state in {"ok", "recovered"}:
                    change = self._change("failing", why)
        self._tell(change)

    def drained(self) -> None:
        """End a series of losses. The channel calls this when its queue is empty."""
        if not self._losing:
            return
        change = None
        with self._lock:
            self._losing = False
            if self._state == "failing" and not self._in_a_row and not self._io_in_a_row and not self._told:
                change = self._change("recovered", f"keeps up again, {self._lost} events lost so far")
        self._tell(change)

    def disable(self, why: str) -> None:
        """Disable the sink: no event is delivered from now on."""
        with self._lock:
            change = self._change("disabled", why) if not self._final and self._state != "disabled" else None
        self._tell(change)

    def report(self, state: SinkState, message: str, lost: int = 0) -> None:
        """Record what the sink reports of itself (``SinkContext.report``): losses outside hook calls, a state.

        Never raises, because a sink may report from a thread that an exception would end. An invalid report is a
        failure of the sink: no number of it is added, and the sink stays failing until it sends a valid one.
        """
        wrong = wrong_report(state, message, lost)
        if wrong:
            self._misreported(wrong)
            return
        change = None
        with self._lock:
            if self._final:
                return
            self._lost += operator.index(lost)
            if self._state == "disabled":
                return
            self._told, self._misreporting = state == "failing", False
            if state != self._state and (state != "recovered" or self._state == "failing"):
                change = self._change(state, redact(message))
        self._tell(change)

    def _misreported(self, wrong: str) -> None:
        words = redact(f"context.report: {wrong}")
        change = None
        with self._lock:
            if self._final:
                return
            self._failures += 1
            first = not self._misreporting
            self._misreporting = self._told = True
            if first and self._state != "disabled":
                change = self._change("failing", words)
        if first and self._logger is not None:
            self._logger.warning("sink %s failed: %s", self.name, words)
        self._tell(change)

    # --- ends ---------------------------------------------------------------------------------

    def close(self, state: SinkState, *, lost: int = 0, message: str = "") -> None:
        """Set the final state, ``closed`` or ``cut_off``. A thread that returns later changes no counter."""
        with self._lock:
            if self._final:
                return
            self._lost += lost
            self._final = True
            if came_back := self.place.came_back - self._came_back_before:
                self._failures += came_back
                message = message or self._message or forks.CAME_BACK
            if self._state == "disabled" and self._message:
                message = self._message  # why it was of no use counts more than that its thread never came back
            if state == "cut_off" or self._state != "disabled":
                self._state = state
            self._message = message or self._message

    def in_child(self) -> None:
        """In a forked child: a thread that is gone may hold the lock."""
        self._lock = threading.Lock()

    # --- state and counters -------------------------------------------------------------------

    def is_disabled(self) -> bool:
        """True when no event is delivered any more: the sink is disabled, or its counters are final."""
        return self._state == "disabled" or self._final

    @property
    def retry_delay_s(self) -> float:
        """Seconds until the next attempt after an I/O error; 0 when the last call raised none."""
        return max(0.0, self._retry_at - self.clock()) if self._io_in_a_row else 0.0

    def snapshot(
        self, *, delivery: str, queued: int = 0, capacity: int = 0, lag_s: float | None = 0.0, coalesced: int = 0
    ) -> SinkAccount:
        """The counters at one moment."""
        with self._lock:
            return SinkAccount(
                name=self.name,
                distribution=self.distribution,
                version=self.version,
                delivery=delivery,
                state=self._state,
                delivered=self._delivered,
                lost=self._lost,
                coalesced=coalesced,
                failures=self._failures,
                queued=queued,
                capacity=capacity,
                lag_s=lag_s,
                slowest_s=self._slowest_s,
                message=self._message,
                keeps_record=self.keeps_record,
            )

    # --- inside -------------------------------------------------------------------------------

    def _change(self, state: SinkState, message: str) -> SinkStatusChanged:
        """Set the state; return the event that reports it. The caller holds the lock, and emits after releasing it."""
        self._state = state
        self._message = message
        return SinkStatusChanged(
            sink=self.name,
            distribution=self.distribution,
            version=self.version,
            state=state,
            delivered=self._delivered,
            lost=self._lost,
            failures=self._failures,
            message=message,
        )

    def _tell(self, change: SinkStatusChanged | None) -> None:
        if change is not None and self._on_change is not None:
            self._on_change(change)
