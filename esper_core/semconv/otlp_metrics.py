"""Reads OTLP metrics, JSON or protobuf, into plain points. Imports ``opentelemetry.proto`` only when called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from esper_core.semconv._errors import CodecError
from esper_core.semconv._json_forms import INT64, KeyValue, Resource, mapping, whole
from esper_core.semconv._protobuf import parse_request
from esper_core.semconv.otlp_proto import plain_mapping

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from esper_core.semconv.otlp_spans import WireValue

__all__ = ["WirePoint", "request_points"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WirePoint:
    """One number of a gauge or a sum.

    Attributes:
        name: the metric's.
        value: as sent; NaN and infinities are values.
        attributes: of the point, over those of its resource.
        time_ns: unix nanoseconds.
    """

    name: str
    value: float
    attributes: Mapping[str, WireValue]
    time_ns: int


class _Point(msgspec.Struct, rename="camel", gc=False):
    attributes: list[KeyValue] | None = None
    time_unix_nano: int | str = 0
    as_double: float | str | None = None
    as_int: int | str | None = None


class _Data(msgspec.Struct, rename="camel", gc=False):
    data_points: list[_Point] | None = None


class _Metric(msgspec.Struct, gc=False):
    name: str = ""
    gauge: _Data | None = None
    sum: _Data | None = None


class _ScopeMetrics(msgspec.Struct, gc=False):
    metrics: list[_Metric] | None = None


class _ResourceMetrics(msgspec.Struct, rename="camel", gc=False):
    resource: Resource | None = None
    scope_metrics: list[_ScopeMetrics] | None = None


class _Request(msgspec.Struct, rename="camel", gc=False):
    resource_metrics: list[_ResourceMetrics] | None = None


_decoder = msgspec.json.Decoder(_Request)


def request_points(body: bytes, content_type: str, wanted: frozenset[str]) -> list[WirePoint]:
    """The numbers of these metrics in the body of an OTLP/HTTP metrics request, already decompressed.

    Args:
        body: the request's body.
        content_type: ``application/json`` or ``application/x-protobuf``, without parameters.
        wanted: names of gauges and sums.

    Raises:
        CodecError: the body is no such request, or ``opentelemetry-proto`` is not installed.
    """
    try:
        return list(_of_json(body, wanted) if content_type == "application/json" else _of_protobuf(body, wanted))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise CodecError(f"not an OTLP metrics request: {error}") from None


def _of_json(body: bytes, wanted: frozenset[str]) -> Iterator[WirePoint]:
    for group in _decoder.decode(body).resource_metrics or ():
        resource = mapping((group.resource.attributes if group.resource is not None else None) or ())
        for scope in group.scope_metrics or ():
            for metric in scope.metrics or ():
                data = metric.gauge if metric.gauge is not None else metric.sum
                if metric.name not in wanted or data is None:
                    continue
                for point in data.data_points or ():
                    value = point.as_double if point.as_double is not None else point.as_int
                    if value is not None:
                        yield WirePoint(
                            name=metric.name,
                            value=float(value),
                            attributes=resource | mapping(point.attributes or ()),
                            time_ns=whole(point.time_unix_nano, INT64),
                        )


def _of_protobuf(body: bytes, wanted: frozenset[str]) -> Iterator[WirePoint]:
    for group in parse_request(body, "metrics").resource_metrics:
        resource: dict[str, WireValue] | None = None
        for scope in group.scope_metrics:
            for metric in scope.metrics:
                kind = metric.WhichOneof("data")
                if metric.name not in wanted or kind not in {"gauge", "sum"}:
                    continue
                resource = plain_mapping(group.resource.attributes) if resource is None else resource
                points: Any = getattr(metric, kind).data_points
                for point in points:
                    number = point.WhichOneof("value")
                    if number is not None:
                        yield WirePoint(
                            name=metric.name,
                            value=float(getattr(point, number)),
                            attributes=resource | plain_mapping(point.attributes),
                            time_ns=point.time_unix_nano,
                        )
