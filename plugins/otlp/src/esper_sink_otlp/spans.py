"""The span processor that the sink contributes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

from esper_sink_otlp.records import RecordSource, attributes_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import Span

    from esper_sink_otlp.settings import QueueSettings

__all__ = ["SpanQueue", "span_source"]

_SPAN_BYTES: Final = 80
"""Ids, times, kind and flags of one span, as OTLP."""
_EVENT_BYTES: Final = 20


def span_source(settings: QueueSettings, *, patient: bool = False) -> RecordSource[ReadableSpan]:
    """The queue of ended spans."""
    return RecordSource(settings, _size_bytes, patient=patient)


def _size_bytes(span: ReadableSpan) -> int:
    events = sum(_EVENT_BYTES + len(event.name) + attributes_bytes(event.attributes) for event in span.events)
    return _SPAN_BYTES + len(span.name) + attributes_bytes(span.attributes) + events


class SpanQueue(SpanProcessor):
    """Puts ended, sampled spans into the source; costs an append.

    Args:
        source: the queue.
        close: sends what is left, inside the sink's own limit.
        flush: waits until everything queued so far was sent; True when it was.
    """

    def __init__(
        self, source: RecordSource[ReadableSpan], close: Callable[[], object], flush: Callable[[float], bool]
    ) -> None:
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
