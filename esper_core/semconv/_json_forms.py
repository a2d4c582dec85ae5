"""The form of OTLP JSON's traces, as msgspec parses it: what the readers share.

None of these can refer to itself, so that the garbage collector has nothing to look for in them (``gc=False``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "FLAGS",
    "INT64",
    "TIMES",
    "AnyValue",
    "ArrayValue",
    "KeyValue",
    "KeyValueList",
    "Link",
    "RawResourceSpans",
    "RawScopeSpans",
    "RawTraces",
    "Resource",
    "ResourceSpans",
    "ScopeSpans",
    "Span",
    "TracesData",
    "WireValue",
    "mapping",
    "whole",
]

FLAGS: Final = range(2**32)
TIMES: Final = range(2**64)
INT64: Final = range(-(2**63), 2**63)
WireValue: TypeAlias = "str | bool | int | float | bytes | list[WireValue] | dict[str, WireValue] | None"


class AnyValue(msgspec.Struct, rename="camel", gc=False):
    """OTLP's AnyValue; with nothing set it is the empty value."""

    string_value: str | None = None
    bool_value: bool | None = None
    int_value: int | str | None = None
    double_value: float | str | None = None
    array_value: ArrayValue | None = None
    kvlist_value: KeyValueList | None = None
    bytes_value: str | None = None

    def plain(self) -> WireValue:
        """The value; None when it is the empty one.

        Raises:
            ValueError: it is no number, though it says so, or one outside its bounds.
        """
        if self.double_value is not None:
            return float(self.double_value)
        if self.string_value is not None:
            return self.string_value
        if self.int_value is not None:
            return whole(self.int_value, INT64)
        if self.bool_value is not None:
            return self.bool_value
        if self.array_value is not None:
            return [item.plain() for item in self.array_value.values or ()]
        if self.kvlist_value is not None:
            return mapping(self.kvlist_value.values or ())
        return self.bytes_value


class ArrayValue(msgspec.Struct, gc=False):
    """The entries of an array."""

    values: list[AnyValue] | None = None


class KeyValue(msgspec.Struct, gc=False):
    """One attribute."""

    key: str = ""
    value: AnyValue | None = None


class KeyValueList(msgspec.Struct, gc=False):
    """A mapping."""

    values: list[KeyValue] | None = None


class Link(msgspec.Struct, rename="camel", gc=False):
    """A link to a span of another trace."""

    trace_id: str = ""
    span_id: str = ""
    trace_state: str = ""
    flags: int | str = 0


class Span(msgspec.Struct, rename="camel", gc=False):
    """One span; what of it no reader needs is not parsed."""

    trace_id: str = ""
    span_id: str = ""
    parent_span_id: str | None = None
    name: str = ""
    start_time_unix_nano: int | str = 0
    end_time_unix_nano: int | str = 0
    attributes: list[KeyValue] | None = None
    links: list[Link] | None = None


class ScopeSpans(msgspec.Struct, gc=False):
    """The spans of one instrumentation scope."""

    spans: list[Span] | None = None


class Resource(msgspec.Struct, gc=False):
    """What made the spans."""

    attributes: list[KeyValue] | None = None


class ResourceSpans(msgspec.Struct, rename="camel", gc=False):
    """The spans of one resource."""

    resource: Resource | None = None
    scope_spans: list[ScopeSpans] | None = None


class TracesData(msgspec.Struct, rename="camel", gc=False):
    """OTLP's ``TracesData`` and ``ExportTraceServiceRequest``, which have the same form; unknown fields are ignored."""

    resource_spans: list[ResourceSpans] | None = None


class RawScopeSpans(msgspec.Struct):
    """As :class:`ScopeSpans`, unparsed."""

    spans: list[msgspec.Raw] | None = None


class RawResourceSpans(msgspec.Struct, rename="camel"):
    """As :class:`ResourceSpans`, with the spans unparsed."""

    resource: Resource | None = None
    scope_spans: list[RawScopeSpans] | None = None


class RawTraces(msgspec.Struct, rename="camel"):
    """As :class:`TracesData`, with the spans unparsed."""

    resource_spans: list[RawResourceSpans] | None = None


def mapping(pairs: Iterable[KeyValue]) -> dict[str, WireValue]:
    """Attributes by key; of two with one key the last."""
    return {pair.key: pair.value.plain() for pair in pairs if pair.value is not None}


def whole(value: int | str, bounds: range) -> int:
    """A number within the bounds that protobuf gives its field."""
    number = int(value)
    if number not in bounds:
        raise ValueError(f"a whole number of {number.bit_length()} bits is outside the field's bounds")
    return number
