"""Variables that exporters read beside the settings, in one table: a value that cannot work is an error.

``settings.py`` resolves what a request needs and holds it to the bounds of the table. Here is the rest: what the
exporters read by themselves, what other exporters of the same environment read, and the proxies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from esper_core.errors import ConfigError
from esper_core.hooks import redact

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from esper_sink_otlp.config import Signal
    from esper_sink_otlp.settings import SignalSettings

__all__ = ["TABLE", "check_proxies", "check_variables"]


@dataclass(frozen=True, slots=True)
class _Row:
    """What a variable may hold, for people, and whether a value, which is not empty, is that."""

    expected: str
    usable: Callable[[str], bool]


def _is_switch(value: str) -> bool:
    return value.lower() in ("true", "false")


def _is_time(value: str) -> bool:
    try:
        return 0.0 < float(value) < math.inf
    except ValueError:
        return False


def _are_codes(value: str) -> bool:
    return {code.strip().upper() for code in value.split(",") if code.strip()} <= _GRPC_CODES


def _is_credential(value: str) -> bool:
    return value in entry_points(group="opentelemetry_otlp_credential_provider").names


_GRPC_CODES: Final = frozenset(
    {
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    }
)
"""grpc.StatusCode; only the protocol in use is imported."""
_SWITCH: Final = _Row("true or false", _is_switch)
_MILLISECONDS: Final = _Row("milliseconds, more than 0", _is_time)
_CREDENTIAL: Final = _Row(
    "an installed entry point of the group opentelemetry_otlp_credential_provider", _is_credential
)

_ANY: Final[tuple[Signal, ...]] = ("traces", "metrics", "logs")
_WHICH: Final[Mapping[str, tuple[Signal, ...]]] = {
    "": _ANY,
    "TRACES_": ("traces",),
    "METRICS_": ("metrics",),
    "LOGS_": ("logs",),
}

TABLE: Final[Mapping[str, tuple[tuple[Signal, ...], _Row]]] = {
    "OTEL_EXPORTER_OTLP_INSECURE": (_ANY, _SWITCH),
    "OTEL_EXPORTER_OTLP_TRACES_INSECURE": (("traces",), _SWITCH),
    "OTEL_EXPORTER_OTLP_METRICS_INSECURE": (("metrics",), _SWITCH),
    "OTEL_EXPORTER_OTLP_LOGS_INSECURE": (("logs",), _SWITCH),
    "OTEL_BSP_EXPORT_TIMEOUT": (("traces",), _MILLISECONDS),
    "OTEL_BLRP_EXPORT_TIMEOUT": (("logs",), _MILLISECONDS),
    "OTEL_METRIC_EXPORT_TIMEOUT": (("metrics",), _MILLISECONDS),
    "OTEL_PYTHON_EXPORTER_OTLP_GRPC_RETRYABLE_ERROR_CODES": (
        _ANY,
        _Row("names of gRPC's status codes, separated by commas", _are_codes),
    ),
    **{
        f"OTEL_PYTHON_EXPORTER_OTLP_{protocol}_{which}CREDENTIAL_PROVIDER": (signals, _CREDENTIAL)
        for protocol in ("HTTP", "GRPC")
        for which, signals in _WHICH.items()
    },
}
"""Each with the signals whose exporters read it."""


def check_variables(env: Mapping[str, str], signals: Collection[Signal]) -> None:
    """Hold the variables of these signals to the table. An empty value is an unset one.

    Raises:
        ConfigError: a variable cannot be used; the message names it.
    """
    for name, (readers, row) in TABLE.items():
        value = env.get(name, "").strip()
        if value and set(readers) & set(signals) and not row.usable(value):
            raise ConfigError(
                f"{name}={redact(value)}: the otlp sink cannot use it", hint=f"unset it, or set {row.expected}"
            )


# --- proxies --------------------------------------------------------------------------------------


def check_proxies(env: Mapping[str, str], settings: SignalSettings) -> None:
    """Hold the variable that names an endpoint's proxy to what can be one, unless ``NO_PROXY`` excepts the endpoint.

    Raises:
        ConfigError: it is no URL of a proxy; the message names the variable.
    """
    from requests.utils import should_bypass_proxies  # noqa: PLC0415  # only gRPC is used, perhaps

    scheme = "https" if settings.secure else "http"
    url = settings.endpoint if "://" in settings.endpoint else f"{scheme}://{settings.endpoint}"
    # gRPC reads the small ones alone; requests reads both, the small ones first.
    asked = (
        ("grpc_proxy", "https_proxy", "http_proxy") if settings.protocol == "grpc" else (f"{scheme}_proxy", "all_proxy")
    )
    names = asked if settings.protocol == "grpc" else tuple(item for name in asked for item in (name, name.upper()))
    found = next(((name, env[name].strip()) for name in names if env.get(name, "").strip()), None)
    if found is None or should_bypass_proxies(url, no_proxy=env.get("no_proxy") or env.get("NO_PROXY")):
        return
    known = ("http",) if settings.protocol == "grpc" else ("http", "https", *_socks())
    name, value = found
    if not _is_proxy(value, known):
        socks = " (socks needs `pip install pysocks`)" if value.startswith("socks") and len(known) == 2 else ""
        raise ConfigError(
            f"{name}={redact(value)}: no proxy that the otlp sink can use{socks}",
            hint="unset it, set NO_PROXY for the endpoint, or set http://HOST:PORT",
        )


def _socks() -> tuple[str, ...]:
    return ("socks4", "socks4a", "socks5", "socks5h") if find_spec("socks") is not None else ()


def _is_proxy(value: str, known: Collection[str]) -> bool:
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        return (
            parts.scheme.lower() in known and bool(parts.hostname) and parts.port != 0 and not set(value) & set(" \t\n")
        )
    except ValueError:  # a port that is none, brackets without an address
        return False
