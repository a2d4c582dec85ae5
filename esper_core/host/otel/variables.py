"""What the OpenTelemetry SDK says to a variable that it cannot use, as an error of the configuration."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from esper_core.errors import ConfigError
from esper_core.masking import redact

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["refusing_variables"]


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
