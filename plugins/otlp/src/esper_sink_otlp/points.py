"""Gauge points of events, as OTLP metrics with the events' own times."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric, ResourceMetrics, ScopeMetrics

    from esper_core.semconv.gauges import GaugePoint

__all__ = ["add_gauge_points", "key_values"]


def add_gauge_points(
    target: ResourceMetrics,
    points: Iterable[GaugePoint],
    *,
    resource: Mapping[str, str | int | float | bool],
    scope: tuple[str, str],
) -> None:
    """Add points to a request, one metric a name, in the order given.

    Args:
        target: a collection's resource metrics, or new ones, which get ``resource``.
        points: from one or many events.
        resource: attributes of the run's resource.
        scope: name and version of the instrumentation scope; an existing one of that name is used.
    """
    if not target.HasField("resource"):
        target.resource.attributes.extend(key_values(resource))
    into = _scope(target, scope)
    metrics: dict[str, Metric] = {}
    for point in points:
        metric = metrics.get(point.name)
        if metric is None:
            metric = metrics[point.name] = into.metrics.add(name=point.name, unit=point.unit)
        data = metric.gauge.data_points.add(time_unix_nano=point.time_ns)
        if isinstance(point.value, int):
            data.as_int = point.value
        else:
            data.as_double = point.value
        data.attributes.extend(key_values(point.attributes))


def key_values(attributes: Mapping[str, object]) -> list[KeyValue]:
    """OTLP attributes of plain values."""
    return [KeyValue(key=key, value=_any_value(value)) for key, value in attributes.items()]


def _any_value(value: object) -> AnyValue:
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    if isinstance(value, list | tuple):
        array = AnyValue()
        array.array_value.values.extend(_any_value(item) for item in value)
        return array
    return AnyValue(string_value=str(value))


def _scope(target: ResourceMetrics, scope: tuple[str, str]) -> ScopeMetrics:
    known: ScopeMetrics
    for known in target.scope_metrics:
        if known.scope.name == scope[0]:
            return known
    added: ScopeMetrics = target.scope_metrics.add()
    added.scope.name, added.scope.version = scope
    return added
