"""OTLP/gRPC: the SDK's exporters on a stub that notes what became of each call.

They build their stub themselves; ``OTLPExporterMixin``, their base, takes one. So the classes here are the SDK's with
that one argument replaced.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # before the import: grpc writes handshake errors to the terminal
import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.exporter.otlp.proto.grpc.exporter import OTLPExporterMixin
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import LogsServiceStub
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import MetricsServiceStub
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.sdk.metrics.export import MetricExportResult
from opentelemetry.sdk.trace.export import SpanExportResult

from esper_sink_otlp import causes
from esper_sink_otlp.answer import Answer, partial_success

if TYPE_CHECKING:
    from collections.abc import Callable

    from esper_sink_otlp.settings import SignalSettings
    from esper_sink_otlp.watch import Watch

__all__ = ["grpc_exporter"]

_RETRYABLE: Final = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
    }
)
"""Codes after which the same call may succeed: the OTLP specification's, and those of a token that may be replaced."""


_init: Callable[..., None] = OTLPExporterMixin.__init__  # its type variables are not a subclass's


def grpc_exporter(watch: Watch) -> Any:
    """The SDK's exporter of the signal."""
    settings = watch.settings
    options: dict[str, Any] = {
        "endpoint": settings.endpoint,
        "insecure": not settings.secure,
        "credentials": _credentials(settings),
        "headers": settings.headers,
        "timeout": settings.timeout_s,
        "compression": grpc.Compression.Gzip if settings.compression == "gzip" else grpc.Compression.NoCompression,
        "signal": settings.signal,
        # One call for each export: no failure has this code.
        "retryable_error_codes": (grpc.StatusCode.OK,),
    }
    if settings.signal == "traces":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415  # as used

        class Spans(OTLPSpanExporter):
            """The SDK's, with a watched stub."""

            def __init__(self) -> None:
                _init(self, stub=_watched(TraceServiceStub, watch), result=SpanExportResult, **options)

        return Spans()
    if settings.signal == "logs":
        return _log_exporter(options, watch)
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter  # noqa: PLC0415  # as used

    class Metrics(OTLPMetricExporter):
        """The SDK's, with a watched stub."""

        def __init__(self) -> None:
            self._max_export_batch_size = None  # the sink's batches are bounded already
            _init(self, stub=_watched(MetricsServiceStub, watch), result=MetricExportResult, **options)

    return Metrics()


def _log_exporter(options: dict[str, Any], watch: Watch) -> Any:
    from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter  # noqa: PLC0415  # as used
    from opentelemetry.sdk._logs.export import LogRecordExportResult  # noqa: PLC0415  # as used

    class Logs(OTLPLogExporter):
        """The SDK's, with a watched stub."""

        def __init__(self) -> None:
            _init(self, stub=_watched(LogsServiceStub, watch), result=LogRecordExportResult, **options)

    return Logs()


def _watched(stub: Callable[[grpc.Channel], Any], watch: Watch) -> Any:
    """Makes the exporter's stub, which has one method."""

    class Stub:
        def __init__(self, channel: grpc.Channel) -> None:
            self._export = stub(channel).Export

        def Export(self, request: Any, *, metadata: Any, timeout: float) -> Any:  # noqa: N802  # gRPC's name
            started = time.monotonic()
            try:
                response = self._export(request, metadata=metadata, timeout=watch.left_s(timeout))
            except grpc.RpcError as error:
                watch.answer = _failed(error, watch.settings, time.monotonic() - started)
                raise
            except ValueError as error:  # the channel was closed while the run ended
                watch.answer = Answer(ok=False, cause=str(error), retryable=True)
                raise
            rejected, message = partial_success(watch.settings.signal, response)
            latency_s = time.monotonic() - started
            watch.answer = Answer(ok=True, code="OK", rejected=rejected, cause=message, latency_s=latency_s)
            return response

    return Stub


def _credentials(settings: SignalSettings) -> grpc.ChannelCredentials | None:
    """From the files of the settings; without any the exporter asks the credential provider, and has gRPC's roots.

    The exporter itself reads files only from variables, and forgets a client's certificate without an authority's.
    """
    files = (settings.certificate, settings.client_key, settings.client_certificate)
    if not settings.secure or not any(files):
        return None
    return grpc.ssl_channel_credentials(*(Path(path).read_bytes() if path else None for path in files))


def _failed(error: grpc.RpcError, settings: SignalSettings, latency_s: float) -> Answer:
    code: grpc.StatusCode = error.code()
    details: str = error.details() or ""
    too_large = code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details
    cause, hint = causes.of_grpc(code.name, details, settings, too_large=too_large)
    return Answer(
        ok=False,
        code=code.name,
        cause=cause,
        hint=hint,
        retryable=code in _RETRYABLE and not too_large,
        divisible=too_large,
        retry_after_s=_retry_info(error),
        latency_s=latency_s,
    )


def _retry_info(error: grpc.RpcError) -> float | None:
    """Seconds of google.rpc.RetryInfo in the trailers."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            try:
                details = Status.FromString(value).details
            except DecodeError:
                return None
            for detail in details:
                info = RetryInfo()
                if detail.Unpack(info):
                    return float(info.retry_delay.seconds + info.retry_delay.nanos / 1e9)
    return None
