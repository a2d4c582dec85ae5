"""One thread a signal: takes batches from a source, sends them, waits when the receiver is away, counts what is lost.

The SDK's own exporters lose a batch after one deadline and hold an ending process for 13 to 20 s when the Collector
is away. This one keeps the batch until the receiver is back (the source's queue is bounded), and ends inside the
time it is given.
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from esper_sink_otlp.config import Signal
    from esper_sink_otlp.transport import Answer, Transport

__all__ = ["Batch", "Counts", "Exporter", "Source", "StateChange"]

_FIRST_BACKOFF_S: Final = 0.5
_LONGEST_BACKOFF_S: Final = 15.0
_LONGEST_RETRY_AFTER_S: Final = 60.0
_SHORTEST_FINAL_TRY_S: Final = 0.05


class Batch(Protocol):
    """What one request carries."""

    @property
    def items(self) -> int:
        """Spans or gauge points of events in it: what is counted when it is lost."""

    def encode(self) -> bytes:
        """The serialised ``Export<Signal>ServiceRequest``."""

    def halves(self) -> Sequence[Batch]:
        """Two smaller batches, or none when it cannot be divided."""


class Source(Protocol):
    """Where batches come from. ``take`` and ``restore`` are called by the exporter's thread only."""

    def wait_s(self) -> float:
        """Seconds until a batch is due, unless the exporter is woken before."""

    def take(self, *, final: bool) -> Batch | None:
        """The next batch that is due; when ``final``, whatever is left."""

    def restore(self, batch: Batch) -> None:
        """Take back a batch that could not be sent now."""

    def forget(self) -> int:
        """Give up everything that waits; returns how many items that is."""


@dataclass(kw_only=True, slots=True)
class Counts:
    """What became of a signal's items. Written by the exporter's thread, read by any.

    Attributes:
        requests: requests the receiver took.
        failures: requests that failed, retries included.
        sent: items the receiver took.
        rejected: items the receiver refused (invalid, unauthorised, partial success).
        unsent: items that were still waiting when the run's end allowed no more time.
    """

    requests: int = 0
    failures: int = 0
    sent: int = 0
    rejected: int = 0
    unsent: int = 0

    @property
    def lost(self) -> int:
        """Items that were taken from the queue and did not arrive."""
        return self.rejected + self.unsent


@dataclass(frozen=True, kw_only=True, slots=True)
class StateChange:
    """The receiver began to fail, or took data again."""

    signal: Signal
    state: Literal["failing", "recovered"]
    message: str


