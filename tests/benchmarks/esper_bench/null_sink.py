"""A sink that makes the SDK work and exports nowhere: spans and log records in batches, metrics once a second."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, PeriodicExportingMetricReader
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from esper_core.hooks import SinkHooks, hookimpl

__all__ = ["NullSink"]


class _Spans(SpanExporter):
    def export(self, spans: object) -> SpanExportResult:
        return SpanExportResult.SUCCESS


class _Logs(LogRecordExporter):
    def export(self, batch: object) -> LogRecordExportResult:
        return LogRecordExportResult.SUCCESS

    def force_flush(self, timeout_millis: int = 10_000) -> bool:
        return True

    def shutdown(self) -> None: ...


class _Metrics(MetricExporter):
    def export(self, metrics_data: object, timeout_millis: float = 10_000, **_: Any) -> MetricExportResult:
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 30_000, **_: Any) -> None: ...


class NullSink(SinkHooks):
    """All three signals, to nowhere."""

    name = "bench_null"

    @hookimpl
    def esper_span_processors(self, context: object) -> list[Any]:
        """Batches, dropped."""
        return [BatchSpanProcessor(_Spans())]

    @hookimpl
    def esper_metric_readers(self, context: object) -> list[Any]:
        """Collected once a second, dropped."""
        return [PeriodicExportingMetricReader(_Metrics(), export_interval_millis=1000)]

    @hookimpl
    def esper_log_record_processors(self, context: object) -> list[Any]:
        """Batches, dropped."""
        return [BatchLogRecordProcessor(_Logs())]
