"""``Run`` and ``open_run``: everything about a run on disk, for scripts, notebooks, commands and tests."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from esper_core.errors import ConfigError, JournalError, UsageError
from esper_core.reading.attempts import effective_updates
from esper_core.reading.condition import journal_condition
from esper_core.reading.index import scan_index
from esper_core.reading.judged import run_verdict
from esper_core.reading.limits import run_limits
from esper_core.reading.stream import out_of_order, sorted_updates, stream_updates
from esper_core.runs.arguments import path_text
from esper_core.runs.files import fault_of, read_bytes, read_text
from esper_core.runs.reader import JournalReader, read_events
from esper_core.runs.search import find_run
from esper_core.runs.state import RunRecord, read_record, read_state

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from esper_core.events import Payload, PPOUpdatePayload, TelemetryEvent
    from esper_core.health import KLLimits, RunState, Verdict
    from esper_core.runs.layout import RunDir

__all__ = ["Run", "open_run"]

_VERDICT_UPDATES: Final = 3
_LOOK_BACK: Final = 32


class Run:
    """A run on disk, live or ended. Every property reads the files anew, so that a live run can be watched.

    Args:
        directory: where it lies.
    """

    def __init__(self, directory: RunDir) -> None:
        self.directory = directory

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def __eq__(self, other: object) -> bool:
        """True for the same directory, however each path is written."""
        return self.path.resolve() == other.path.resolve() if isinstance(other, Run) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.path.resolve())

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def path(self) -> Path:
        """The run's directory."""
        return self.directory.path

    @property
    def run_id(self) -> str:
        """The id its events carry."""
        return self.directory.run_id

    @property
    def record(self) -> RunRecord | None:
        """What ``run.json`` says; None when it is missing or unreadable."""
        return read_record(self.directory)

    @property
    def state(self) -> RunState:
        """What the run is doing now; see :func:`esper_core.runs.run_state`."""
        return read_state(self.directory)[1]

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration it ran with, secrets masked; empty when there is none.

        Raises:
            ConfigError: ``config.toml`` is there and cannot be read, or is no TOML in UTF-8.
        """
        try:
            return tomllib.loads(read_text(self.directory.config_path))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(str(fault_of(self.directory.config_path, error))) from error

    @property
    def limits(self) -> KLLimits:
        """The limits its KL is judged by: those that its newest attempt told, else those of its configuration."""
        return run_limits(self.directory)

    @property
    def summary(self) -> dict[str, Any] | None:
        """``summary.json``; None until the run has ended in order.

        Raises:
            JournalError: it is there and cannot be read, or is no JSON object.
        """
        try:
            found: dict[str, Any] = msgspec.json.decode(read_bytes(self.directory.summary_path), type=dict[str, Any])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise JournalError(str(fault_of(self.directory.summary_path, error))) from error
        return found

    def events(self) -> Iterator[TelemetryEvent[Payload]]:
        """Every event of every attempt, in the order of the journal; damaged lines are passed over.

        Raises:
            JournalError: after the last event, when a file of the journal could not be read.
        """
        return read_events(self.directory)

    def updates(self) -> Iterator[TelemetryEvent[PPOUpdatePayload]]:
        """The effective updates by ascending id: no duplicate, and none that a resumed attempt has replaced.

        Raises:
            JournalError: after the last update, when a file of the journal could not be read.
        """
        reader = JournalReader(self.directory)
        yield from stream_updates(self.directory, reader)
        reader.check()

    def last_updates(self, count: int) -> list[TelemetryEvent[PPOUpdatePayload]]:
        """The last effective updates, oldest first, read from the journal's end: fast however long the run is.

        Raises:
            UsageError: ``count`` is negative.
        """
        if count < 0:
            raise UsageError(f"count: expected 0 or more (is {count})")
        wanted = count
        while count:
            tail = JournalReader(self.directory).tail(wanted, updates_only=True)
            if out_of_order(self.directory, tail):
                return list(sorted_updates(scan_index(self.directory), count))
            found = effective_updates(tail)
            everything = sum(event.kind == "ppo_updated" for event in tail) < wanted
            # What replaces an update always stands behind it, so the journal's end decides about its own. A gap may
            # be a loss, or a duplicate written late that stands in the way: look a little further back, once.
            recent = [event.payload.update_id for event in found[-count:]]
            gap = not recent or recent[-1] - recent[0] >= len(recent)
            if everything or (len(found) >= count and not (gap and wanted < _LOOK_BACK)):
                return found[-count:]
            wanted = max(wanted * 4, _LOOK_BACK)
        return []

    def updates_before(self, update_id: int, count: int) -> list[TelemetryEvent[PPOUpdatePayload]]:
        """The last effective updates below an id, oldest first: those that a resume from there goes on from.

        Raises:
            UsageError: ``count`` is negative.
        """
        newest = self.last_updates(1)
        beyond = max(0, newest[0].payload.update_id - update_id + 1) if newest else 0
        found = self.last_updates(beyond + count) if count >= 0 else self.last_updates(count)
        return [event for event in found if event.payload.update_id < update_id][-count:] if count else []

    def verdict(self, *, now_ns: int | None = None) -> Verdict:
        """Judge the run as every other screen does; see :func:`esper_core.health.verdict`.

        Args:
            now_ns: unix nanoseconds; the clock's when None.
        """
        record, state = read_state(self.directory, now_ns=now_ns)
        return run_verdict(
            record,
            self.last_updates(_VERDICT_UPDATES),
            limits=self.limits,
            now_ns=now_ns,
            state=state,
            journal=journal_condition(self.directory, record),
        )


def open_run(spec: str | os.PathLike[str] = "latest", base: str | os.PathLike[str] = "runs") -> Run:
    """Open a run on disk.

    Args:
        spec: a run, its path, its id, a unique part of its id, or ``latest``.
        base: folder that holds the runs.

    Returns:
        The run: ``.state``, ``.verdict()``, ``.updates()``, ``.events()``, ``.config``, ``.summary``, ``.record``.

    Raises:
        RunNotFoundError: no such run; names the nearest and says where it looked.
        UsageError: an argument is neither text nor a path.

    Example:
        >>> import esper_core
        >>> run = esper_core.open_run("docs/examples/runs/drift")
        >>> [update.payload.kl_divergence for update in run.updates()]  # doctest: +SKIP
    """
    return Run(find_run(path_text("spec", spec), Path(path_text("base", base, "the folder that holds the runs"))))
