"""From ``[sink.otlp]`` and ``OTEL_*`` to what one signal's exporter needs. Pure: reads only what it is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar, cast, get_args
from urllib.parse import unquote, urlsplit

from esper_core.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from esper_sink_otlp.config import OtlpConfig, Signal

__all__ = ["Compression", "MetricSettings", "Protocol", "SignalSettings", "SpanSettings", "resolve"]

Protocol = Literal["http/protobuf", "grpc"]
Compression = Literal["none", "gzip", "deflate"]
Temporality = Literal["cumulative", "delta", "lowmemory"]
ValueT = TypeVar("ValueT")


@dataclass(frozen=True, kw_only=True, slots=True)
class SignalSettings:
    """How one signal travels.

    Attributes:
        signal: traces or metrics.
        protocol: http/protobuf or grpc.
        endpoint: HTTP: the full URL; gRPC: ``host:port``.
        secure: whether TLS is used.
        headers: lower-case names; values are secrets: never log them.
        compression: of the request's body.
        certificate: file with the authority to trust, or None for the system's.
        client_certificate: file, mTLS.
        client_key: file, mTLS.
        timeout_s: of one request.
    """

    signal: Signal
    protocol: Protocol
    endpoint: str
    secure: bool
    headers: tuple[tuple[str, str], ...]
    compression: Compression
    certificate: str | None
    client_certificate: str | None
    client_key: str | None
    timeout_s: float

    def __repr__(self) -> str:
        names = ", ".join(name for name, _ in self.headers)
        return f"SignalSettings({self.signal}, {self.protocol}, {self.endpoint}, headers: {names or 'none'})"


@dataclass(frozen=True, kw_only=True, slots=True)
class SpanSettings:
    """How spans are gathered into requests."""

    queue_size: int
    batch_size: int
    delay_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricSettings:
    """When metrics are collected, and how they accumulate."""

    interval_s: float
    temporality: Temporality
    exponential: bool


class _Reader:
    """Looks a value up in the table, then in the signal's variable, then in the general one."""

    def __init__(self, env: Mapping[str, str], signal: Signal) -> None:
        self._env = env
        self._prefixes = (f"OTEL_EXPORTER_OTLP_{signal.upper()}_", "OTEL_EXPORTER_OTLP_")

    def variable(self, key: str) -> tuple[str, str] | None:
        """Name and value of the first variable that is set and not empty."""
        for prefix in self._prefixes:
            value = self._env.get(prefix + key, "").strip()
            if value:
                return prefix + key, value
        return None

    def text(self, own: str, key: str, default: str = "") -> str:
        if own:
            return own
        found = self.variable(key)
        return found[1] if found else default

    def choice(self, own: str, key: str, known: tuple[str, ...], default: str) -> str:
        if own:
            return own
        found = self.variable(key)
        if found is None:
            return default
        name, value = found
        if value.lower() not in known:
            raise ConfigError(
                f"{name}={value}: the otlp sink does not know it{nearest(value, known)}",
                hint=f"known: {', '.join(known)}",
            )
        return value.lower()


def resolve(config: OtlpConfig, env: Mapping[str, str], signal: Signal) -> SignalSettings:
    """Settings of one signal.

    Raises:
        ConfigError: a value cannot be used; the message names the key or the variable.
    """
    reader = _Reader(env, signal)
    protocol = cast("Protocol", reader.choice(config.protocol, "PROTOCOL", get_args(Protocol), "http/protobuf"))
    compression = cast("Compression", reader.choice(config.compression, "COMPRESSION", get_args(Compression), "gzip"))
    if protocol == "grpc" and compression == "deflate":
        raise ConfigError("sink.otlp.compression = deflate is not known to gRPC", hint="use gzip or none")
    if protocol == "grpc":
        endpoint, secure = _grpc_endpoint(config, signal, reader)
    else:
        endpoint, secure = _http_endpoint(config, env, signal)
    certificate = reader.text(config.certificate, "CERTIFICATE") or None
    client_certificate = reader.text(config.client_certificate, "CLIENT_CERTIFICATE") or None
    client_key = reader.text(config.client_key, "CLIENT_KEY") or None
    if bool(client_certificate) != bool(client_key):
        raise ConfigError(
            "sink.otlp: mTLS needs both client_certificate and client_key",
            hint="set both, or their OTEL_EXPORTER_OTLP_CLIENT_* variables",
        )
    found = reader.variable("HEADERS")
    headers = _parse_headers(*found) if found else {}
    headers.update({name.lower(): value.reveal() for name, value in config.headers.items()})
    timeout = config.timeout_s
    if timeout is None:
        found = reader.variable("TIMEOUT")
        timeout = _number(*found, float) if found else 10.0
    return SignalSettings(
        signal=signal,
        protocol=protocol,
        endpoint=endpoint,
        secure=secure,
        headers=tuple(headers.items()),
        compression=compression,
        certificate=certificate,
        client_certificate=client_certificate,
        client_key=client_key,
        timeout_s=timeout,
    )


