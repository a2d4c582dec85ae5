"""From ``[sink.otlp]`` and ``OTEL_*`` to what one signal's exporter needs. Pure: reads only what it is given.

The SDK's exporters read most variables themselves, but they take what cannot work (an interval of 0 is a loop, a
timeout of NaN loses all, a malformed header is printed in a warning). So each value is held here to the bounds of the
table, before training starts, and handed to them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, cast, get_args
from urllib.parse import unquote, urlsplit

import msgspec

from esper_core.errors import ConfigError, nearest
from esper_core.hooks import redact
from esper_sink_otlp.config import OtlpConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from esper_sink_otlp.config import Signal

__all__ = [
    "Compression",
    "MetricSettings",
    "Protocol",
    "QueueSettings",
    "SignalSettings",
    "metric_settings",
    "queue_settings",
    "resolve",
]

Protocol = Literal["http/protobuf", "grpc"]
Compression = Literal["none", "gzip", "deflate"]
Temporality = Literal["cumulative", "delta", "lowmemory"]
Histogram = Literal["explicit_bucket_histogram", "base2_exponential_bucket_histogram"]

_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 token
_HEADER_VALUE: Final = re.compile(r"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")
_GRPC_NAME: Final = re.compile(r"(?!grpc-)[0-9a-z_.-]+")
_GRPC_VALUE: Final = re.compile(r"[\x20-\x7e]*")
_UNUSABLE_IN_URL: Final = re.compile(r"[\x00-\x20\x7f]")


@dataclass(frozen=True, kw_only=True, slots=True)
class SignalSettings:
    """How one signal travels.

    Attributes:
        signal: traces, metrics or logs.
        protocol: http/protobuf or grpc.
        endpoint: HTTP: the full URL, which may hold a password; gRPC: ``host:port``.
        secure: whether TLS is used.
        headers: lower-case names; values are secrets: never log them.
        compression: of the request's body.
        certificate: file with the authority to trust, or None for the exporter's default.
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

    @property
    def shown(self) -> str:
        """The endpoint without its secrets, with a scheme, for people."""
        scheme = ("grpcs" if self.secure else "grpc") + "://" if self.protocol == "grpc" else ""
        return f"{scheme}{redact(self.endpoint)}"

    def __repr__(self) -> str:
        # Not their names: in OTEL_EXPORTER_OTLP_HEADERS a token without a name is taken for one.
        return f"SignalSettings({self.signal}, {self.protocol}, {self.shown}, headers: {len(self.headers)})"


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueSettings:
    """How spans, or log records, are gathered into requests."""

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

    def __init__(self, config: OtlpConfig, env: Mapping[str, str], signal: Signal) -> None:
        self._config = config
        self._env = env
        self._prefixes = (f"OTEL_EXPORTER_OTLP_{signal.upper()}_", "OTEL_EXPORTER_OTLP_")

    def variable(self, key: str) -> tuple[str, str] | None:
        """Name and value of the first variable that is set and not empty."""
        for prefix in self._prefixes:
            value = self._env.get(prefix + key, "").strip()
            if value:
                return prefix + key, value
        return None

    def text(self, key: str) -> str:
        own = getattr(self._config, key)
        found = ("", own) if own else self.variable(key.upper())
        return found[1] if found else ""

    def choice(self, key: str, known: tuple[str, ...], default: str) -> str:
        own: str = getattr(self._config, key)
        found = None if own else self.variable(key.upper())
        return _one_of(*found, known) if found else own or default


def resolve(config: OtlpConfig, env: Mapping[str, str], signal: Signal) -> SignalSettings:
    """Settings of one signal.

    Raises:
        ConfigError: a value cannot be used; the message names the key or the variable, and no secret.
    """
    reader = _Reader(config, env, signal)
    protocol = cast("Protocol", reader.choice("protocol", get_args(Protocol), "http/protobuf"))
    compression = cast("Compression", reader.choice("compression", get_args(Compression), "gzip"))
    if protocol == "grpc" and compression == "deflate":
        raise ConfigError("sink.otlp.compression = deflate is not known to gRPC", hint="use gzip or none")
    if protocol == "grpc":
        endpoint, secure = _grpc_endpoint(config, signal, reader)
    else:
        endpoint, secure = _http_endpoint(config, env, signal)
    client_certificate, client_key = reader.text("client_certificate") or None, reader.text("client_key") or None
    if bool(client_certificate) != bool(client_key):
        raise ConfigError(
            "sink.otlp: mTLS needs both client_certificate and client_key",
            hint="set both, or their OTEL_EXPORTER_OTLP_CLIENT_* variables",
        )
    found = reader.variable("TIMEOUT")
    timeout = config.timeout_s or (_number(*found, "timeout_s") if found else 10.0)
    return SignalSettings(
        signal=signal,
        protocol=protocol,
        endpoint=endpoint,
        secure=secure,
        headers=_headers(config, reader, protocol),
        compression=compression,
        certificate=reader.text("certificate") or None,
        client_certificate=client_certificate,
        client_key=client_key,
        timeout_s=timeout,
    )


