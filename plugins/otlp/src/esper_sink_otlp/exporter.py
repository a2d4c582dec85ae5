"""One thread a signal: takes batches from a source, sends them, waits when the receiver is away, counts what is lost.

The SDK's exporters lose a batch after one deadline, and hold an ending process for 13 to 20 s when the Collector is
away. Around them, this one keeps the batch until the receiver is back (the source's queue is bounded), and ends inside
the time it is given.
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from esper_sink_otlp.answer import Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from esper_sink_otlp.backlog import Account, Backlog
    from esper_sink_otlp.config import Signal

__all__ = ["Batch", "Exporter", "Sends", "Source", "StateChange"]

_FIRST_BACKOFF_S: Final = 0.5
_LONGEST_BACKOFF_S: Final = 15.0
_LONGEST_RETRY_AFTER_S: Final = 60.0
_FINAL_PAUSE_S: Final = 0.25
"""Between two tries at the end: a receiver that comes back within the deadline is found."""
_FINAL_TRIES_S: Final = 0.4
"""A receiver that is away at the end is tried for so long: more would hold the process for nothing."""
_SHORTEST_FINAL_TRY_S: Final = 0.05


class Batch(Protocol):
    """What one request carries."""

    @property
    def items(self) -> int:
        """Spans, log records or gauge points of events in it: what is counted when it is lost."""

    @property
    def payload(self) -> Any:
        """What ``export`` of the SDK's exporter takes."""

    @property
    def size_bytes(self) -> int:
        """The request's size before compression, estimated."""

    def halves(self) -> Sequence[Batch]:
        """Two smaller batches, or none when it cannot be divided."""


class Source(Protocol):
    """Where batches come from. ``take`` and ``restore`` are called by the exporter's thread only."""

    @property
    def backlog(self) -> Backlog[Any]:
        """What waits, and the account of it."""

    def wait_s(self) -> float:
        """Seconds until a batch is due, unless the exporter is woken before."""

    def take(self, *, final: bool) -> Batch | None:
        """The next batch that is due; when ``final``, whatever is left."""

    def restore(self, batch: Batch) -> None:
        """Take back a batch that could not be sent now."""