def span_settings(config: OtlpConfig, env: Mapping[str, str]) -> SpanSettings:
    """Queue, batch and delay of spans."""
    queue = config.queue_size or _variable(env, "OTEL_BSP_MAX_QUEUE_SIZE", int, 4096)
    batch = config.batch_size or _variable(env, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", int, 512)
    delay = config.delay_s
    if delay is None:
        delay = _variable(env, "OTEL_BSP_SCHEDULE_DELAY", float, 1000.0) / 1000.0
    return SpanSettings(queue_size=queue, batch_size=min(batch, queue), delay_s=delay)


def metric_settings(config: OtlpConfig, env: Mapping[str, str]) -> MetricSettings:
    """Interval, temporality and histogram form of metrics."""
    interval = config.interval_s
    if interval is None:
        interval = _variable(env, "OTEL_METRIC_EXPORT_INTERVAL", float, 10_000.0) / 1000.0
    known = get_args(Temporality)
    name = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
    temporality = config.temporality or env.get(name, "").strip().lower() or "cumulative"
    if temporality not in known:
        raise ConfigError(f"{name}={temporality}: not a temporality", hint=f"known: {', '.join(known)}")
    histogram = env.get("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "").strip().lower()
    return MetricSettings(
        interval_s=interval,
        temporality=cast("Temporality", temporality),
        exponential=histogram == "base2_exponential_bucket_histogram",
    )


def _http_endpoint(config: OtlpConfig, env: Mapping[str, str], signal: Signal) -> tuple[str, bool]:
    """The table before the variables; within each, the signal's full URL before the base."""
    own = config.traces_endpoint if signal == "traces" else config.metrics_endpoint
    full = env.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT", "").strip()
    base = env.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip() or "http://localhost:4318"
    if own:
        url = own
    elif config.endpoint:
        url = f"{config.endpoint.removesuffix('/')}/v1/{signal}"
    else:
        url = full or f"{base.removesuffix('/')}/v1/{signal}"
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigError(
            f"otlp endpoint {url!r} is not an http:// or https:// URL",
            hint='for example [sink.otlp] endpoint = "http://localhost:4318"',
        )
    return url, parts.scheme == "https"


def _grpc_endpoint(config: OtlpConfig, signal: Signal, reader: _Reader) -> tuple[str, bool]:
    own = config.traces_endpoint if signal == "traces" else config.metrics_endpoint
    url = reader.text(own or config.endpoint, "ENDPOINT", "http://localhost:4317")
    parts = urlsplit(url if "://" in url else f"//{url}")
    if not parts.hostname or parts.scheme not in {"", "http", "https"}:
        raise ConfigError(
            f"otlp gRPC endpoint {url!r} is not host:port or a URL",
            hint='for example [sink.otlp] endpoint = "http://localhost:4317"',
        )
    if parts.scheme:
        secure = parts.scheme == "https"
    else:
        insecure = config.insecure
        if insecure is None:
            insecure = reader.text("", "INSECURE", "false").lower() == "true"
        secure = not insecure
    return parts.netloc, secure


def _parse_headers(name: str, text: str) -> dict[str, str]:
    """W3C baggage form, as OTEL_EXPORTER_OTLP_HEADERS has it: ``key=value,key2=value2``, values URL-encoded."""
    headers: dict[str, str] = {}
    for part in text.split(","):
        if not part.strip():
            continue
        key, found, value = part.partition("=")
        if not found or not key.strip():
            raise ConfigError(f"{name}: an entry is not key=value", hint="entries are separated by commas")
        headers[unquote(key).strip().lower()] = unquote(value).strip()
    return headers


def _number(name: str, text: str, kind: Callable[[str], ValueT]) -> ValueT:
    try:
        return kind(text)
    except ValueError:
        raise ConfigError(f"{name}={text}: not a number", hint="unset it, or set the key in [sink.otlp]") from None


def _variable(env: Mapping[str, str], name: str, kind: Callable[[str], ValueT], default: ValueT) -> ValueT:
    text = env.get(name, "").strip()
    return _number(name, text, kind) if text else default
