"""Encodes events as OTLP and decodes them: a line of OTLP JSON per event, without an OpenTelemetry SDK.

``decode(encode(event, resource)) == [event]`` for every event. A line holds every span of the event, with the ids,
times, attributes and span events that the SDK exports for it. A second line may hold its log events; it decodes to no
event, because the spans' attributes have every value, whatever form ``[otel] events`` gives the events. The decoder
accepts OTLP of any origin: spans of other programs are skipped, a Collector may have regrouped or split batches (an
update whose iteration or rollout span is not in the same batch is decoded without it), and numbers are coerced to the
field's type.
"""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from msgspec import Raw

from esper_core.events import EventKind, Payload, PPOUpdatePayload, SpanRef, TelemetryEvent, TraceRef
from esper_core.semconv._attribute_json import attributes_json
from esper_core.semconv._errors import CodecError
from esper_core.semconv._scalars import int64, read_int
from esper_core.semconv.attributes import (
    ITERATION_SPAN,
    KINDS_BY_SPAN,
    ROLLOUT_SPAN,
    ancestor_attributes,
    payload_from_attributes,
    shared_attributes,
    span_events,
)
from esper_core.semconv.failure import failure
from esper_core.semconv.identity import ATTEMPT, MARKED, RANK, RUN_ID, SCHEMA_URL, SCOPE_NAME
from esper_core.semconv.log_events import SAMPLED, log_events
from esper_core.semconv.otlp_json import (
    SPAN_KIND_INTERNAL,
    STATUS_ERROR,
    EventJson,
    LinkJson,
    LogJson,
    SpanJson,
    StatusJson,
    attribute_pairs,
    dump,
)
from esper_core.semconv.otlp_proto import request_spans
from esper_core.semconv.otlp_spans import WireSpan, WireValue, parse_traces, resource_attributes, wire_spans
from esper_core.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from esper_core.semconv._scalars import AttributeValue

__all__ = [
    "SCOPE_NAME",
    "CodecError",
    "decode",
    "decode_request",
    "decode_traces",
    "encode",
    "encode_log_events",
    "resource_of",
]

_FEW: Final = 16
"""Attributes up to which objects for msgspec are cheaper than a template's text."""
_WANTED: Final = frozenset({*KINDS_BY_SPAN, ITERATION_SPAN, ROLLOUT_SPAN})


# --- writing ------------------------------------------------------------------------------------


def encode(event: TelemetryEvent[Any], resource: Mapping[str, AttributeValue], *, with_events: bool = True) -> bytes:
    """Encode one event as one line of OTLP JSON (``TracesData``), without the newline. Any thread.

    Args:
        event: the event; all its spans are written, its own last.
        resource: attributes of the process and run; ``esper.run.id`` is added when it is not among them.
        with_events: write its span events; False with ``[otel] events = "log"``.
    """
    *ancestors, own = event.trace.spans
    found = []
    if ancestors:
        shared = attribute_pairs(ancestor_attributes(event))
        found = [_span_json(event, span, shared) for span in ancestors]
    found.append(_own_json(event, own, with_events=with_events))
    spans = dump(found)
    return b"".join((_head(_TRACES, event.run_id, _typed(resource)), spans, b"}]}]}"))


def encode_log_events(event: TelemetryEvent[Any], resource: Mapping[str, AttributeValue]) -> bytes:
    """Encode an event's log events as one line of OTLP JSON (``LogsData``); empty when it has none. Any thread."""
    found = log_events(event)
    if not found:
        return b""
    trace = event.trace
    records = dump(
        [
            LogJson(
                time_unix_nano=str(item.time_ns),
                observed_time_unix_nano=str(item.time_ns),
                severity_number=item.severity.number,
                severity_text=item.severity.text,
                event_name=item.name,
                attributes=attribute_pairs(item.attributes),
                trace_id=trace.trace_id,
                span_id=trace.own.span_id,
                flags=SAMPLED,
            )
            for item in found
        ]
    )
    return b"".join((_head(_LOGS, event.run_id, _typed(resource)), records, b"}]}]}"))


