"""The span processor that the sink contributes, and the source of its exporter.

Own rather than the SDK's batch processor: that one loses a batch whose export failed, ignores its flush timeout and
keeps the newest by dropping the oldest without a number anyone sees.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import Span

    from esper_sink_otlp.exporter import Batch
    from esper_sink_otlp.settings import SpanSettings

__all__ = ["SpanQueue", "SpanSource"]

_REPLAY_PATIENCE_S = 30.0
"""How long a replay waits for a place in the queue before it counts a span as dropped."""


@dataclass(frozen=True, slots=True)
class SpanBatch:
    """Ended spans, oldest first."""

    spans: Sequence[ReadableSpan]

    @property
    def items(self) -> int:
        """Spans in it."""
        return len(self.spans)

    def encode(self) -> bytes:
        """An ``ExportTraceServiceRequest``."""
        body: bytes = encode_spans(self.spans).SerializeToString()
        return body

    def halves(self) -> Sequence[SpanBatch]:
        """Two batches, or none for a single span."""
        middle = len(self.spans) // 2
        return (SpanBatch(self.spans[:middle]), SpanBatch(self.spans[middle:])) if middle else ()


class SpanSource:
    """A bounded queue of ended spans. When it is full the oldest is dropped and counted.

    Args:
        settings: sizes and delay.
        patient: a replay waits for a place instead of dropping.
    """

    def __init__(self, settings: SpanSettings, *, patient: bool = False) -> None:
        self._settings = settings
        self._patient = patient
        self._queue: deque[ReadableSpan] = deque()
        self._returned: deque[SpanBatch] = deque()
        self._changed = threading.Condition()
        self._taken_at = time.monotonic()
        self._closed = False
        self.dropped = 0
        self.wake: Callable[[], None] = lambda: None

    def put(self, span: ReadableSpan) -> None:
        """Queue an ended span. In the thread that ended it: live, it never waits."""
        with self._changed:
            if self._closed:
                self.dropped += 1
                return
            if len(self._queue) >= self._settings.queue_size:
                self.wake()
                if not self._patient or not self._changed.wait_for(self._has_place, _REPLAY_PATIENCE_S):
                    self._queue.popleft()
                    self.dropped += 1
            self._queue.append(span)
            due = len(self._queue) >= self._settings.batch_size
        if due:
            self.wake()

    def _has_place(self) -> bool:
        return len(self._queue) < self._settings.queue_size

    @property
    def waiting(self) -> int:
        """Spans that wait."""
        return len(self._queue) + sum(batch.items for batch in self._returned)

    def wait_s(self) -> float:
        """Seconds until the delay is over."""
        return max(0.01, self._settings.delay_s - (time.monotonic() - self._taken_at))

    def take(self, *, final: bool) -> Batch | None:
        """Returned batches first; then a full batch, or what there is once the delay is over."""
        if self._returned:
            return self._returned.popleft()
        over = time.monotonic() - self._taken_at >= self._settings.delay_s
        with self._changed:
            if not (final or over or len(self._queue) >= self._settings.batch_size):
                return None
            self._taken_at = time.monotonic()
            count = min(len(self._queue), self._settings.batch_size)
            spans = [self._queue.popleft() for _ in range(count)]
            self._changed.notify_all()
        return SpanBatch(spans) if spans else None

    def restore(self, batch: Batch) -> None:
        """Keep a batch, in its old order, until the receiver is back."""
        assert isinstance(batch, SpanBatch)  # only what take() gave  # noqa: S101
        self._returned.append(batch)

    def forget(self) -> int:
        """Give up what waits and take nothing more."""
        with self._changed:
            count = self.waiting
            self._closed = True
            self._queue.clear()
            self._returned.clear()
            self._changed.notify_all()
        return count


class SpanQueue(SpanProcessor):
    """Puts ended, sampled spans into the source. In the trainer's thread; costs an append."""

    def __init__(self, source: SpanSource, close: Callable[[], object], flush: Callable[[float], bool]) -> None:
        self._source = source
        self._close = close
        self._flush = flush

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing to do."""

    def on_end(self, span: ReadableSpan) -> None:
        """Queue the span when it is sampled."""
        context = span.context
        if context is not None and context.trace_flags.sampled:
            self._source.put(span)

    def shutdown(self) -> None:
        """Send what is left, inside the sink's own limit."""
        self._close()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Wait until everything queued so far was sent."""
        return self._flush(timeout_millis / 1000)
