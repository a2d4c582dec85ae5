"""Replay: rebuilds the ended spans of a journaled event with their own ids and times. Imported only with the SDK."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from esper_core.semconv.attributes import span_attributes, span_events
from esper_core.semconv.failure import failure
from esper_core.semconv.identity import REMOTE, SCHEMA_URL, SCOPE_NAME
from esper_core.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

    from esper_core.events import LinkRef, Payload, SpanRef, TelemetryEvent
    from esper_core.host.otel.resource import ResourceValue

__all__ = ["ended_spans"]

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_W3C = 0xFF
"""The bits of a link's flags that are W3C's own."""


def ended_spans(
    event: TelemetryEvent[Payload], resource: Mapping[str, ResourceValue], *, with_events: bool = True
) -> tuple[ReadableSpan, ...]:
    """Rebuild the spans of an event, parents before children.

    Args:
        event: the event, as it was journaled.
        resource: the resource of its run.
        with_events: with span events; False with ``[otel] events = "log"``.
    """
    described = Resource(dict(resource))
    scope = InstrumentationScope(SCOPE_NAME, __version__, SCHEMA_URL)
    trace_id = int(event.trace.trace_id, 16)
    moments = tuple(
        Event(item.name, attributes=dict(item.attributes), timestamp=item.time_ns)
        for item in (span_events(event) if with_events else ())
    )

    links = tuple(map(_link, event.trace.links))
    failed = failure(event.payload)
    status = Status(StatusCode.ERROR, failed.message) if failed is not None else Status()

    def rebuild(span: SpanRef) -> ReadableSpan:
        parent = None
        if span.parent_span_id is not None:
            parent = SpanContext(trace_id, int(span.parent_span_id, 16), is_remote=False, trace_flags=_SAMPLED)
        return ReadableSpan(
            name=span.name,
            context=SpanContext(trace_id, int(span.span_id, 16), is_remote=False, trace_flags=_SAMPLED),
            parent=parent,
            resource=described,
            attributes=dict(span_attributes(event, span.name)),
            events=moments if span is event.trace.own else (),
            links=links if span is event.trace.spans[0] else (),
            kind=SpanKind.INTERNAL,
            status=status if span is event.trace.own else Status(),
            instrumentation_scope=scope,
            start_time=span.start_ns,
            end_time=span.end_ns,
        )

    return tuple(rebuild(span) for span in event.trace.spans)


def _link(link: LinkRef) -> Link:
    return Link(
        SpanContext(
            int(link.trace_id, 16),
            int(link.span_id, 16),
            is_remote=link.flags & REMOTE == REMOTE,
            trace_flags=TraceFlags(link.flags & _W3C),
            trace_state=TraceState.from_header([link.trace_state]),
        )
    )
