"""Reads an OTLP request in protobuf, of any signal."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

from esper_core.semconv._errors import CodecError

__all__ = ["parse_request"]

_REQUESTS: Final = {
    "traces": ("opentelemetry.proto.collector.trace.v1.trace_service_pb2", "ExportTraceServiceRequest"),
    "metrics": ("opentelemetry.proto.collector.metrics.v1.metrics_service_pb2", "ExportMetricsServiceRequest"),
}
"""Of each signal: the module and the message."""


def parse_request(body: bytes, signal: str) -> Any:
    """The message of a signal's export request.

    Args:
        body: protobuf.
        signal: ``traces`` or ``metrics``.

    Raises:
        CodecError: the body is no such message, or ``opentelemetry-proto`` is not installed.
    """
    module, name = _REQUESTS[signal]
    try:
        # Imported here: the import takes tens of milliseconds, and readers of the journal do not need it.
        from google.protobuf.message import DecodeError  # noqa: PLC0415

        message = getattr(import_module(module), name)
    except ImportError:
        raise CodecError(
            "OTLP protobuf cannot be read: opentelemetry-proto is not installed",
            hint="pip install opentelemetry-proto, or let the sender use OTLP JSON",
        ) from None
    try:
        return message.FromString(body)
    except DecodeError as error:
        raise CodecError(f"not an OTLP {signal} request: {error}") from None
