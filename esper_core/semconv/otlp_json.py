"""OTLP JSON: writes values, spans and log records as text, and reads traces into plain spans.

The form is that of the OTLP specification, not of protobuf's ``MessageToDict``: trace and span ids are hex,
64-bit integers are decimal strings, NaN and infinities are the strings ``NaN``, ``Infinity`` and ``-Infinity``, enums
are integers, names are lowerCamelCase. The reader also accepts integers written as numbers, as other writers do.
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

    from esper_core.semconv._scalars import AttributeValue, Scalar

__all__ = [
    "SPAN_KIND_INTERNAL",
    "STATUS_ERROR",
    "EventJson",
    "LinkJson",
    "LogJson",
    "SpanJson",
    "StatusJson",
    "TracesData",
    "WireSpan",
    "WireValue",
    "attribute_pairs",
    "dump",
    "parse_traces",
    "resource_attributes",
    "wire_spans",
]

SPAN_KIND_INTERNAL: Final = 1
STATUS_ERROR: Final = 2


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


# --- writing ------------------------------------------------------------------------------------
# Small Structs that msgspec writes in one call: a quarter of the cost of assembling text in Python.


class _Double(msgspec.Struct, rename="camel", gc=False):
    double_value: float | str


class _Int(msgspec.Struct, rename="camel", gc=False):
    int_value: str


class _Text(msgspec.Struct, rename="camel", gc=False):
    string_value: str


class _Bool(msgspec.Struct, rename="camel", gc=False):
    bool_value: bool


class _Values(msgspec.Struct, gc=False):
    values: list[object]


class _Array(msgspec.Struct, rename="camel", gc=False):
    array_value: _Values


class _Pair(msgspec.Struct, gc=False):
    key: str
    value: object


class EventJson(msgspec.Struct, rename="camel", gc=False):
    """One span event; the time is a decimal string."""

    time_unix_nano: str
    name: str
    attributes: list[_Pair]


class LinkJson(msgspec.Struct, rename="camel", omit_defaults=True, gc=False):
    """One link to a span of another trace; ids are hex."""

    trace_id: str
    span_id: str
    trace_state: str = ""
    flags: int = 0


class StatusJson(msgspec.Struct, gc=False):
    """The status of a span that failed."""

    message: str
    code: int


class SpanJson(msgspec.Struct, rename="camel", omit_defaults=True, gc=False):
    """One span in the form of OTLP JSON."""

    trace_id: str
    span_id: str
    name: str
    kind: int
    start_time_unix_nano: str
    end_time_unix_nano: str
    attributes: list[_Pair] | msgspec.Raw
    parent_span_id: str | None = None
    events: list[EventJson] = []
    status: StatusJson | None = None
    links: list[LinkJson] = []


class LogJson(msgspec.Struct, rename="camel", gc=False):
    """One log record in the form of OTLP JSON; times are decimal strings, ids hex."""

    time_unix_nano: str
    observed_time_unix_nano: str
    severity_number: int
    severity_text: str
    event_name: str
    attributes: list[_Pair]
    trace_id: str
    span_id: str
    flags: int


_EMPTY: Final[dict[str, object]] = {}
_encode: Final = msgspec.json.Encoder().encode


def dump(value: object) -> bytes:
    """Encode as JSON text. What UTF-8 cannot encode (undecodable file names) is written as a visible escape."""
    try:
        return _encode(value)
    except UnicodeEncodeError:
        return _encode(_cleaned(msgspec.to_builtins(value)))


def _cleaned(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {key: _cleaned(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_cleaned(item) for item in value]
    return value


def _value(value: Scalar | None) -> object:
    kind = type(value)
    if kind is float:
        # A difference with itself is 0 for every finite number and NaN for the rest: cheaper than math.isfinite.
        return _Double(value) if value - value == 0.0 else _non_finite(value)  # type: ignore[arg-type, operator]  # a float
    if kind is str:
        return _Text(value)  # type: ignore[arg-type]  # its type was just compared
    if kind is int:
        return _Int(str(value))
    if value is None:
        return _EMPTY
    if kind is bool:
        return _Bool(value)  # type: ignore[arg-type]  # as above
    return _value(_plain(value))


def _non_finite(value: float) -> _Double:
    if value != value:  # noqa: PLR0124  # only NaN differs from itself
        return _Double("NaN")
    return _Double("Infinity" if value > 0 else "-Infinity")


def _plain(value: object) -> Scalar:
    """Convert subclasses of the plain types (StrEnum, numpy's float64) to these; anything else to text."""
    for kind in (float, int, str):
        if isinstance(value, kind):
            return kind(value)
    return str(value)


def attribute_pairs(attributes: Mapping[str, AttributeValue]) -> list[_Pair]:
    """The attributes as OTLP key-value pairs, ready for encoding."""
    return [
        _Pair(key, _Array(_Values(_values(value))) if isinstance(value, tuple | list) else _value(value))
        for key, value in attributes.items()
    ]


def _values(entries: Sequence[Scalar | None]) -> list[object]:
    """An array's entries. Most are finite floats: those are written without a call each."""
    return [_Double(item) if type(item) is float and item - item == 0.0 else _value(item) for item in entries]


# --- reading ------------------------------------------------------------------------------------


_decoder: Final = msgspec.json.Decoder(TracesData)
_raw_decoder: Final = msgspec.json.Decoder(RawTraces)
_span_decoder: Final = msgspec.json.Decoder(Span)
_PARSING: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


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
