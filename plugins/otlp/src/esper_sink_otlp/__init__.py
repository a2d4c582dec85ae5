"""Esper's ``otlp`` sink: spans, metrics and log events to an OpenTelemetry Collector or any OTLP backend."""

from __future__ import annotations

from esper_sink_otlp.config import OtlpConfig
from esper_sink_otlp.sink import OtlpSink

__all__ = ["OtlpConfig", "OtlpSink"]
