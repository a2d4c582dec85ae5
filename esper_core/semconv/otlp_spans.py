"""Reads traces of OTLP JSON into plain spans.

The form is that of ``otlp_json.py``; integers written as numbers are accepted too, as other writers do.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec

from esper_core.events import LinkRef
from esper_core.semconv._errors import CodecError
from esper_core.semconv._json_forms import (
    FLAGS,
    TIMES,
    Link,
    RawTraces,
    Resource,
    ResourceSpans,
    ScopeSpans,
    Span,
    TracesData,
    WireValue,
    mapping,
    whole,
)
from esper_core.semconv.identity import RUN_ID

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

__all__ = ["TracesData", "WireSpan", "WireValue", "parse_traces", "resource_attributes", "wire_spans"]

_decoder: Final = msgspec.json.Decoder(TracesData)
_raw_decoder: Final = msgspec.json.Decoder(RawTraces)
_span_decoder: Final = msgspec.json.Decoder(Span)
_PARSING: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


@dataclass(frozen=True, slots=True, kw_only=True)
class WireSpan:
    """A span as read from OTLP, JSON or protobuf; ids in lower-case hex, times in unix nanoseconds."""

    name: str
    trace_id: str
    span_id: str
    parent_span_id: str | None
    start_ns: int
    end_ns: int
    attributes: Mapping[str, WireValue]
    resource: Mapping[str, WireValue] = field(default_factory=dict)
    links: tuple[LinkRef, ...] = ()


def parse_traces(
    data: bytes | str | Mapping[str, Any], on_error: Callable[[CodecError], None] | None = None
) -> TracesData:
    """Parse OTLP JSON, as bytes or already as plain dicts.

    Args:
        data: the document.
        on_error: called for each span without a span's fields, which is then left out; for bytes and text alone.

    Raises:
        CodecError: it is not JSON, or does not have the form of traces.
    """
    try:
        if isinstance(data, bytes | str):
            return _decoder.decode(data)
        return msgspec.convert(data, TracesData)
    except _PARSING as error:
        if on_error is not None and isinstance(data, bytes | str):
            return _parse_each(data, on_error)
        raise CodecError(f"not OTLP JSON of traces: {error}") from None


def _parse_each(data: bytes | str, on_error: Callable[[CodecError], None]) -> TracesData:
    """Parse span by span: slower than at once, and an invalid span loses only itself."""
    try:
        raw = _raw_decoder.decode(data)
    except _PARSING as error:
        raise CodecError(f"not OTLP JSON of traces: {error}") from None
    found = []
    for group in raw.resource_spans or ():
        spans = []
        for item in (item for scope in group.scope_spans or () for item in scope.spans or ()):
            try:
                spans.append(_span_decoder.decode(item))
            except _PARSING as error:
                on_error(CodecError(f"a span cannot be read: {error}").of_run(_run_id(group.resource)))
        found.append(ResourceSpans(resource=group.resource, scope_spans=[ScopeSpans(spans=spans)]))
    return TracesData(resource_spans=found)


def _run_id(resource: Resource | None) -> str | None:
    """The run that a resource names, also when its other attributes are invalid."""
    pairs = (resource.attributes if resource else None) or ()
    return next((pair.value.string_value for pair in pairs if pair.key == RUN_ID and pair.value is not None), None)


def resource_attributes(traces: TracesData) -> dict[str, WireValue]:
    """Attributes of the first resource."""
    for group in traces.resource_spans or ():
        return mapping((group.resource.attributes if group.resource else None) or ())
    return {}


def wire_spans(
    traces: TracesData, wanted: frozenset[str], on_error: Callable[[CodecError], None] | None = None
) -> list[WireSpan]:
    """The spans of these names, in document order.

    Args:
        traces: as parsed.
        wanted: names of spans.
        on_error: called for each span that cannot be read, which is then skipped; without it the first raises.

    Raises:
        CodecError: an id, a time or a number in one of them cannot be read.
    """
    found = []
    for group in traces.resource_spans or ():
        resource: dict[str, WireValue] | None = None
        for scope in group.scope_spans or ():
            for span in scope.spans or ():
                if span.name not in wanted:
                    continue
                try:
                    if resource is None:
                        resource = mapping((group.resource.attributes if group.resource else None) or ())
                    found.append(
                        WireSpan(
                            name=span.name,
                            trace_id=_hex(span.trace_id, 32),
                            span_id=_hex(span.span_id, 16),
                            parent_span_id=_hex(span.parent_span_id, 16) if span.parent_span_id else None,
                            start_ns=whole(span.start_time_unix_nano, TIMES),
                            end_ns=whole(span.end_time_unix_nano, TIMES),
                            attributes=mapping(span.attributes or ()),
                            resource=resource,
                            links=tuple(_links(span.links)) if span.links else (),
                        )
                    )
                except (ValueError, RecursionError) as error:
                    unread = CodecError(f"span {span.name}: {error}").of_run(_run_id(group.resource))
                    if on_error is None:
                        raise unread from None
                    on_error(unread)
    return found


def _links(found: Sequence[Link]) -> Iterator[LinkRef]:
    """Those that are links: what a span tells stands without them."""
    for link in found:
        with contextlib.suppress(ValueError):
            yield LinkRef(
                trace_id=_hex(link.trace_id, 32),
                span_id=_hex(link.span_id, 16),
                trace_state=link.trace_state,
                flags=whole(link.flags, FLAGS),
            )


def _hex(text: str, digits: int) -> str:
    if len(text) != digits:
        raise ValueError(f"id {text!r} has {len(text)} characters, expected {digits} hex digits")
    int(text, 16)
    return text.lower()
