"""Which transport a signal's settings ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_core.errors import SinkError

if TYPE_CHECKING:
    from esper_sink_otlp.settings import SignalSettings
    from esper_sink_otlp.transport import Transport

__all__ = ["open_transport"]


def open_transport(settings: SignalSettings) -> Transport:
    """The transport for a signal. Opens no connection yet.

    Raises:
        SinkError: gRPC is asked for and grpcio is not installed, or a certificate file cannot be read.
    """
    if settings.protocol == "grpc":
        try:
            from esper_sink_otlp.grpc_transport import GrpcTransport  # noqa: PLC0415  # grpcio is an extra
        except ModuleNotFoundError as error:
            raise SinkError(
                "the otlp sink cannot speak gRPC: grpcio is not installed",
                hint="pip install 'esper-sink-otlp[grpc]', or protocol = \"http/protobuf\" and port 4318",
            ) from error
        return GrpcTransport(settings)
    from esper_sink_otlp.http_transport import HttpTransport  # noqa: PLC0415  # not both

    return HttpTransport(settings)