class _Signal(NamedTuple):
    """The names of a signal's lists in OTLP JSON."""

    resources: str
    scopes: str
    items: str


_TRACES: Final = _Signal("resourceSpans", "scopeSpans", "spans")
_LOGS: Final = _Signal("resourceLogs", "scopeLogs", "logRecords")
_Typed: TypeAlias = "tuple[tuple[str, type, AttributeValue], ...]"


def _typed(resource: Mapping[str, AttributeValue]) -> _Typed:
    """The resource as a cache's key. Types are part of it: 1, 1.0 and True are equal, their text is not."""
    return tuple([(key, type(value), value) for key, value in resource.items()])


@lru_cache(maxsize=64)
def _head(signal: _Signal, run_id: str, resource: _Typed) -> bytes:
    """The text before the spans or log records."""
    attributes: dict[str, AttributeValue] = {RUN_ID: run_id}
    attributes.update({key: int64(value) if type(value) is int else value for key, _, value in resource})
    return b"".join(
        (
            f'{{"{signal.resources}":[{{"resource":{{"attributes":'.encode(),
            dump(attribute_pairs(attributes)),
            f'}},"{signal.scopes}":[{{"scope":'.encode(),
            dump({"name": SCOPE_NAME, "version": __version__}),
            b',"schemaUrl":',
            dump(SCHEMA_URL),
            f',"{signal.items}":'.encode(),
        )
    )


def _own_json(event: TelemetryEvent[Any], span: SpanRef, *, with_events: bool) -> SpanJson:
    """The event's own span, with everything that the event tells."""
    attributes = shared_attributes(event)
    failed = failure(event.payload)
    return _span_json(
        event,
        span,
        Raw(attributes_json(attributes)) if len(attributes) > _FEW else attribute_pairs(attributes),
        [
            EventJson(time_unix_nano=str(item.time_ns), name=item.name, attributes=attribute_pairs(item.attributes))
            for item in (span_events(event) if with_events else ())
        ],
        StatusJson(message=failed.message, code=STATUS_ERROR) if failed is not None else None,
    )


def _span_json(
    event: TelemetryEvent[Any],
    span: SpanRef,
    attributes: Any,
    events: list[EventJson] = [],  # noqa: B006  # read only, as the field's own default
    status: StatusJson | None = None,
) -> SpanJson:
    return SpanJson(
        trace_id=event.trace.trace_id,
        span_id=span.span_id,
        parent_span_id=span.parent_span_id,
        name=span.name,
        kind=SPAN_KIND_INTERNAL,
        start_time_unix_nano=str(span.start_ns),
        end_time_unix_nano=str(span.end_ns),
        attributes=attributes,
        events=events,
        status=status,
        links=[
            LinkJson(trace_id=link.trace_id, span_id=link.span_id, trace_state=link.trace_state, flags=link.flags)
            for link in event.trace.links
        ]
        if event.trace.links and span is event.trace.spans[0]
        else [],
    )


# --- reading ------------------------------------------------------------------------------------


def decode(line: bytes | str, *, on_error: Callable[[CodecError], None] | None = None) -> list[TelemetryEvent[Any]]:
    """Decode the events in one line (or document) of OTLP JSON, in the order of their own spans.

    Args:
        line: OTLP JSON of traces.
        on_error: called for each span that has an Esper event's name and cannot be decoded, and for each span of JSON
            that has no span's fields. It is then skipped; without ``on_error`` the first such span raises.

    Raises:
        CodecError: the line is not OTLP JSON, or holds such a span.
    """
    return _events(wire_spans(parse_traces(line, on_error), _WANTED, on_error), on_error)