def queue_settings(config: OtlpConfig, env: Mapping[str, str], signal: Literal["traces", "logs"]) -> QueueSettings:
    """Queue, batch and delay of spans or log records: the table, then the variables of the SDK's batch processor.

    Raises:
        ConfigError: a variable cannot be used.
    """
    prefix = "OTEL_BSP_" if signal == "traces" else "OTEL_BLRP_"
    queue = config.queue_size or int(_variable(env, f"{prefix}MAX_QUEUE_SIZE", "queue_size", 4096))
    batch = config.batch_size or int(_variable(env, f"{prefix}MAX_EXPORT_BATCH_SIZE", "batch_size", 512))
    delay = config.delay_s or _variable(env, f"{prefix}SCHEDULE_DELAY", "delay_s", 1.0, scale=1e-3)
    return QueueSettings(queue_size=queue, batch_size=min(batch, queue), delay_s=delay)


def metric_settings(config: OtlpConfig, env: Mapping[str, str]) -> MetricSettings:
    """Interval, temporality and histogram form of metrics."""
    interval = config.interval_s or _variable(env, "OTEL_METRIC_EXPORT_INTERVAL", "interval_s", 10.0, scale=1e-3)
    prefix = "OTEL_EXPORTER_OTLP_METRICS_"
    names = (f"{prefix}TEMPORALITY_PREFERENCE", f"{prefix}DEFAULT_HISTOGRAM_AGGREGATION")
    temporality, histogram = (env.get(name, "").strip() for name in names)
    return MetricSettings(
        interval_s=interval,
        temporality=config.temporality
        or cast("Temporality", _one_of(names[0], temporality or "cumulative", get_args(Temporality))),
        exponential=_one_of(names[1], histogram or get_args(Histogram)[0], get_args(Histogram))
        == get_args(Histogram)[1],
    )


# --- endpoints ------------------------------------------------------------------------------------


def _http_endpoint(config: OtlpConfig, env: Mapping[str, str], signal: Signal) -> tuple[str, bool]:
    """The table before the variables; within each, the signal's full URL before the base."""
    full_key, full_name = f"{signal}_endpoint", f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"
    base_name = "OTEL_EXPORTER_OTLP_ENDPOINT"
    candidates = (
        (f"sink.otlp.{full_key}", getattr(config, full_key), False),
        ("sink.otlp.endpoint", config.endpoint, True),
        (full_name, env.get(full_name, "").strip(), False),
        (base_name, env.get(base_name, "").strip(), True),
    )
    found = (item for item in candidates if item[1])
    origin, url, base = next(found, ("sink.otlp.endpoint", "http://localhost:4318", True))
    scheme = _checked(origin, url, known=("http", "https"), example="http://localhost:4318")
    if "#" in url:
        raise ConfigError(
            f"{origin}: an endpoint has no fragment", hint="leave out # and what follows: it is never sent"
        )
    if base and "?" in url:
        raise ConfigError(
            f"{origin}: a base URL has no query, since /v1/{signal} is added to it",
            hint=f"give the full URL: [sink.otlp] {full_key}, or {full_name}",
        )
    return (f"{url.removesuffix('/')}/v1/{signal}" if base else url), scheme == "https"


def _grpc_endpoint(config: OtlpConfig, signal: Signal, reader: _Reader) -> tuple[str, bool]:
    own_key = f"{signal}_endpoint" if getattr(config, f"{signal}_endpoint") else "endpoint"
    own = getattr(config, own_key)
    found = (f"sink.otlp.{own_key}", own) if own else reader.variable("ENDPOINT")
    origin, url = found or ("sink.otlp.endpoint", "http://localhost:4317")
    with_scheme = url if "://" in url else f"//{url}"
    scheme = _checked(origin, with_scheme, known=("", "http", "https"), example="http://localhost:4317")
    place = urlsplit(with_scheme).netloc
    if "@" in place:
        raise ConfigError(
            f"{origin}: gRPC has no user and password in its address",
            hint="set [sink.otlp] headers, or OTEL_EXPORTER_OTLP_HEADERS",
        )
    if scheme:
        return place, scheme == "https"
    if config.insecure is not None:
        return place, not config.insecure
    insecure = reader.variable("INSECURE")
    return place, insecure is None or insecure[1].lower() != "true"


