"""``[sink.otlp]``: every option, its unit, and which ``OTEL_*`` variable it falls through to when unset."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from esper_core.hooks import Secret  # noqa: TC001  # msgspec resolves the annotation at run time

__all__ = ["OtlpConfig", "Signal"]

Signal = Literal["traces", "metrics", "logs"]
# A year: a wait that is longer overflows the system's clock.
Seconds = Annotated[float, Meta(gt=0, le=31_536_000)]
# A collection costs some 10 ms of the trainer's processor: 100 a second, of an interval of 1 ms, leave little of it.
Interval = Annotated[float, Meta(ge=0.1, le=31_536_000)]
Count = Annotated[int, Meta(ge=1)]


def _doc(text: str, **bounds: float) -> Meta:
    return Meta(description=text, **bounds)  # type: ignore[no-any-return,call-overload]  # gt or ge, as schema.py does


class OtlpConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[sink.otlp]``. What is left unset is read from ``OTEL_*``; what is unset there too has the default named here.

    Precedence for each signal: this table, ``OTEL_EXPORTER_OTLP_<SIGNAL>_*``, ``OTEL_EXPORTER_OTLP_*``, default.
    """

    endpoint: Annotated[
        str,
        _doc(
            "base URL of the Collector, paths are added; OTEL_EXPORTER_OTLP_ENDPOINT, else http://localhost:4318 "
            "(gRPC: http://localhost:4317)"
        ),
    ] = ""
    traces_endpoint: Annotated[str, _doc("full URL for spans, used as it is; OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")] = ""
    metrics_endpoint: Annotated[
        str, _doc("full URL for metrics, used as it is; OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")
    ] = ""
    logs_endpoint: Annotated[str, _doc("full URL for log events, used as it is; OTEL_EXPORTER_OTLP_LOGS_ENDPOINT")] = ""
    protocol: Annotated[
        Literal["", "http/protobuf", "grpc"],
        _doc("OTEL_EXPORTER_OTLP_PROTOCOL, else http/protobuf"),
    ] = ""
    signals: Annotated[
        tuple[Signal, ...], _doc('what is sent; logs are sent only with [otel] events = "log" or "both"')
    ] = ("traces", "metrics", "logs")
    headers: Annotated[
        dict[str, Secret], _doc("sent with every request, for example a token; added to OTEL_EXPORTER_OTLP_HEADERS")
    ] = field(default_factory=dict)
    compression: Annotated[
        Literal["", "none", "gzip", "deflate"],
        _doc("OTEL_EXPORTER_OTLP_COMPRESSION, else gzip; deflate only over HTTP"),
    ] = ""
    insecure: Annotated[
        bool | None, _doc("gRPC without TLS for an endpoint without http:// or https://; OTEL_EXPORTER_OTLP_INSECURE")
    ] = None
    certificate: Annotated[
        str,
        _doc(
            "file with the certificate authority to trust; OTEL_EXPORTER_OTLP_CERTIFICATE, else the exporter's own: "
            "certifi's over HTTP (or REQUESTS_CA_BUNDLE), gRPC's over gRPC"
        ),
    ] = ""
    client_certificate: Annotated[
        str, _doc("file with the client's certificate (mTLS); OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE")
    ] = ""
    client_key: Annotated[str, _doc("file with the client's key (mTLS); OTEL_EXPORTER_OTLP_CLIENT_KEY")] = ""
    timeout_s: Annotated[
        Seconds | None,
        _doc(
            "seconds one request may take; OTEL_EXPORTER_OTLP_TIMEOUT (seconds, as the Python SDK reads it), else 10",
        ),
    ] = None
    interval_s: Annotated[
        Interval | None,
        _doc(
            "seconds between two metric collections, at least 0.1; OTEL_METRIC_EXPORT_INTERVAL (milliseconds), else 10"
        ),
    ] = None
    update_interval_s: Annotated[
        float,
        _doc(
            "least seconds between two collections that PPO updates cause; updates in between share one collection, "
            "each keeps its own gauge points",
            ge=0,
            le=31_536_000,
        ),
    ] = 0.5
    temporality: Annotated[
        Literal["", "cumulative", "delta", "lowmemory"],
        _doc("of counters and histograms; OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE, else cumulative"),
    ] = ""
    queue_size: Annotated[
        Count | None,
        _doc(
            "spans, updates' gauge points, and log events, held while the Collector is away; OTEL_BSP_MAX_QUEUE_SIZE "
            "(log events: OTEL_BLRP_MAX_QUEUE_SIZE), else 4096",
        ),
    ] = None
    batch_size: Annotated[
        Count | None,
        _doc(
            "spans, or log events, in one request; OTEL_BSP_MAX_EXPORT_BATCH_SIZE "
            "(log events: OTEL_BLRP_MAX_EXPORT_BATCH_SIZE), else 512"
        ),
    ] = None
    batch_bytes: Annotated[
        int,
        _doc(
            "bytes in one request before compression, estimated; a larger batch is halved; gRPC servers refuse 4 MiB",
            ge=1,
        ),
    ] = 2 * 1024 * 1024
    delay_s: Annotated[
        Seconds | None,
        _doc(
            "seconds a span or log event waits for others; OTEL_BSP_SCHEDULE_DELAY "
            "(log events: OTEL_BLRP_SCHEDULE_DELAY; milliseconds), else 1"
        ),
    ] = None
    close_timeout_s: Annotated[
        float,
        _doc("seconds to send what is left when the run ends; keep it below run.close_timeout_s", gt=0, le=31_536_000),
    ] = 2.5
    replay_window_s: Annotated[
        float,
        _doc(
            "gauge points older than this are kept out: the backend's out-of-order window, in seconds; one point "
            "that is too old would cost Prometheus' whole batch",
            gt=0,
            le=1e9,
        ),
    ] = 7200.0
