"""Gauge points of events, as the SDK's metrics with the events' own times."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from opentelemetry.sdk.metrics.export import Gauge, Metric, MetricsData, NumberDataPoint, ResourceMetrics, ScopeMetrics
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from esper_core.semconv.gauges import DIVERGENCE
from esper_core.semconv.identity import SCHEMA_URL, SCOPE_NAME
from esper_core.semconv.names import EVALUATION_GAUGES, GAUGES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opentelemetry.sdk.resources import Resource

    from esper_core.semconv.gauges import GaugePoint

__all__ = ["EVENT_GAUGES", "gauge_metrics", "joined", "of_process", "without_event_gauges"]

EVENT_GAUGES: Final = {gauge.name: gauge.brief for gauge in (*GAUGES, *EVALUATION_GAUGES)} | {
    DIVERGENCE.name: DIVERGENCE.brief
}
"""Gauges whose points come from events, and what each is."""
SCOPE: Final = InstrumentationScope(SCOPE_NAME, version("esper-core"), SCHEMA_URL)
"""The one that live metrics have: a replay draws no second series."""


def gauge_metrics(points: Iterable[GaugePoint]) -> list[Metric]:
    """One metric a name, in the order given."""
    data: dict[str, list[NumberDataPoint]] = {}
    units: dict[str, str] = {}
    for point in points:
        units[point.name] = point.unit
        made = NumberDataPoint(
            attributes=dict(point.attributes),
            start_time_unix_nano=0,  # a gauge has none
            time_unix_nano=point.time_ns,
            value=point.value,
        )
        data.setdefault(point.name, []).append(made)
    return [
        Metric(name=name, description=EVENT_GAUGES.get(name, ""), unit=units[name], data=Gauge(data_points=found))
        for name, found in data.items()
    ]


def of_process(resource: Resource, points: Iterable[GaugePoint]) -> ResourceMetrics:
    """The gauge points of one process, in the scope that live metrics have."""
    scope = ScopeMetrics(scope=SCOPE, metrics=gauge_metrics(points), schema_url=SCHEMA_URL)
    return ResourceMetrics(resource=resource, scope_metrics=[scope], schema_url=resource.schema_url)


def joined(parts: Iterable[ResourceMetrics]) -> MetricsData:
    """One entry a resource and a scope: of two with one resource, the SDK's encoder keeps the last."""
    resources: dict[Resource, tuple[ResourceMetrics, dict[InstrumentationScope, ScopeMetrics]]] = {}
    for part in parts:
        _, scopes = resources.setdefault(part.resource, (part, {}))
        for item in part.scope_metrics:
            known = scopes.get(item.scope)
            metrics = item.metrics if known is None else [*known.metrics, *item.metrics]
            scopes[item.scope] = replace(item, metrics=metrics)
    return MetricsData([replace(part, scope_metrics=list(scopes.values())) for part, scopes in resources.values()])


def without_event_gauges(collected: ResourceMetrics) -> ResourceMetrics:
    """Take out the gauges that come from events, which the SDK stamps with the time of its collection."""
    scopes = [
        replace(scope, metrics=[metric for metric in scope.metrics if metric.name not in EVENT_GAUGES])
        for scope in collected.scope_metrics
    ]
    return replace(collected, scope_metrics=scopes)
