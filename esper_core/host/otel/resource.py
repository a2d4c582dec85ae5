"""Builds the run's OpenTelemetry resource. It needs no SDK: the journal carries the resource too."""

from __future__ import annotations

import socket
import uuid
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING
from urllib.parse import unquote

from esper_core import ids
from esper_core.host.otel.variables import resource_pairs
from esper_core.semconv.attributes import int64
from esper_core.semconv.identity import ALGORITHM, ATTEMPT, ENVIRONMENT, RANK, RUN_ID
from esper_core.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ResourceValue", "run_resource", "sdk_attributes", "traceparent"]

ResourceValue = str | int | float | bool
_DEFAULT_SERVICE = "esper"


def run_resource(
    *,
    run_id: str,
    attempt: int,
    rank: int,
    environment: str,
    env: Mapping[str, str],
    extra: Mapping[str, ResourceValue] | None = None,
    algorithm: str = "ppo",
) -> dict[str, ResourceValue]:
    """Build the resource attributes of one attempt at a run.

    Args:
        run_id: the run's id.
        attempt: counts from 1.
        rank: the rank of this process.
        environment: id of the environment; left out when empty.
        env: ``OTEL_RESOURCE_ATTRIBUTES`` is merged over the service's defaults, ``OTEL_SERVICE_NAME`` over both.
        extra: merged last.
        algorithm: ``ppo``.

    Raises:
        ConfigError: an entry of ``OTEL_RESOURCE_ATTRIBUTES`` is no pair.
    """
    resource: dict[str, ResourceValue] = {
        "service.name": _DEFAULT_SERVICE,
        "service.version": __version__,
        "service.instance.id": str(uuid.UUID(int=ids.new_trace_id(), version=4)),
        # Set here and not by a Collector, so that a journal replayed on another machine keeps its host.
        "host.name": socket.gethostname(),
    }
    resource |= {key: unquote(value) for key, value in resource_pairs(env)}
    if env.get("OTEL_SERVICE_NAME"):
        resource["service.name"] = env["OTEL_SERVICE_NAME"]
    resource |= {
        RUN_ID: run_id,
        ATTEMPT: int64(attempt),
        RANK: int64(rank),
        ALGORITHM: algorithm,
    }
    if environment:
        resource[ENVIRONMENT] = environment
    return resource | dict(extra or {})


def sdk_attributes() -> dict[str, ResourceValue]:
    """What the SDK adds to every live resource, and no journal has: with it a replay's resource is the live one."""
    try:
        found = version("opentelemetry-sdk")
    except PackageNotFoundError:
        return {}
    return {
        "telemetry.sdk.language": "python",
        "telemetry.sdk.name": "opentelemetry",
        "telemetry.sdk.version": found,
    }


def traceparent(env: Mapping[str, str]) -> dict[str, str]:
    """The W3C trace context from the environment variables, as a carrier; empty when there is none."""
    return {
        header: env[name]
        for header, name in (("traceparent", "TRACEPARENT"), ("tracestate", "TRACESTATE"))
        if env.get(name)
    }
