"""Types that sinks receive: context, close reason, a child run, and a type for secrets."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from esper_core.masking import learn

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = [
    "ChildRun",
    "CloseReason",
    "Delivery",
    "EventForm",
    "EventKinds",
    "Secret",
    "SinkContext",
    "SinkMode",
    "StatusReport",
]

SinkMode: TypeAlias = Literal["live", "replay", "check"]
"""live: a run is training; replay: a journal is replayed; check: ``esper sinks check`` sends a marked event."""

Delivery: TypeAlias = Literal["inline", "all", "latest"]
"""inline: in the emitter's thread; all: own bounded channel and thread; latest: the newest event of each hook."""


EventKinds: TypeAlias = Literal["all", "recorded"] | Collection[str]
"""The kinds that a sink with the hook ``esper_event`` receives. all: every kind; recorded: every kind that the run
records (finished episodes only with ``[otel] episodes``); a collection: the kinds in it."""


EventForm: TypeAlias = Literal["span", "log", "both"]
"""The form of an update's events (its KL by epoch, its early stop, exceptions): span events, log events, or both."""


class CloseReason(StrEnum):
    """Why a sink is closed."""

    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"
    DISABLED = "disabled"


class Secret:
    """A secret string: ``str()`` and ``repr()`` return a mask, ``reveal()`` returns the string.

    From then on no text that Esper prints, logs, stores or sends holds it: a sink wraps what it reads from a file too.
    Use it as the type of a field in a sink's ``Config``; the host fills it from the configuration, and
    ``esper config show`` and ``config.toml`` write ``***``.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value
        learn((value,))

    def reveal(self) -> str:
        """Return the secret itself. Never print, log or store it."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    def __str__(self) -> str:
        return "***"

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash((Secret, self._value))


class StatusReport(Protocol):
    """Reports to the host a failure that no hook call raises: a refused export, a full buffer of the sink's own."""

    def __call__(self, state: Literal["failing", "recovered"], message: str, lost: int = 0) -> None:
        """Report, from any thread.

        Args:
            state: the sink's new state; a change is emitted to every sink as ``esper_sink_status_changed``.
            message: what happened, as text, without secrets.
            lost: events lost since the last report, a whole number from 0; added to the sink's losses.

        Any other value is the sink's error: the report counts as a failure of the sink, its status names the error, and
        no number of the report is added. The call never raises.
        """


def _report_nothing(state: str, message: str, lost: int = 0) -> None:
    """Ignore the report: the default when there is no host."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SinkContext:
    """The information that a sink receives when it is opened.

    Attributes:
        run_id: the run.
        run_dir: its directory at the start, an absolute path; None when nothing is written to disk.
        attempt: counts from 1.
        rank: the rank of this process.
        mode: live, replay or check.
        episodes: True when every finished episode is recorded (``[otel] episodes``).
        events: the form of an update's events (``[otel] events``).
        resource: OpenTelemetry resource attributes of the run (``service.name``, ``esper.run.id``, ...).
        logger: writes to ``trainer.log`` and never to the terminal.
        report: reports to the host losses and failures outside hook calls; see :class:`StatusReport`.
    """

    run_id: str
    run_dir: Path | None = None
    attempt: int = 1
    rank: int = 0
    mode: SinkMode = "live"
    episodes: bool = False
    events: EventForm = "span"
    resource: Mapping[str, str | int | float | bool] = field(default_factory=lambda: MappingProxyType({}))
    logger: logging.Logger = field(default_factory=lambda: logging.getLogger("esper.sink"))
    report: StatusReport = _report_nothing


class ChildRun(Protocol):
    """A training run in a child process, as passed to a foreground sink."""

    @property
    def run_dir(self) -> Path:
        """The run's directory. Waits until the training has made it: seconds, for its imports.

        Raises:
            EsperError: the training ended before; the host tells the user, a sink lets it pass.
        """

    @property
    def pid(self) -> int:
        """Process id of the trainer."""

    def poll(self) -> int | None:
        """Exit code of the trainer, or None while it runs."""

    def request_stop(self) -> None:
        """Send the trainer SIGTERM: it stops at the next step."""
