"""Where a run's events come from: its journal on disk, or a list in memory (OTLP requests, tests).

A source is polled by one thread at a time and knows nothing of screens.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import tomllib
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from esper_core.errors import JournalError
from esper_core.events import RunStarted
from esper_core.health import RunState
from esper_core.reading.attempts import first_events
from esper_core.reading.condition import journal_condition
from esper_core.reading.index import UpdateIndex
from esper_core.reading.life import Life, life_from_events, life_from_record
from esper_core.reading.snapshot import RECENT
from esper_core.reading.stream import out_of_order
from esper_core.reading.tamiyo import RELATIVE_WINDOW
from esper_core.runs.creation import started_ns
from esper_core.runs.files import read_text
from esper_core.runs.layout import journal_files
from esper_core.runs.reader import JournalReader
from esper_core.runs.resources import first_resource
from esper_core.runs.state import read_state
from esper_core.semconv.identity import RUN_ID

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from esper_core.events import Payload, TelemetryEvent
    from esper_core.reading.snapshot import SanctumSnapshot
    from esper_core.runs.layout import RunDir
    from esper_core.runs.state import RunRecord

    Event = TelemetryEvent[Payload]

__all__ = ["JournalSource", "MemorySource", "Source"]

_FIRST: Final = RECENT + RELATIVE_WINDOW
"""Updates read for the first screen: those shown, and those the oldest shown relative level is judged against."""
_STAMP: Final = re.compile(r"^\d{8}T\d{6}Z-")
_LIVE_ROOM: Final = 200_000
_LOG_BYTES: Final = 8192
"""Of a log's end that its last lines are looked for in."""


class Source(Protocol):
    """One run's events and signs of life."""

    @property
    def run_id(self) -> str:
        """The run."""

    @property
    def events_id(self) -> str:
        """The run's id as its events carry it; another one for a copy whose ``run.json`` is damaged."""

    @property
    def label(self) -> str:
        """What people call it."""

    @property
    def where(self) -> str:
        """Where the data comes from, in words."""

    @property
    def corrupt(self) -> int:
        """Lines or events that could not be read so far."""

    def poll(self, limit: int) -> list[Event]:
        """New events since the last call, about ``limit`` at most; empty when there are none."""

    def life(self, snapshot: SanctumSnapshot, now_ns: int) -> Life:
        """The run's state now."""

    def group(self, snapshot: SanctumSnapshot) -> str:
        """What makes two runs seeds of one experiment."""

    def started_ns(self, snapshot: SanctumSnapshot) -> int | None:
        """When the run began, unix nanoseconds; None when that is not known."""

    def index(self) -> UpdateIndex | None:
        """A new, empty index over the whole run, or None when only what was seen is known."""


class JournalSource:
    """A run on disk. The first poll reads the end of the journal, later ones what was added.

    Args:
        run: its directory; it may not have a journal yet, and may be deleted meanwhile.
        first: updates to read at first; the default fills a screen.
    """

    def __init__(self, run: RunDir, *, first: int = _FIRST) -> None:
        self.run = run
        self._reader = JournalReader(run)
        self._first = first
        self._opened = False
        self._pending: deque[Event] = deque()
        self._group: str | None = None
        self._record: RunRecord | None = None

    @property
    def run_id(self) -> str:
        """The run."""
        return self.run.run_id

    @property
    def events_id(self) -> str:
        """As the journal has it: a directory gets renamed, and ``run.json`` may be damaged or another run's."""
        try:
            found = first_resource(journal_files(self.run, rank=0)).get(RUN_ID)
        except JournalError:
            found = None
        return found if isinstance(found, str) and found else self.run.run_id

    @property
    def label(self) -> str:
        """The directory's name without its time."""
        name = self.run.path.name or self.run_id
        return _STAMP.sub("", name) or name

    @property
    def where(self) -> str:
        """The directory."""
        return str(self.run.path)

    @property
    def corrupt(self) -> int:
        """Journal lines that are no events."""
        return self._reader.corrupt

    def poll(self, limit: int) -> list[Event]:
        """The next events. Files that vanish or cannot be read count as having nothing new."""
        try:
            if not self._opened:
                self._opened = True
                self._pending.extend(self._beginning())
            if self._pending:
                return [self._pending.popleft() for _ in range(min(limit, len(self._pending)))]
            return self._reader.poll(limit)
        except (OSError, JournalError):
            return []

    def _beginning(self) -> list[Event]:
        """The plan of every attempt, and what a resume replaces; then the end of the journal."""
        found = [item for item in first_events(self.run) if isinstance(item.payload, RunStarted)]
        tail = self._reader.tail(self._first, updates_only=True)
        if out_of_order(self.run, tail):
            tail = sorted(JournalReader(self.run).stream(), key=lambda event: (event.attempt, event.time_ns))
        return found + tail

    def life(self, snapshot: SanctumSnapshot, now_ns: int) -> Life:
        """From ``run.json``; without one, from the events. A deleted run keeps its end, and is else stale."""
        state: RunState | None
        record, state = read_state(self.run, now_ns=now_ns)
        if record is None:
            if self._reader.deleted:
                return self._gone(snapshot, now_ns)
            # Replaced while it was read, or never written: the last one read still tells more than none.
            record, state = self._record, None
        self._record = record
        journal = journal_condition(self.run, record)
        if record is None:
            return replace(life_from_events(snapshot, now_ns), journal=journal)
        life = life_from_record(record, now_ns, state=state, journal=journal)
        if life.state.ended and self.run.checkpoint.exists():
            life = replace(life, kept="checkpoint")
        if life.state in {RunState.CRASHED, RunState.FAILED}:
            life = replace(life, last_words=_last_lines(self.run.log_path))
        return life

    def _gone(self, snapshot: SanctumSnapshot, now_ns: int) -> Life:
        """What is still known of a run whose folder was deleted."""
        known = self._record
        if known is not None and known.state.ended:
            return replace(life_from_record(known, now_ns, state=known.state), gone=True, kept="")
        if known is None and snapshot.finished is not None:
            return replace(life_from_events(snapshot, now_ns), gone=True)
        return Life(state=RunState.STALE, sign_ns=snapshot.last_event_ns, updates=snapshot.updates, gone=True)

    def group(self, snapshot: SanctumSnapshot) -> str:
        """The resolved configuration without seed, name and place: equal for seeds of one experiment."""
        if self._group is None:
            try:
                self._group = _group_of(tomllib.loads(read_text(self.run.config_path)))
            except (OSError, ValueError, RecursionError):
                return snapshot.plan.environment
        return self._group

    def started_ns(self, snapshot: SanctumSnapshot) -> int | None:
        """From the folder's name, else from the record that was read last, else from the events."""
        return started_ns(self.run.path, self._record.started_ns if self._record is not None else 0) or (
            snapshot.plan.started_ns
        )

    def index(self) -> UpdateIndex:
        """An index over the whole journal."""
        return UpdateIndex(self.run)


