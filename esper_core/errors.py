"""Errors that users read: each states what is wrong, where, and what to do next.

Messages are lower-case and name the object and its place (file and key, sink and distribution); the hint states
the next step. The command line prints them as one or two lines and shows a traceback only under ``--debug``.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from esper_core.terminal import encodable

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "EXIT_FAILED",
    "EXIT_LOSSY",
    "EXIT_OK",
    "EXIT_SIGNAL",
    "EXIT_USAGE",
    "ConfigError",
    "EnvironmentContractError",
    "EnvironmentUnsupportedError",
    "EsperError",
    "JournalError",
    "NonFiniteError",
    "RanksError",
    "RunNotFoundError",
    "SinkError",
    "TelemetryLostError",
    "UsageError",
    "error_text",
    "nearest",
]

EXIT_OK = 0
EXIT_FAILED = 1
"""The run, a check or a verification failed."""
EXIT_LOSSY = 5
"""Telemetry was lost and ``--strict-telemetry`` was given."""
EXIT_USAGE = 64
"""Wrong use or configuration (sysexits.h ``EX_USAGE``)."""
EXIT_SIGNAL = 128
"""Added to the number of the signal that ended the run."""


class EsperError(Exception):
    """Base of every error Esper raises on purpose.

    Args:
        message: what is wrong and where.
        hint: what to do next; printed on a line of its own.
    """

    exit_code: int = EXIT_FAILED

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n  {self.hint}"


class UsageError(EsperError):
    """A command or function was called with wrong arguments, or in a state that does not allow the call."""

    exit_code = EXIT_USAGE


class ConfigError(UsageError):
    """A configuration value, key or file is wrong; the message names file, table and key."""


class SinkError(UsageError):
    """A sink that the user named cannot be loaded or opened."""


class EnvironmentUnsupportedError(UsageError):
    """An environment cannot be trained, because of its spaces, its masks or its id."""


class EnvironmentContractError(EsperError):
    """An environment returned what it may not, or called ``exit()``, after the run had begun."""


class RunNotFoundError(UsageError):
    """There is no run of that name or path, or more than one."""


class JournalError(EsperError):
    """A run's journal cannot be read or written at all."""


class NonFiniteError(EsperError):
    """Training met NaN or Inf and stopped (``--keep-going`` goes on)."""


class RanksError(EsperError):
    """The ranks of a run do not go together: one is gone, hangs, failed, or holds other weights."""


class TelemetryLostError(EsperError):
    """Events were lost, and the configuration calls that a failure (``run.strict_telemetry``)."""

    exit_code = EXIT_LOSSY


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``', did you mean "x"?'`` for the closest known name, or an empty string."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f', did you mean "{close[0]}"?' if close else ""


def error_text(error: BaseException) -> str:
    """Kind and message of any exception, in words that UTF-8 can encode; also of one whose own ``__str__`` raises."""
    kind = type(error).__name__
    try:
        text = str(error)
    except Exception as again:  # noqa: BLE001  # code of the exception's author
        return f"{kind} (its text raised {type(again).__name__})"
    return encodable(f"{kind}: {text}") if text else kind
