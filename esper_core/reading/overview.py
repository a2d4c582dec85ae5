"""Everything that describes a run beside its numbers: how it was started, with what, where it is. Reads files."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from esper_core.errors import ConfigError, JournalError
from esper_core.events import RunStarted
from esper_core.reading.attempts import first_events
from esper_core.reading.numbers import MISSING, age, count, moment
from esper_core.reading.run import Run
from esper_core.reading.settings import setting_text, settings_of
from esper_core.reading.system import bytes_text, system_text
from esper_core.runs.creation import started_ns
from esper_core.runs.layout import journal_files
from esper_core.runs.ranks import log_name
from esper_core.runs.state import read_state

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from esper_core.reading.snapshot import SanctumSnapshot
    from esper_core.runs.layout import RunDir
    from esper_core.runs.state import RunRecord

__all__ = ["Section", "heard_overview", "run_overview"]

_DEFAULT: Final = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Rows under a heading.

    Attributes:
        title: the heading.
        rows: of as many cells each as ``columns``; every one text from the run's files, not yet fit for a terminal.
        columns: 2 (name, value) or 3 (key, value, origin).
    """

    title: str
    rows: tuple[tuple[str, ...], ...]
    columns: int = 2


def run_overview(run: RunDir, *, now_ns: int, seen: tuple[int, int] = (0, 0)) -> tuple[Section, ...]:
    """A run on disk: itself, its start, files, process and versions, and every value of its configuration.

    Args:
        run: its directory; what of it cannot be read is left out, and a configuration says why.
        now_ns: unix nanoseconds.
        seen: updates and environment steps that its journal has: ``run.json`` of a run that crashed lies behind these.
    """
    record, state = read_state(run, now_ns=now_ns)
    begun = started_ns(run.path, record.started_ns if record is not None else 0)
    told = _newest_start(run)
    found = [
        Section(
            title="run",
            rows=tuple(
                _known(
                    ("id", run.run_id),
                    ("name", record.name if record is not None else ""),
                    ("environment", record.environment if record is not None else ""),
                    ("state", state.value),
                    ("how it ended", record.message if record is not None else ""),
                    ("attempt", str(record.attempt) if record is not None else ""),
                    ("began", f"{moment(begun)}, {age(max(now_ns - begun, 0) / 1e9)} ago" if begun else ""),
                    ("updates", count(max(record.updates, seen[0])) if record is not None else ""),
                    ("environment steps", count(max(record.env_steps, seen[1])) if record is not None else ""),
                    ("seed", str(told.seed) if told is not None else ""),
                    ("configuration", told.config_digest if told is not None else ""),
                )
            ),
        ),
        *_started(record),
        Section(title="files", rows=tuple(_files(run))),
        *_process(record),
        *_versions(told),
        _config(run, record),
    ]
    return tuple(section for section in found if section.rows)


def heard_overview(snapshot: SanctumSnapshot) -> tuple[Section, ...]:
    """A run known by its events alone: what it told when it began. Its configuration does not travel."""
    plan = snapshot.plan
    planned = (("updates", plan.updates), ("steps", plan.steps), ("episodes", plan.episodes))
    rows = _known(
        ("id", snapshot.run_id),
        ("name", plan.run_name),
        ("environment", plan.environment),
        ("heads", ", ".join(plan.heads)),
        ("seed", str(plan.seed)),
        ("attempt", str(snapshot.attempt)),
        ("began", moment(plan.started_ns)),
        ("planned", ", ".join(f"{count(number)} {name}" for name, number in planned if number)),
        ("configuration", plan.config_digest),
        ("ranks", str(plan.ranks) if plan.ranks > 1 else ""),
    )
    several = plan.ranks > 1 or len(snapshot.ranks) > 1
    heard = [(f"rank {item.rank}", item.ended or f"last heard {moment(item.last_ns)}") for item in snapshot.ranks]
    return (
        Section(title="run", rows=(*rows, *(heard if several else []))),
        Section(title="configuration", rows=(("", "it stays where the run is: only its digest is sent"),)),
    )


def _known(*rows: tuple[str, str]) -> Iterator[tuple[str, str]]:
    return (row for row in rows if row[1] and row[1] != MISSING)


def _newest_start(run: RunDir) -> RunStarted | None:
    try:
        events = list(first_events(run))
    except (OSError, JournalError):
        return None
    return next((event.payload for event in reversed(events) if isinstance(event.payload, RunStarted)), None)


def _started(record: RunRecord | None) -> Iterable[Section]:
    if record is None or record.start is None:
        return ()
    rows = _known(("command", shlex.join(record.start.command)), ("in folder", record.start.directory))
    return (Section(title="start of this attempt", rows=tuple(rows)),)


def _files(run: RunDir) -> Iterator[tuple[str, str]]:
    yield "folder", str(run.path.absolute())
    try:
        sizes = [_size(item.path) for item in journal_files(run)]
    except JournalError as error:
        yield "journal", error.message
    else:
        yield (
            "journal",
            f"{len(sizes)} {'file' if len(sizes) == 1 else 'files'} in {run.telemetry.name}, {bytes_text(sum(sizes))}",
        )
    for name, path in (
        ("log", run.log_path),
        ("checkpoint", run.checkpoint),
        ("summary", run.summary_path),
        ("configuration", run.config_path),
    ):
        yield name, f"{path.name}, {bytes_text(_size(path))}" if path.exists() else "none"


def _size(path: Any) -> int:
    try:
        return int(path.stat().st_size)
    except OSError:
        return 0


def _process(record: RunRecord | None) -> Iterable[Section]:
    if record is None:
        return ()
    rows = _known(
        ("host", record.host),
        ("pid", str(record.pid or "")),
        ("last heartbeat", moment(record.heartbeat_ns)),
        ("took", system_text(record.system)),
    )
    ranks = [
        (f"rank {item.rank}", f"pid {item.pid} on {item.host}, {log_name(item.rank)}") for item in record.processes
    ]
    of_several = [("ranks", str(record.ranks)), *ranks] if record.ranks > 1 else []
    return (Section(title="process", rows=(*rows, *of_several)),)


def _versions(told: RunStarted | None) -> Iterable[Section]:
    if told is None or not told.versions:
        return ()
    pairs = (item.partition("==") for item in told.versions)
    return (Section(title="versions", rows=tuple((name, version) for name, _, version in pairs)),)


def _config(run: RunDir, record: RunRecord | None) -> Section:
    """Every value of ``config.toml`` and where it came from; the origin is not known of runs of 0.1."""
    try:
        whole = Run(run).config
    except ConfigError as error:
        return Section(title="configuration", rows=(("", error.message),))
    start = record.start if record is not None else None
    rows = tuple(
        (key, setting_text(value), MISSING if start is None else start.origins.get(key, _DEFAULT))
        for key, value in settings_of(whole)
    )
    return Section(title="configuration", rows=rows, columns=3)