def _checked(origin: str, url: str, *, known: tuple[str, ...], example: str) -> str:
    """The scheme of a usable URL."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in known and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none, brackets without an address
        usable = False
    if not usable or _UNUSABLE_IN_URL.search(url):
        words = "an http:// or https:// URL with a host" if "" not in known else "host:port or a URL"
        raise ConfigError(
            f"{origin}: {redact(url).removeprefix('//')!r} is not {words}",
            hint=f'for example [sink.otlp] endpoint = "{example}"',
        )
    return parts.scheme


# --- headers --------------------------------------------------------------------------------------


def _headers(config: OtlpConfig, reader: _Reader, protocol: Protocol) -> tuple[tuple[str, str], ...]:
    """The variable's headers, and the table's over them."""
    found = reader.variable("HEADERS")
    headers: dict[str, tuple[str, str]] = {}
    for name, value in _parsed(*found) if found else ():
        headers[name.lower()] = (found[0] if found else "", value)
    for name, secret in config.headers.items():
        headers[name.lower()] = ("sink.otlp.headers", secret.reveal())
    names, values = (_GRPC_NAME, _GRPC_VALUE) if protocol == "grpc" else (_HEADER_NAME, _HEADER_VALUE)
    for name, (origin, value) in headers.items():
        if not names.fullmatch(name):
            # Not quoted: a token without a name before it stands there.
            raise ConfigError(
                f"{origin}: a header has a name that {protocol} cannot carry",
                hint="name=value; a name has letters, digits and hyphens, and over gRPC does not begin with grpc-",
            )
        if not values.fullmatch(value):
            raise ConfigError(
                f"{origin}: the value of {name} has characters that {protocol} cannot carry",
                hint="look for a line break, a space at its end, or letters outside ASCII",
            )
    return tuple((name, value) for name, (_, value) in headers.items())


def _parsed(name: str, text: str) -> list[tuple[str, str]]:
    """W3C baggage form, as OTEL_EXPORTER_OTLP_HEADERS has it: ``key=value,key2=value2``, both URL-encoded."""
    entries = [part.partition("=") for part in text.split(",") if part.strip()]
    # A token in base64 that stands without a name ends in =: it would become the header's name, and be logged as such.
    if any(not separator or not key.strip() or value.strip() in {"=", "=="} for key, separator, value in entries):
        raise ConfigError(f"{name}: an entry is not key=value", hint="entries are separated by commas")
    return [(unquote(key.strip()), unquote(value.strip())) for key, _, value in entries]


# --- numbers and words ----------------------------------------------------------------------------


def _one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    if value.lower() not in known:
        raise ConfigError(
            f"{name}={redact(value)}: the otlp sink does not know it{nearest(value, known)}",
            hint=f"known: {', '.join(known)}",
        )
    return value.lower()


def _variable(env: Mapping[str, str], name: str, key: str, default: float, *, scale: float = 1.0) -> float:
    text = env.get(name, "").strip()
    return _number(name, text, key, scale=scale) if text else default


def _number(name: str, text: str, key: str, *, scale: float = 1.0) -> float:
    """A variable's number, held to the bounds of the table's key; ``scale`` brings it to that key's unit."""
    try:
        number: Any = int(text) if text.lstrip("+-").isdecimal() else float(text)
        scaled = number if scale == 1.0 else number * scale
        found: float = getattr(msgspec.convert({key: scaled}, OtlpConfig), key)
    except msgspec.ValidationError as error:
        reason = str(error).partition(" - at")[0].replace("`", "").replace(" | null", "")
        unit = "" if scale == 1.0 else f" ({key} = {scaled:g})"
        raise ConfigError(
            f"{name}={text}{unit}: {reason[0].lower()}{reason[1:]}", hint=f"unset it, or set [sink.otlp] {key}"
        ) from None
    except (ValueError, OverflowError):
        raise ConfigError(f"{name}={text}: not a number", hint=f"unset it, or set [sink.otlp] {key}") from None
    return found
