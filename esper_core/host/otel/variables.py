"""Variables of the OpenTelemetry SDK: one that it cannot use is an error, one that makes it drop numbers is told."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from esper_core.errors import ConfigError
from esper_core.masking import redact

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["limit_notices", "refusing_variables"]

SDK_LIMIT: Final = 128
"""The SDK's own limit on attributes, events and links; an update of Esper stays below it."""
_COUNT_LIMITS: Final = (
    "OTEL_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_EVENT_COUNT_LIMIT",
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_LINK_COUNT_LIMIT",
    "OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT",
)


def limit_notices(env: Mapping[str, str]) -> list[str]:
    """A line for each limit below the SDK's own: what is beyond it never leaves the process, and no account counts it.

    Args:
        env: the process environment.
    """
    set_low = [name for name in _COUNT_LIMITS if env.get(name, "").isdecimal() and int(env[name]) < SDK_LIMIT]
    return [
        f"{name}={env[name]} makes the OpenTelemetry SDK drop what is beyond it from spans and log records, the KL "
        f"perhaps among it, and nothing counts that; unset it, or set {SDK_LIMIT} or more"
        for name in set_low
    ]


@contextmanager
def refusing_variables(known: str) -> Iterator[None]:
    """Build a provider inside: the SDK reads its variables then, and raises ValueError for a value it cannot use.

    Args:
        known: which variables the provider reads, and what they hold; the SDK does not always name them.

    Raises:
        ConfigError: a variable cannot be used.
    """
    try:
        yield
    except ValueError as error:
        raise ConfigError(redact(str(error)), hint=f"unset the variable: {known}") from None
