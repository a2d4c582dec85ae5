"""The variables that the OpenTelemetry SDK's providers read, in one table: a value that they cannot use is an error.

The SDK itself takes most of them for unset, in a warning that nobody reads, and then records what nobody asked for.
A variable is held to its row only where a provider of that signal is built: it may be meant for another program.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Final, Literal

from esper_core.errors import ConfigError, nearest
from esper_core.masking import redact

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["TABLE", "Variable", "check_variables", "limit_notices", "resource_pairs"]

Reader = Literal["resource", "api", "sdk", "traces", "metrics", "logs"]
"""Who reads a variable: the run's resource, the API in every run, every provider of the SDK, or that of one signal."""

SDK_LIMIT: Final = 128
"""The SDK's own limit on attributes, events and links; an update of Esper stays below it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Variable:
    """One variable.

    Attributes:
        reader: who reads it.
        expected: what it may hold, for people.
        usable: whether a value, which is not empty, is that.
        after: another variable and its values under which alone this one is read.
    """

    reader: Reader
    expected: str
    usable: Callable[[str], bool]
    after: tuple[str, tuple[str, ...]] | None = None


def _is_limit(value: str) -> bool:
    try:
        return int(value.strip()) >= 0
    except ValueError:
        return False


def _is_ratio(value: str) -> bool:
    try:
        return 0.0 <= float(value) <= 1.0
    except ValueError:
        return False


def _is_known(*known: str) -> Callable[[str], bool]:
    return lambda value: value.lower() in known


def _is_pairs(value: str) -> bool:
    return all(separator and key.strip() for key, separator, _ in _parts(value))


def _parts(value: str) -> list[tuple[str, str, str]]:
    return [part.partition("=") for part in value.split(",") if part.strip()]


def _are_detectors(value: str) -> bool:
    names = {name.strip() for name in value.split(",") if name.strip()} - {"*"}
    return names <= entry_points(group="opentelemetry_resource_detector").names


def _is_entry(group: str) -> Callable[[str], bool]:
    return lambda value: value in entry_points(group=group).names


def _is_switch(value: str) -> bool:
    return value.strip().lower() in ("true", "false")


_SAMPLERS: Final = (
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
)
_EXEMPLARS: Final = ("trace_based", "always_on", "always_off")


def _limit(reader: Reader) -> Variable:
    return Variable(reader=reader, expected="a whole number, 0 or more", usable=_is_limit)


def _provider(signal: str) -> Variable:
    group = f"opentelemetry_{signal}_provider"
    return Variable(reader="api", expected=f"an installed entry point of the group {group}", usable=_is_entry(group))


def _switch(reader: Reader) -> Variable:
    return Variable(reader=reader, expected="true or false", usable=_is_switch)


TABLE: Final[Mapping[str, Variable]] = {
    "OTEL_RESOURCE_ATTRIBUTES": Variable(
        reader="resource", expected="key=value,key2=value2, values URL-encoded", usable=_is_pairs
    ),
    "OTEL_PYTHON_TRACER_PROVIDER": _provider("tracer"),
    "OTEL_PYTHON_METER_PROVIDER": _provider("meter"),
    "OTEL_PYTHON_LOGGER_PROVIDER": _provider("logger"),
    "OTEL_SDK_DISABLED": _switch("sdk"),
    "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED": _switch("sdk"),
    "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": Variable(
        reader="sdk", expected="installed detectors of resources, separated by commas", usable=_are_detectors
    ),
    "OTEL_TRACES_SAMPLER": Variable(reader="traces", expected=", ".join(_SAMPLERS), usable=_is_known(*_SAMPLERS)),
    "OTEL_TRACES_SAMPLER_ARG": Variable(
        reader="traces",
        expected="a number from 0 to 1",
        usable=_is_ratio,
        after=("OTEL_TRACES_SAMPLER", ("traceidratio", "parentbased_traceidratio")),
    ),
    "OTEL_METRICS_EXEMPLAR_FILTER": Variable(
        reader="metrics", expected=", ".join(_EXEMPLARS), usable=_is_known(*_EXEMPLARS)
    ),
    "OTEL_ATTRIBUTE_COUNT_LIMIT": _limit("traces"),
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": _limit("traces"),
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": _limit("traces"),
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": _limit("traces"),
    "OTEL_SPAN_EVENT_COUNT_LIMIT": _limit("traces"),
    "OTEL_SPAN_LINK_COUNT_LIMIT": _limit("traces"),
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT": _limit("traces"),
    "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT": _limit("traces"),
    "OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT": _limit("logs"),
    "OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT": _limit("logs"),
}
"""What the API, the SDK's providers and the resource read; what exporters read is the sinks' own affair."""


def check_variables(env: Mapping[str, str], *readers: Reader) -> None:
    """Hold the variables of these readers to the table. An empty value is an unset one.

    Raises:
        ConfigError: a variable cannot be used; the message names it.
    """
    for name, row in TABLE.items():
        value = env.get(name, "")
        if row.reader not in readers or not value.strip() or row.usable(value):
            continue
        if row.after is not None and env.get(row.after[0], "").lower() not in row.after[1]:
            continue
        known = row.expected.split(", ")
        raise ConfigError(
            f"{name}={redact(value)}: OpenTelemetry cannot use it{nearest(value, known)}",
            hint=f"unset it, or set {row.expected}",
        )


def resource_pairs(env: Mapping[str, str]) -> list[tuple[str, str]]:
    """Keys and values of ``OTEL_RESOURCE_ATTRIBUTES``, still URL-encoded.

    Raises:
        ConfigError: an entry is no pair.
    """
    check_variables(env, "resource")
    return [(key.strip(), value.strip()) for key, _, value in _parts(env.get("OTEL_RESOURCE_ATTRIBUTES", ""))]


def limit_notices(env: Mapping[str, str]) -> list[str]:
    """A line for each limit below the SDK's own: what is beyond it never leaves the process, and no account counts it.

    Args:
        env: the process environment.
    """
    counts = [name for name in TABLE if name.endswith("_COUNT_LIMIT") and name != "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT"]
    set_low = [name for name in counts if env.get(name, "").isdecimal() and int(env[name]) < SDK_LIMIT]
    return [
        f"{name}={env[name]} makes the OpenTelemetry SDK drop what is beyond it from spans and log records, the KL "
        f"perhaps among it, and nothing counts that; unset it, or set {SDK_LIMIT} or more"
        for name in set_low
    ]
