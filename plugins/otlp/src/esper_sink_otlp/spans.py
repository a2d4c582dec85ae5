"""The span processor that the sink contributes, and the source of its exporter.

Own rather than the SDK's batch processor: that one loses a batch whose export failed, ignores its flush timeout and
keeps the newest by dropping the oldest without a number anyone sees.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

from esper_sink_otlp.backlog import Backlog

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import Span

    from esper_sink_otlp.exporter import Batch
    from esper_sink_otlp.settings import SpanSettings

__all__ = ["SpanBatch", "SpanQueue", "SpanSource"]

_SPAN_BYTES: Final = 80
"""Ids, times, kind and flags of one span, as OTLP."""
_EVENT_BYTES: Final = 20
_ATTRIBUTE_BYTES: Final = 17
"""Tags, lengths and a number of one attribute."""
_ELEMENT_BYTES: Final = 13
"""One number of an array."""


@dataclass(frozen=True, slots=True)
class SpanBatch:
    """Ended spans, oldest first."""

    spans: Sequence[ReadableSpan]

    @property
    def items(self) -> int:
        """Spans in it."""
        return len(self.spans)

    @property
    def payload(self) -> Sequence[ReadableSpan]:
        """What the SDK's exporter takes."""
        return self.spans

    @property
    def size_bytes(self) -> int:
        """The request's size, estimated: encoding it to know would cost as much as sending it."""
        return sum(map(_size_bytes, self.spans))

    def halves(self) -> Sequence[SpanBatch]:
        """Two batches, or none for a single span."""
        middle = len(self.spans) // 2
        return (SpanBatch(self.spans[:middle]), SpanBatch(self.spans[middle:])) if middle else ()


def _size_bytes(span: ReadableSpan) -> int:
    events = sum(_EVENT_BYTES + len(event.name) + _attributes_bytes(event.attributes) for event in span.events)
    return _SPAN_BYTES + len(span.name) + _attributes_bytes(span.attributes) + events


def _attributes_bytes(attributes: Mapping[str, object] | None) -> int:
    size = 0
    for key, value in (attributes or {}).items():
        size += _ATTRIBUTE_BYTES + len(key)
        if isinstance(value, str):
            size += len(value)
        elif isinstance(value, tuple | list):
            size += sum(_ELEMENT_BYTES + (len(item) if isinstance(item, str) else 0) for item in value)
    return size


class SpanSource:
    """A bounded queue of ended spans.

    Args:
        settings: sizes and delay.
        patient: a replay waits for a place instead of dropping.
    """

    def __init__(self, settings: SpanSettings, *, patient: bool = False) -> None:
        self._settings = settings
        self.backlog: Backlog[ReadableSpan] = Backlog(settings.queue_size, patient=patient)
        self._taken_at = time.monotonic()

    def put(self, span: ReadableSpan) -> None:
        """Queue an ended span. In the thread that ended it: live, it never waits."""
        if self.backlog.put(span) >= self._settings.batch_size:
            self.backlog.wake()

    def wait_s(self) -> float:
        """Seconds until the delay is over."""
        return max(0.01, self._settings.delay_s - (time.monotonic() - self._taken_at))

    def take(self, *, final: bool) -> Batch | None:
        """A full batch, or what there is once the delay is over."""
        over = time.monotonic() - self._taken_at >= self._settings.delay_s
        if not (final or over or len(self.backlog) >= self._settings.batch_size):
            return None
        self._taken_at = time.monotonic()
        spans = self.backlog.take(self._settings.batch_size)
        return SpanBatch(spans) if spans else None

    def restore(self, batch: Batch) -> None:
        """Keep a batch, in its old order, until the receiver is back."""
        assert isinstance(batch, SpanBatch)  # only what take() gave  # noqa: S101
        self.backlog.restore(batch.spans)


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