class Exporter:
    """Sends one signal.

    Args:
        signal: traces or metrics.
        transport: how requests travel.
        source: what is sent.
        timeout_s: of one request.
        batch_bytes: a larger request is halved before it is sent.
        on_change: hears of the first failure and of the recovery; called in the exporter's thread.
    """

    def __init__(
        self,
        signal: Signal,
        transport: Transport,
        source: Source,
        *,
        timeout_s: float,
        batch_bytes: int,
        on_change: Callable[[StateChange], None],
    ) -> None:
        self.signal = signal
        self.counts = Counts()
        self.last_answer: Answer | None = None
        self._transport = transport
        self._source = source
        self._timeout_s = timeout_s
        self._batch_bytes = batch_bytes
        self._on_change = on_change
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._closing = False
        self._abandoned = False
        self._deadline = float("inf")
        self._failing_since: float | None = None
        self._backoff_s = _FIRST_BACKOFF_S
        self._in_flight = 0
        self._thread = threading.Thread(target=self._run, name=f"esper-otlp-{signal}", daemon=True)
        self._closed = threading.Event()
        self._answered = threading.Event()

    # --- any thread ---------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def wake(self) -> None:
        """Something may be due before the source's own time."""
        self._wake.set()

    @property
    def failing(self) -> bool:
        """Whether the last request failed in a way that may pass."""
        return self._failing_since is not None

    def close(self, timeout_s: float) -> bool:
        """Send what is left, within ``timeout_s``. Idempotent; a second caller waits for the first.

        Returns:
            True when the thread ended by itself; False when it was given up. What had not arrived is counted.
        """
        with self._lock:
            first, self._closing = not self._closing, True
            if first:
                self._deadline = time.monotonic() + timeout_s
        self._wake.set()
        if not first:
            return self._closed.wait(timeout_s)
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        ended = not self._thread.is_alive()
        with self._lock:
            self._abandoned = True
            self.counts.unsent += self._in_flight + self._source.forget()
            self._in_flight = 0
        self._transport.close()
        self._closed.set()
        return ended

    def wait_closed(self, timeout_s: float) -> bool:
        """Wait for somebody else's ``close``."""
        return self._closed.wait(timeout_s)

    def wait_answer(self, timeout_s: float) -> bool:
        """Wait for the first answer, good or bad."""
        self.wake()
        return self._answered.wait(timeout_s)

    # --- the exporter's thread ----------------------------------------------------------------

    def _run(self) -> None:
        while not self._abandoned:
            batch = self._source.take(final=self._closing)
            if batch is not None:
                if not self._deliver(batch):
                    return
                continue
            if self._closing:
                return
            self._wake.wait(self._source.wait_s())
            self._wake.clear()

    def _deliver(self, batch: Batch) -> bool:
        """Send a batch and settle what became of it. False: the run ends and there is no use in trying on."""
        body = batch.encode()
        if len(body) > self._batch_bytes and (halves := batch.halves()):
            return self._deliver_all(halves)
        final = self._closing
        left_s = self._deadline - time.monotonic() if final else self._timeout_s
        if left_s < _SHORTEST_FINAL_TRY_S:
            self._source.restore(batch)
            return False
        with self._lock:
            self._in_flight = batch.items
        answer = self._transport.send(body, min(self._timeout_s, left_s))
        with self._lock:
            if self._abandoned:
                return False  # close() has counted the batch as unsent and stopped listening
            self._in_flight = 0
            self.last_answer = answer
        self._answered.set()
        if answer.ok:
            self._succeeded(batch, answer)
            return True
        self.counts.failures += 1
        if answer.too_large and (halves := batch.halves()):
            return self._deliver_all(halves)
        if not answer.retryable:
            self.counts.rejected += batch.items
            self._failed(f"{self.signal} do not arrive: {answer.cause} ({answer.hint})")
            return True
        self._source.restore(batch)
        was_failing = self.failing
        self._failed(f"{self.signal} do not arrive: {answer.cause} ({answer.hint})")
        if self._closing and was_failing:
            return False  # it was away before the end: waiting longer would hold the process for nothing
        return self._back_off(answer)

    def _deliver_all(self, batches: Sequence[Batch]) -> bool:
        for position, batch in enumerate(batches):
            if not self._deliver(batch):
                for rest in batches[position + 1 :]:
                    self._source.restore(rest)
                return False
        return True

    def _succeeded(self, batch: Batch, answer: Answer) -> None:
        self.counts.requests += 1
        self.counts.sent += batch.items - min(answer.rejected, batch.items)
        self.counts.rejected += min(answer.rejected, batch.items)
        self._backoff_s = _FIRST_BACKOFF_S
        if answer.rejected:
            self._failed(
                f"the receiver rejected {answer.rejected} of {batch.items} {self.signal}: "
                f"{answer.cause or 'without a reason'}"
            )
        elif self._failing_since is not None:
            away_s = time.monotonic() - self._failing_since
            self._failing_since = None
            self._tell("recovered", f"{self.signal} arrive again after {away_s:.1f} s")

    def _failed(self, message: str) -> None:
        if self._failing_since is None:
            self._failing_since = time.monotonic()
            self._tell("failing", message)

    def _back_off(self, answer: Answer) -> bool:
        """Wait before the next try. New items and wake-ups do not shorten it, the end does."""
        pause_s = self._backoff_s * random.uniform(0.8, 1.2)
        self._backoff_s = min(_LONGEST_BACKOFF_S, self._backoff_s * 2)
        if answer.retry_after_s is not None:
            pause_s = min(_LONGEST_RETRY_AFTER_S, max(pause_s, answer.retry_after_s))
        until = time.monotonic() + pause_s
        while (left_s := until - time.monotonic()) > 0:
            if self._closing:
                # A short outage at the very end: try again soon, inside the time that is left.
                left_s = min(left_s, _FIRST_BACKOFF_S)
                time.sleep(max(0.0, min(left_s, self._deadline - time.monotonic())))
                return True
            self._wake.wait(left_s)
            self._wake.clear()
        return True

    def _tell(self, state: Literal["failing", "recovered"], message: str) -> None:
        self._on_change(StateChange(signal=self.signal, state=state, message=message))
