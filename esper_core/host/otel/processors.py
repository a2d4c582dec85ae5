"""Guarded wrappers of the processors and metric readers that sinks contribute. Imported only with the SDK.

Ended spans and log records go through a queue and a thread, so that an exporter that is slow or hangs never blocks the
trainer. ``on_start`` runs in the trainer's thread, because a processor may set attributes on the span. It is called for
processors that implement it; exceptions are caught, and after five failures in a row the processor is disabled.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from esper_core.host.deliver.channel import LAST_STEPS_S
from esper_core.host.deliver.closing import Closable
from esper_core.host.deliver.queue_channel import QueueChannel

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.trace import Span

    from esper_core.host.deliver.guard import Guard
    from esper_core.reading.account import SinkAccount

__all__ = ["GuardedReader", "GuardedSpanProcessor", "QueuedProcessor"]

_QUEUE_SIZE: Final = 2048
_LINGER_S: Final = 0.05
"""Processors batch for seconds themselves."""
_QUIET_STARTS: Final = (SpanProcessor.on_start, BatchSpanProcessor.on_start)
_PRIORITY_OF: Final = "esper_ppo_updated"
"""Spans and log records have an update's priority."""


class QueuedProcessor(Closable):
    """A processor behind a queue and a thread of its own.

    Args:
        inner: the processor that the sink contributed.
        guard: catches and counts what it raises; its name is ``sink/Class``.
        method: the method that takes an item; looked up at each call, so that a missing one is the sink's failure.
        delivery: what it is, for reports.
        patient: wait for room in the queue instead of dropping items (replay).
    """

    def __init__(self, inner: Any, guard: Guard, method: str, delivery: str, *, patient: bool) -> None:
        self.guard = guard
        self._inner = inner
        self._channel = QueueChannel(
            guard,
            lambda _, item: getattr(inner, method)(item),
            size=_QUEUE_SIZE,
            patience_s=30.0 if patient else 0.05,
            once=not patient,
            linger_s=_LINGER_S,
            closer=lambda _: inner.shutdown(),
        )
        self._channel.delivery = delivery
        self._channel.counts_itself = True  # the sink may: an item in hand is not to be counted twice
        self._channel.open()

    def shutdown(self) -> None:
        """Do nothing: the host closes the processor within its deadline."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Call the processor's ``force_flush``; exceptions are caught and counted."""
        flushed = self._channel.flush(timeout_millis / 1000)
        return self.guard.call(lambda: self._inner.force_flush(timeout_millis), counts=False) == "ok" and flushed

    def in_child(self) -> None:
        """In a forked child: nothing is queued here."""
        self._channel.in_child()

    def begin_close(self, reason: object) -> None:
        """Start delivering the queued items, then shutting the processor down. Returns at once."""
        self._channel.begin_close(reason)

    def closed(self, timeout_s: float) -> bool:
        """Wait for the end of it."""
        return self._channel.closed(timeout_s)

    def cut_off(self) -> None:
        """Give up on it."""
        self._channel.cut_off()

    def put(self, item: Any) -> None:
        """Queue an item. Any thread; never raises."""
        self._channel.put(_PRIORITY_OF, item)

    def pending(self) -> int:
        """The number of items not yet delivered."""
        return self._channel.pending()

    def report(self) -> SinkAccount:
        """Its counters now."""
        return self._channel.report()


class GuardedSpanProcessor(QueuedProcessor, SpanProcessor):
    """One contributed span processor; the arguments are those of every queued one."""

    def __init__(self, inner: SpanProcessor, guard: Guard, *, patient: bool = False) -> None:
        super().__init__(inner, guard, "on_end", "span processor", patient=patient)
        self._starts = getattr(type(inner), "on_start", None) not in _QUIET_STARTS

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Call the processor's own ``on_start``; exceptions are caught and counted."""
        if self._starts and not self.guard.is_disabled():
            self.guard.call(self._inner.on_start, span, parent_context, counts=False)

    def on_end(self, span: ReadableSpan) -> None:
        """Queue an ended span."""
        self.put(span)


class GuardedReader(Closable):
    """One contributed metric reader. It collects in its own thread; this class closes it and reports its counters.

    Args:
        inner: the reader that the sink contributed.
        guard: catches and counts what it raises; its name is ``sink/Class``.
        timeout_s: passed to its ``shutdown`` as the time limit.
    """

    def __init__(self, inner: MetricReader, guard: Guard, *, timeout_s: float) -> None:
        self.inner = inner
        self.guard = guard
        self._timeout_s = timeout_s
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def in_child(self) -> None:
        """In a forked child: collect nothing. The SDK starts a periodic reader's thread there again, after this."""
        self.guard.in_child()
        with contextlib.suppress(AttributeError):  # no public method of the SDK detaches a reader without an export
            self.inner._set_collect_callback(_collect_nothing)  # noqa: SLF001  # as said above

    def begin_close(self, reason: object) -> None:  # noqa: ARG002  # a reader's shutdown takes no reason
        """Start its shutdown, in a daemon thread."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._shut, name=f"esper-close-{self.guard.name}", daemon=True)
            self._thread.start()

    def _shut(self) -> None:
        with contextlib.suppress(BaseException):
            self.guard.call(self.inner.shutdown, timeout_millis=self._timeout_s * 1000, counts=False)
        self._done.set()

    def closed(self, timeout_s: float) -> bool:
        """Wait for the end of it."""
        finished = self._done.wait(timeout_s)
        if finished:
            if self._thread is not None:
                self._thread.join(LAST_STEPS_S)
            self.guard.close("closed")
        return finished

    def cut_off(self) -> None:
        """Give up on it."""
        self.guard.close("cut_off", message="cut off at the deadline")

    def report(self) -> SinkAccount:
        """Its counters now."""
        return self.guard.snapshot(delivery="metric reader")


def _collect_nothing(*_: object, **__: object) -> Any:
    """What a reader collects from in a forked child: nothing, so that it exports nothing."""