def decode_traces(
    traces: Mapping[str, Any], *, on_error: Callable[[CodecError], None] | None = None
) -> list[TelemetryEvent[Any]]:
    """As :func:`decode`, for OTLP JSON that was parsed into plain dicts."""
    return _events(wire_spans(parse_traces(traces), _WANTED, on_error), on_error)


def decode_request(
    body: bytes, content_type: str, *, on_error: Callable[[CodecError], None] | None = None
) -> list[TelemetryEvent[Any]]:
    """Decode the events in the body of an OTLP/HTTP traces request, already decompressed.

    Args:
        body: the request's body.
        content_type: ``application/json`` or ``application/x-protobuf``; parameters are ignored.
        on_error: as for :func:`decode`.

    Raises:
        CodecError: another content type, or a body that does not have that type.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/json":
        return decode(body, on_error=on_error)
    if kind == "application/x-protobuf":
        return _events(request_spans(body, _WANTED, on_error), on_error)
    raise CodecError(
        f"content type {content_type!r} is not OTLP/HTTP", hint="send application/x-protobuf or application/json"
    )


def resource_of(line: bytes | str) -> dict[str, WireValue]:
    """Attributes of the (first) resource in a line of OTLP JSON."""
    return resource_attributes(parse_traces(line))


def _events(spans: Iterable[WireSpan], on_error: Callable[[CodecError], None] | None) -> list[TelemetryEvent[Any]]:
    own: list[tuple[EventKind, WireSpan]] = []
    iterations: dict[tuple[str, str], WireSpan] = {}
    rollouts: defaultdict[tuple[str, str], list[WireSpan]] = defaultdict(list)
    for span in spans:
        if span.name == ITERATION_SPAN:
            iterations[span.trace_id, span.span_id] = span
        elif span.name == ROLLOUT_SPAN:
            rollouts[span.trace_id, span.parent_span_id or ""].append(span)
        elif RUN_ID in span.attributes or RUN_ID in span.resource:
            own.append((KINDS_BY_SPAN[span.name], span))
    found = []
    for kind, span in own:
        ancestors: list[WireSpan] = []
        if kind == PPOUpdatePayload.kind and span.parent_span_id is not None:
            key = span.trace_id, span.parent_span_id
            if key in iterations:
                ancestors.append(iterations[key])
            ancestors.extend(rollouts[key][:1] if key in rollouts else ())
        try:
            found.append(_event(kind, span, ancestors))
        except CodecError as error:
            wrapped = CodecError(f"span {span.name}: {error.message}", hint=error.hint)
            wrapped.of_run(span.attributes.get(RUN_ID) or span.resource.get(RUN_ID))
            if on_error is None:
                raise wrapped from None
            on_error(wrapped)
    return found


def _event(kind: EventKind, own: WireSpan, ancestors: list[WireSpan]) -> TelemetryEvent[Payload]:
    def common(key: str, default: object) -> object:
        found = own.attributes.get(key)
        return found if found is not None else own.resource.get(key, default)

    return TelemetryEvent(
        time_ns=own.end_ns,
        run_id=str(common(RUN_ID, "")),
        attempt=_int(ATTEMPT, common(ATTEMPT, 1)),
        rank=_int(RANK, common(RANK, 0)),
        marked=common(MARKED, default=False) is True,
        trace=TraceRef(
            trace_id=own.trace_id,
            spans=tuple(_ref(span) for span in (*ancestors, own)),
            links=(ancestors[0] if ancestors else own).links,
        ),
        payload=payload_from_attributes(kind, own.attributes),
    )


def _int(key: str, value: object) -> int:
    try:
        return read_int(value)
    except CodecError as error:
        raise CodecError(f"attribute {key}: {error.message}") from None


def _ref(span: WireSpan) -> SpanRef:
    return SpanRef(
        name=span.name,
        span_id=span.span_id,
        parent_span_id=span.parent_span_id,
        start_ns=span.start_ns,
        end_ns=span.end_ns,
    )
