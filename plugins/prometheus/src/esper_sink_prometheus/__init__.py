"""Esper's ``prometheus`` sink: a page that Prometheus scrapes."""

from __future__ import annotations

from esper_sink_prometheus.config import PrometheusConfig
from esper_sink_prometheus.sink import PrometheusSink

__all__ = ["PrometheusConfig", "PrometheusSink"]
