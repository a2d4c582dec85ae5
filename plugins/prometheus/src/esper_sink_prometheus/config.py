"""``[sink.prometheus]``: every option, its unit, and which ``OTEL_*`` variable it falls through to when unset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta, Struct

from esper_core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["PrometheusConfig", "address"]

_HOST: Final = "OTEL_EXPORTER_PROMETHEUS_HOST"
_PORT: Final = "OTEL_EXPORTER_PROMETHEUS_PORT"
_LAST_PORT: Final = 65535


class PrometheusConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[sink.prometheus]``."""

    host: Annotated[
        str,
        Meta(
            description="address to serve on; OTEL_EXPORTER_PROMETHEUS_HOST, else 127.0.0.1. Anyone who reaches it "
            "reads the page"
        ),
    ] = ""
    port: Annotated[
        Annotated[int, Meta(ge=0, le=_LAST_PORT)] | None,
        Meta(description="0 takes any free port; OTEL_EXPORTER_PROMETHEUS_PORT, else 9464"),
    ] = None
    linger_s: Annotated[
        float,
        Meta(
            description="seconds that the end of a run waits for one more scrape, when there was one before: else "
            "Prometheus never reads how the run ended; keep it below run.close_timeout_s",
            ge=0,
            le=3600,
        ),
    ] = 2.5


def address(config: PrometheusConfig, env: Mapping[str, str]) -> tuple[str, int]:
    """Host and port in force.

    Raises:
        ConfigError: the variable of the port is no port.
    """
    host = config.host or env.get(_HOST, "").strip() or "127.0.0.1"
    if config.port is not None:
        return host, config.port
    text = env.get(_PORT, "").strip() or "9464"
    if not text.isascii() or not text.isdigit() or int(text[:6]) > _LAST_PORT:
        raise ConfigError(
            f"{_PORT} is {text!r}, which is no port", hint=f"set it to 0 to {_LAST_PORT}, or set sink.prometheus.port"
        )
    return host, int(text)
