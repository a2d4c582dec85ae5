"""Writes OTLP JSON: values, spans and log records as text.

The form is that of the OTLP specification, not of protobuf's ``MessageToDict``: trace and span ids are hex,
64-bit integers are decimal strings, NaN and infinities are the strings ``NaN``, ``Infinity`` and ``-Infinity``, enums
are integers, names are lowerCamelCase. ``otlp_spans.py`` reads it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from esper_core.semconv._scalars import AttributeValue, Scalar

__all__ = [
    "SPAN_KIND_INTERNAL",
    "STATUS_ERROR",
    "EventJson",
    "LinkJson",
    "LogJson",
    "SpanJson",
    "StatusJson",
    "attribute_pairs",
    "dump",
]

SPAN_KIND_INTERNAL: Final = 1
STATUS_ERROR: Final = 2


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
