"""The SDK's Prometheus reader, with the names that Prometheus itself gives to metrics that arrive by OTLP.

The exporter leaves the unit ``1`` out of a name; Prometheus's OTLP receiver and the Collector append ``_ratio`` to a
gauge of that unit, and so do the rules and the dashboard. Scope labels are left out and environment and host are
copied from the resource, as ``collector-config/prometheus/prometheus.yml`` does for OTLP.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics.export import Gauge

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.sdk.metrics.export import Metric, MetricsData
    from prometheus_client import CollectorRegistry

__all__ = ["PageReader"]

_PROMOTED: Final = frozenset({"esper.run.environment", "host.name"})
"""Resource attributes that become labels. Run, attempt and rank stand on every point already."""


class PageReader(PrometheusMetricReader):
    """Collects when the page is read.

    Args:
        registry: the page's own, not the process's: an application's metrics are none of Esper's.
        before_shutdown: called before the metrics leave the page; may wait.
    """

    def __init__(self, registry: CollectorRegistry, before_shutdown: Callable[[], object]) -> None:
        super().__init__(scope_info_enabled=False, resource_attribute_filter=_PROMOTED.__contains__, registry=registry)
        self._before_shutdown = before_shutdown

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> None:
        # None where nothing was measured, whatever the annotation says.
        super()._receive_metrics(metrics_data and _named_as_by_otlp(metrics_data), timeout_millis, **kwargs)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Leave the page once the last scrape has been."""
        self._before_shutdown()
        super().shutdown(timeout_millis, **kwargs)


def _named_as_by_otlp(data: MetricsData) -> MetricsData:
    return replace(
        data,
        resource_metrics=[
            replace(
                resource,
                scope_metrics=[
                    replace(scope, metrics=[_with_ratio(metric) for metric in scope.metrics])
                    for scope in resource.scope_metrics
                ],
            )
            for resource in data.resource_metrics
        ],
    )


def _with_ratio(metric: Metric) -> Metric:
    if metric.unit != "1" or not isinstance(metric.data, Gauge) or metric.name.endswith("ratio"):
        return metric
    return replace(metric, name=f"{metric.name}.ratio")