class MemorySource:
    """A run known by the events someone hands over, from any thread.

    Args:
        run_id: the run.
        where: where they come from, in words.
    """

    def __init__(self, run_id: str, *, where: str = "memory") -> None:
        self._run_id = run_id
        self._where = where
        self._events: deque[Event] = deque()
        self._lock = threading.Lock()
        self._rejected = 0

    @property
    def run_id(self) -> str:
        """The run."""
        return self._run_id

    @property
    def events_id(self) -> str:
        """The run id."""
        return self._run_id

    @property
    def label(self) -> str:
        """The run id without its time."""
        return _STAMP.sub("", self._run_id) or self._run_id

    @property
    def where(self) -> str:
        """As given."""
        return self._where

    @property
    def corrupt(self) -> int:
        """Events of the run that were received and could not be decoded."""
        return self._rejected

    def reject(self, count: int) -> None:
        """Count events of the run that could not be decoded, from any thread."""
        with self._lock:
            self._rejected += count

    def push(self, events: Iterable[Event]) -> bool:
        """Hand events over; False when there is no room and none was taken."""
        taken = list(events)
        with self._lock:
            if len(self._events) + len(taken) > _LIVE_ROOM:
                return False
            self._events.extend(taken)
        return True

    def poll(self, limit: int) -> list[Event]:
        """The next events handed over."""
        with self._lock:
            return [self._events.popleft() for _ in range(min(limit, len(self._events)))]

    def life(self, snapshot: SanctumSnapshot, now_ns: int) -> Life:
        """From the events alone."""
        return life_from_events(snapshot, now_ns)

    def group(self, snapshot: SanctumSnapshot) -> str:
        """The environment: the configuration itself does not travel."""
        return snapshot.plan.environment

    def started_ns(self, snapshot: SanctumSnapshot) -> int | None:
        """As its events tell."""
        return snapshot.plan.started_ns

    def index(self) -> None:
        """Nothing but what was seen."""
        return


def _last_lines(path: Path) -> tuple[str, ...]:
    """The last three lines of a log that say something; none of one that cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(file.tell() - _LOG_BYTES, 0))
            text = file.read().decode(errors="replace")
    except OSError:
        return ()
    return tuple([item for item in text.splitlines() if item.strip()][-3:])


def _group_of(config: dict[str, Any]) -> str:
    """A short readable key: environment and what of [ppo] differs between experiments, hashed."""
    run = {key: value for key, value in _table(config, "run").items() if key not in {"seed", "name", "dir"}}
    rest = {key: value for key, value in config.items() if key in {"ppo", "env", "preset"}}
    digest = hashlib.sha256(json.dumps([rest, run], sort_keys=True, default=str).encode()).hexdigest()
    environment = str(_table(config, "env").get("id", "run"))
    return f"{environment}#{digest[:4]}"


def _table(config: dict[str, Any], name: str) -> dict[str, Any]:
    """A table of a configuration; empty when someone put a single value there."""
    found = config.get(name)
    return found if isinstance(found, dict) else {}