class Sends(Protocol):
    """Sends one request; ``sender.Sender`` does. ``close`` may come from another thread."""

    def send(self, payload: Any, timeout_s: float) -> Answer:
        """Never raises; waits at most about ``timeout_s``."""

    def close(self) -> None:
        """Let go of connections. A request that is under way may end in an error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StateChange:
    """The receiver began to fail, or took data again."""

    signal: Signal
    state: Literal["failing", "recovered"]
    message: str


class Exporter:
    """Sends one signal.

    Args:
        signal: traces, metrics or logs.
        sender: how requests travel.
        source: what is sent, and the account of it.
        timeout_s: of one request.
        batch_bytes: a larger request is halved before it is sent.
        on_change: hears of the first failure and of the recovery; called in the exporter's thread.
        on_answer: hears of every answer; called there too.

    Attributes:
        requests: requests the receiver took.
        failures: requests that failed, retries included.
        last_answer: of the newest request.
    """

    def __init__(
        self,
        signal: Signal,
        sender: Sends,
        source: Source,
        *,
        timeout_s: float,
        batch_bytes: int,
        on_change: Callable[[StateChange], None],
        on_answer: Callable[[Answer], None] = lambda _: None,
    ) -> None:
        self.signal = signal
        self.requests = 0
        self.failures = 0
        self.last_answer: Answer | None = None
        self._sender = sender
        self._source = source
        self._timeout_s = timeout_s
        self._batch_bytes = batch_bytes
        self._on_change = on_change
        self._on_answer = on_answer
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._closing = False
        self._closing_at = float("inf")
        self._deadline = float("inf")
        self._failing_since: float | None = None
        self._backoff_s = _FIRST_BACKOFF_S
        self._thread = threading.Thread(target=self._run, name=f"esper-otlp-{signal}", daemon=True)
        self._closed = threading.Event()
        self._answered = threading.Event()
        source.backlog.wake = self.wake

    # --- any thread ---------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def wake(self) -> None:
        """Something may be due before the source's own time."""
        self._wake.set()

    @property
    def account(self) -> Account:
        """What became of the signal's items."""
        return self._source.backlog.account

    @property
    def failing(self) -> bool:
        """Whether the last request failed."""
        return self._failing_since is not None

    def close(self, timeout_s: float) -> bool:
        """Send what is left, within ``timeout_s``. Idempotent; a second caller waits for the first.

        Returns:
            True when the thread ended by itself; False when it was given up. What was not acknowledged is lost.
        """
        with self._lock:
            first, self._closing = not self._closing, True
            if first:
                self._closing_at = time.monotonic()
                self._deadline = self._closing_at + timeout_s
        self._wake.set()
        if not first:
            return self._closed.wait(timeout_s)
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        ended = not self._thread.is_alive()
        self._source.backlog.close()
        self._sender.close()
        self._closed.set()
        return ended

    def give_up(self) -> None:
        """Take and settle nothing more: what was not acknowledged is lost. Returns at once; any thread."""
        self._source.backlog.close()
        self._wake.set()

    def wait_closed(self, timeout_s: float) -> bool:
        """Wait for somebody else's ``close``."""
        return self._closed.wait(timeout_s)

    def wait_answer(self, timeout_s: float) -> bool:
        """Wait for the first answer, good or bad."""
        self.wake()
        return self._answered.wait(timeout_s)

    # --- the exporter's thread ----------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._send_until_closed()
        except Exception as error:  # noqa: BLE001  # a thread that dies unheard loses everything behind it
            self._tell("failing", f"{self.signal} are sent no more, an error in the sink: {_words(error)}")

    def _send_until_closed(self) -> None:
        while not self.account.closed:
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
        if batch.size_bytes > self._batch_bytes and (halves := batch.halves()):
            return self._deliver_all(halves)
        left_s = min(self._timeout_s, self._deadline - time.monotonic())
        if left_s < min(_SHORTEST_FINAL_TRY_S, self._timeout_s):
            self._source.restore(batch)
            return False
        answer = self._send(batch, left_s)
        if self.account.closed:
            return False  # close() has counted the batch as lost and stopped listening
        self.last_answer = answer
        self._on_answer(answer)
        if answer.ok:
            self._succeeded(batch, answer)
            self._answered.set()
            return True
        self._answered.set()
        self.failures += 1
        if answer.divisible and (halves := batch.halves()):
            return self._deliver_all(halves)
        message = f"{self.signal} do not arrive: {answer.cause}" + (f" ({answer.hint})" if answer.hint else "")
        if not answer.retryable:
            self._source.backlog.settle(rejected=batch.items)
            self._failed(message)
            return True
        self._source.restore(batch)
        self._failed(message)
        return not self._is_hopeless() and self._back_off(answer)

    def _is_hopeless(self) -> bool:
        """Whether the end has tried a receiver that is away for long enough."""
        if not self._closing or self._failing_since is None:
            return False
        return time.monotonic() - max(self._closing_at, self._failing_since) > _FINAL_TRIES_S

    def _send(self, batch: Batch, timeout_s: float) -> Answer:
        try:
            payload = batch.payload
        except Exception as error:  # noqa: BLE001  # one event that cannot be turned into points costs itself alone
            return Answer(ok=False, cause=f"it cannot be made: {_words(error)}", divisible=True)
        return self._sender.send(payload, timeout_s)

    def _deliver_all(self, batches: Sequence[Batch]) -> bool:
        for position, batch in enumerate(batches):
            if not self._deliver(batch):
                for rest in reversed(batches[position + 1 :]):
                    self._source.restore(rest)
                return False
        return True

    def _succeeded(self, batch: Batch, answer: Answer) -> None:
        rejected = min(answer.rejected, batch.items)
        self._source.backlog.settle(delivered=batch.items - rejected, rejected=rejected)
        self.requests += 1
        self._backoff_s = _FIRST_BACKOFF_S
        if answer.rejected:
            self._failed(
                f"the receiver rejected {answer.rejected} of its {self.signal}: {answer.cause or 'without a reason'}"
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
                left_s = min(left_s, _FINAL_PAUSE_S)
                time.sleep(max(0.0, min(left_s, self._deadline - time.monotonic())))
                return True
            self._wake.wait(left_s)
            self._wake.clear()
        return True

    def _tell(self, state: Literal["failing", "recovered"], message: str) -> None:
        self._on_change(StateChange(signal=self.signal, state=state, message=message))


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
