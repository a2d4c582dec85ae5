"""OTLP/gRPC, over grpcio (extra ``[grpc]``). Bodies are the same bytes as over HTTP."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # before the import: grpc writes handshake errors to the terminal
import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from esper_core.errors import SinkError
from esper_sink_otlp import causes
from esper_sink_otlp.transport import Answer

if TYPE_CHECKING:
    from esper_sink_otlp.settings import SignalSettings

__all__ = ["GrpcTransport"]

_METHODS: Final = {
    "traces": "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    "metrics": "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
}
_RETRYABLE: Final = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
"""Codes after which the same request may succeed (OTLP specification); RESOURCE_EXHAUSTED only with RetryInfo."""


class GrpcTransport:
    """One signal's channel. Thread: the exporter's."""

    def __init__(self, settings: SignalSettings) -> None:
        self._settings = settings
        compression = grpc.Compression.Gzip if settings.compression == "gzip" else grpc.Compression.NoCompression
        # Connecting anew within 1 s keeps a short outage short; the default backs off to 2 minutes.
        options = (("grpc.max_reconnect_backoff_ms", 1000), ("grpc.initial_reconnect_backoff_ms", 100))
        if settings.secure:
            self._channel = grpc.secure_channel(
                settings.endpoint, _credentials(settings), options=options, compression=compression
            )
        else:
            self._channel = grpc.insecure_channel(settings.endpoint, options=options, compression=compression)
        self._export = self._channel.unary_unary(
            _METHODS[settings.signal], request_serializer=None, response_deserializer=None
        )

    def send(self, body: bytes, timeout_s: float) -> Answer:
        """Send one request; see ``Transport``."""
        started = time.monotonic()
        try:
            content: bytes = self._export(body, timeout=timeout_s, metadata=self._settings.headers)
        except grpc.RpcError as error:
            return _failed(error, self._settings, time.monotonic() - started)
        except ValueError as error:  # the channel was closed while the run ended
            return Answer(ok=False, cause=str(error), latency_s=time.monotonic() - started)
        rejected, message = _partial_success(self._settings.signal, content)
        return Answer(ok=True, code="OK", rejected=rejected, cause=message, latency_s=time.monotonic() - started)

    def close(self) -> None:
        """Close the channel; a call under way is cancelled."""
        self._channel.close()


def _credentials(settings: SignalSettings) -> grpc.ChannelCredentials:
    def read(path: str | None) -> bytes | None:
        if path is None:
            return None
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise SinkError(
                f"the otlp sink cannot read {path}: {error.strerror}",
                hint="it is a PEM file: [sink.otlp] certificate, client_certificate, client_key",
            ) from error

    return grpc.ssl_channel_credentials(
        root_certificates=read(settings.certificate),
        private_key=read(settings.client_key),
        certificate_chain=read(settings.client_certificate),
    )


def _failed(error: grpc.RpcError, settings: SignalSettings, latency_s: float) -> Answer:
    code: grpc.StatusCode = error.code()
    details: str = error.details() or ""
    retry_after_s = _retry_info(error)
    exhausted = code is grpc.StatusCode.RESOURCE_EXHAUSTED
    too_large = exhausted and "larger than max" in details
    cause, hint = causes.of_grpc(code.name, details, settings, too_large=too_large)
    return Answer(
        ok=False,
        code=code.name,
        cause=cause,
        hint=hint,
        retryable=code in _RETRYABLE or (exhausted and retry_after_s is not None),
        too_large=too_large,
        retry_after_s=retry_after_s,
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


def _partial_success(signal: str, content: bytes) -> tuple[int, str]:
    if signal == "traces":
        spans = ExportTraceServiceResponse.FromString(content).partial_success
        return spans.rejected_spans, spans.error_message
    points = ExportMetricsServiceResponse.FromString(content).partial_success
    return points.rejected_data_points, points.error_message
