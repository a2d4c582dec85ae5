"""Reads OTLP protobuf of traces into plain spans. Imports ``opentelemetry.proto`` only when called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_core.events import LinkRef
from esper_core.semconv._errors import CodecError
from esper_core.semconv._protobuf import parse_request
from esper_core.semconv.identity import RUN_ID
from esper_core.semconv.otlp_spans import WireSpan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    from esper_core.semconv.otlp_spans import WireValue

__all__ = ["plain_mapping", "request_spans"]


def request_spans(
    body: bytes, wanted: frozenset[str], on_error: Callable[[CodecError], None] | None = None
) -> list[WireSpan]:
    """The spans of these names in an ``ExportTraceServiceRequest``, in message order.

    Args:
        body: the message.
        wanted: names of spans.
        on_error: called for each span that cannot be read, which is then skipped; without it the first raises.

    Raises:
        CodecError: the body is no such message, or ``opentelemetry-proto`` is not installed.
    """
    found = []
    for group in parse_request(body, "traces").resource_spans:
        resource: dict[str, WireValue] | None = None
        for scope in group.scope_spans:
            for span in scope.spans:
                if span.name not in wanted:
                    continue
                if resource is None:
                    resource = plain_mapping(group.resource.attributes)
                if not _whole_ids(span):
                    unread = CodecError(f"span {span.name}: its trace id or span id has a wrong length")
                    unread.of_run(plain_mapping(span.attributes).get(RUN_ID) or resource.get(RUN_ID))
                    if on_error is None:
                        raise unread
                    on_error(unread)
                    continue
                found.append(
                    WireSpan(
                        name=span.name,
                        trace_id=span.trace_id.hex(),
                        span_id=span.span_id.hex(),
                        parent_span_id=span.parent_span_id.hex() or None,
                        start_ns=span.start_time_unix_nano,
                        end_ns=span.end_time_unix_nano,
                        attributes=plain_mapping(span.attributes),
                        resource=resource,
                        links=tuple(_link(link) for link in span.links if _whole_ids(link)),
                    )
                )
    return found


def _whole_ids(item: Span | Span.Link) -> bool:
    return len(item.trace_id) == 16 and len(item.span_id) == 8


def _link(link: Span.Link) -> LinkRef:
    return LinkRef(
        trace_id=link.trace_id.hex(), span_id=link.span_id.hex(), trace_state=link.trace_state, flags=link.flags
    )


def plain_mapping(pairs: Iterable[KeyValue]) -> dict[str, WireValue]:
    """Attributes by key, as plain values."""
    return {pair.key: _plain(pair.value) for pair in pairs}


def _plain(value: AnyValue) -> WireValue:
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [_plain(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return plain_mapping(value.kvlist_value.values)
    plain: WireValue = getattr(value, kind)
    return plain
