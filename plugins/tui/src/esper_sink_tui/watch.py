"""Watch: the runs that a viewer follows. Reads their sources in small parts and builds the screen's model.

One thread calls ``tick``; any thread may get a model, select a run, freeze or step: the lock is held for one part at
most.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from esper_core.errors import UsageError
from esper_core.reading.aggregator import SanctumAggregator
from esper_core.reading.alerts import alerts_of
from esper_core.reading.life import Life
from esper_core.reading.listing import sorted_rows
from esper_core.reading.model import RunRow, ScreenModel, build
from esper_core.reading.snapshot import SanctumSnapshot
from esper_core.reading.source import JournalSource, MemorySource
from esper_core.reading.timeline import Timeline
from esper_core.runs import find_run, list_runs
from esper_sink_tui.frozen import FrozenView
from esper_sink_tui.unfollowed import Unfollowed
from esper_sink_tui.watched import BITE, Watched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from esper_core.events import Payload, TelemetryEvent
    from esper_core.reading.alerts import Alert, AlertBook
    from esper_core.reading.listing import Sort
    from esper_core.reading.model import EventFilter, HeadView
    from esper_core.reading.source import Source
    from esper_core.runs import RunDir
    from esper_core.runs.state import SystemRecord

__all__ = ["LISTED", "Watch"]

LISTED: Final = 12
"""The number of runs of a folder that are followed; the others are read for the list, and followed once selected."""
MOST_HEARD: Final = 2000
"""The largest number of runs followed over the network: a client may send any number of invented run ids."""
_MOST_EVENTS: Final = 120_000
"""About the largest number of events in memory, over all runs received over the network; an update takes 5 KB."""
_LEAST_EVENTS: Final = 60
"""The number of events that each of these runs keeps in any case."""
_DISCOVER_S: Final = 2.0


class Watch:
    """The followed runs, and the part of them that is shown.

    Args:
        base: folder whose newest runs are listed, or None.
        clock_ns: unix time in nanoseconds.
        listed: runs of the folder to follow for the list.
    """

    def __init__(
        self, base: Path | None = None, *, clock_ns: Callable[[], int] = time.time_ns, listed: int = LISTED
    ) -> None:
        self.base = base
        self.event_filter: EventFilter = "all"
        self.head_view: HeadView = "kl"
        self.run_filter = ""
        self.run_sort: Sort = "time"
        self.notice = ""
        self.waiting_for = "no run yet"
        self._clock_ns = clock_ns
        self._listed = listed
        self._lock = threading.RLock()
        self._runs: dict[str, Watched] = {}
        self._places: dict[Path, str] = {}
        self._others = Unfollowed(clock_ns)
        self._selected = ""
        self._frozen = FrozenView()
        self._discovered = float("-inf")
        self._unassigned = 0
        self.version = 0
        """A counter that increases with every change that may change the screen; the passing of time does not count."""

    # --- runs ---------------------------------------------------------------------------------

    def add(self, source: Source, *, select: bool = False, marked: bool = False) -> Watched:
        """Follow a run."""
        with self._lock:
            watched = self._runs.get(source.run_id)
            if watched is None:
                watched = Watched(source, SanctumAggregator(source.events_id), Timeline(source.index()), marked=marked)
                self._runs[source.run_id] = watched
            if select or not self._selected:
                self.select(source.run_id)
            self.version += 1
            return watched

    def add_run(self, run: RunDir, *, select: bool = False, marked: bool = False) -> Watched:
        """Follow a run on disk."""
        with self._lock:
            # By folder, not by id: a run whose folder was renamed is listed under the folder's name.
            place = run.path.resolve()
            known = self._runs.get(self._places.get(place, run.run_id))
            if known is not None:
                if select:
                    self.select(known.source.run_id)
                known.marked = known.marked or marked
                return known
            self._places[place] = run.run_id
            self._others.take(run.run_id)
            return self.add(JournalSource(run), select=select, marked=marked)

    def select(self, run_id: str) -> None:
        """Show a run, and follow it from now on; a frozen view thaws."""
        with self._lock:
            self._follow(run_id)
            if run_id in self._runs and run_id != self._selected:
                self._selected = run_id
                self.thaw()

    def _follow(self, run_id: str) -> None:
        run = self._others.take(run_id)
        if run is not None:
            self.add_run(run)

    def open(self, spec: str) -> None:
        """Follow and show a run of the folder by name.

        Raises:
            RunNotFoundError: no such run.
        """
        if self.base is not None:
            self.add_run(find_run(spec, self.base), select=True)

    def neighbour(self, offset: int) -> None:
        """Show the next or previous run of the list."""
        with self._lock:
            ids = [row.run_id for row in self.rows()]
            if ids:
                place = ids.index(self._selected) if self._selected in ids else 0
                self.select(ids[(place + offset) % len(ids)])

    def mark(self, run_id: str) -> None:
        """Mark or unmark a run for comparing."""
        with self._lock:
            self._follow(run_id)
            if run_id in self._runs:
                self._runs[run_id].marked = not self._runs[run_id].marked
                self._runs[run_id].row = None
                self.version += 1

    @property
    def selected(self) -> str:
        """The id of the selected run; empty before the first."""
        return self._selected

    def watched(self, run_id: str | None = None) -> Watched | None:
        """A followed run; the selected one by default."""
        return self._runs.get(self._selected if run_id is None else run_id)

    def directory(self) -> RunDir | None:
        """Where the selected run lies; None before the first, and for one received over the network."""
        watched = self.watched()
        return None if watched is None else watched.directory

    def all(self) -> list[Watched]:
        """Every followed run."""
        with self._lock:
            return list(self._runs.values())

    def receive(self, events: Iterable[TelemetryEvent[Payload]], *, where: str) -> bool:
        """Store events of any runs, from any thread; return False when there is no room: the caller may retry."""
        by_run: dict[str, list[TelemetryEvent[Payload]]] = {}
        for event in events:
            by_run.setdefault(event.run_id, []).append(event)
        for run_id, group in by_run.items():
            with self._lock:
                watched = self._runs.get(run_id)
                if watched is None and len(self._runs) >= MOST_HEARD:
                    self.notice = f"{MOST_HEARD} runs are followed: events of others are not shown"
                    continue
                if watched is None:
                    watched = self.add(MemorySource(run_id, where=where))
            if isinstance(watched.source, MemorySource) and not watched.source.push(group):
                return False
        return True

    def reject(self, rejected: Mapping[str, int]) -> None:
        """Count spans that could not be decoded, by run id ("" when it is unknown), from any thread."""
        with self._lock:
            for run_id, count in rejected.items():
                watched = self._runs.get(run_id)
                if watched is not None and isinstance(watched.source, MemorySource):
                    watched.source.reject(count)
                else:
                    self._unassigned += count
                    self.notice = f"{self._unassigned} spans could not be decoded and name no run of the list"
            self.version += 1

    def measured(self, systems: Mapping[str, SystemRecord]) -> None:
        """Keep what trainers take of their machines, by run id, from any thread; of a run not heard of yet nothing."""
        with self._lock:
            for run_id, system in systems.items():
                watched = self._runs.get(run_id)
                if watched is not None and isinstance(watched.source, MemorySource):
                    watched.source.measured(system)

    def changes(self, book: AlertBook) -> Iterator[tuple[str, list[Alert]]]:
        """Each run's label, and how the verdict on it changed; the selected run comes first. Reads journals.

        Args:
            book: keeps what was read before.
        """
        with self._lock:
            known = [(item.directory, item.source.label, item) for item in self._runs.values()]
        others = [(run, row.label, row) for run, row in self._others.directories()]
        found: list[tuple[RunDir | None, str, Watched | RunRow]] = [*known, *others]
        found.sort(key=lambda item: isinstance(item[2], RunRow) or item[2].source.run_id != self._selected)
        for directory, label, watched in found:
            if directory is not None:
                updates = watched.updates if isinstance(watched, RunRow) else watched.snapshot.updates
                yield label, book.of(directory, label, updates=updates)
            elif isinstance(watched, Watched):
                with self._lock:
                    events = watched.timeline.events()
                yield label, alerts_of(events, label, watched.snapshot.tamiyo.limits)

    # --- reading ------------------------------------------------------------------------------

    def tick(self, *, budget_s: float = 0.2) -> bool:
        """Read new events, in parts, for about ``budget_s`` seconds; the selected run first.

        Returns:
            True when there may be more to read now.
        """
        deadline = time.monotonic() + budget_s
        self._discover()
        more = False
        for watched in sorted(self.all(), key=lambda item: item.source.run_id != self._selected):
            if watched.source.run_id != self._selected and watched.rests():
                continue
            while events := watched.bite(self._lock):
                if len(events) < BITE:
                    break
                if time.monotonic() > deadline:
                    more = True
                    watched.rests_until = -1.0
                    break
            if watched.refresh(self._lock, self._clock_ns()):
                with self._lock:
                    self.version += 1
        self._shed()
        left, changed = self._others.read(deadline)
        with self._lock:
            self.version += changed
        return left or more

    def _shed(self) -> None:
        """Divide the memory for events among the runs received over the network; the run on show keeps all of its."""
        with self._lock:
            kept = max(_MOST_EVENTS // max(len(self._runs), 1), _LEAST_EVENTS)
            for watched in self._runs.values():
                if isinstance(watched.source, MemorySource) and watched.source.run_id != self._selected:
                    watched.timeline.shed(kept)

    def extend_index(self) -> bool:
        """Index the next part of the selected run and of the marked ones. True when there is more to do now."""
        for watched in self.all():
            wanted = watched.marked or watched.source.run_id == self._selected
            if wanted and not watched.timeline.indexed:
                with self._lock:
                    watched.timeline.extend_index()
                return True
        return False

    def _discover(self) -> None:
        """Look for new runs in the folder every other second."""
        now = time.monotonic()
        if self.base is None or now - self._discovered < _DISCOVER_S:
            return
        self._discovered = now
        try:
            found = list_runs(self.base)
        except UsageError as error:
            self.notice = error.message
            return
        for run in found[: self._listed]:
            self.add_run(run)
        with self._lock:
            here = [run for run in found if run.run_id not in self._runs and run.path.resolve() not in self._places]
        changed = self._others.set(here)
        with self._lock:
            self.version += changed

    # --- the view -----------------------------------------------------------------------------

    def freeze(self) -> None:
        """Freeze the view at the update that is shown; reading continues."""
        with self._lock:
            self.version += self._frozen.freeze(self.watched())

    def thaw(self) -> None:
        """Return to the newest update."""
        with self._lock:
            self._frozen.thaw()
            self.version += 1

    @property
    def frozen(self) -> bool:
        """Whether the view is frozen."""
        return bool(self._frozen)

    def step(self, offset: int) -> None:
        """Freeze, and move by ``offset`` updates (negative: back), within the run."""
        with self._lock:
            self.version += self._frozen.step(self.watched(), offset)

    def step_to(self, *, first: bool) -> None:
        """Freeze at the run's first or last update."""
        with self._lock:
            self.version += self._frozen.step_to(self.watched(), first=first)

    def rows(self, *, filtered: bool = True) -> list[RunRow]:
        """The rows of the list, sorted: the runs that the filter keeps, and always the selected one; or every run."""
        with self._lock:
            rows = [watched.listed() for watched in self._runs.values()]
            rows += [row for row in self._others.rows() if row.run_id not in self._runs]
            wanted = self.run_filter.casefold()
            kept = [
                row
                for row in rows
                if not (wanted and filtered) or row.run_id == self._selected or wanted in _searched(row)
            ]
            return sorted_rows(kept, self.run_sort)

    def model(self) -> ScreenModel:
        """The model of the screen now."""
        with self._lock:
            now_ns = self._clock_ns()
            rows = tuple(self.rows())
            watched = self.watched()
            if watched is None:
                waiting = SanctumSnapshot()
                return build(waiting, Life(), now_ns=now_ns, runs=rows, notice=self.notice or self.waiting_for)
            snapshot, frozen = self._frozen.shown(watched)
            return build(
                snapshot,
                watched.life,
                now_ns=now_ns,
                runs=rows,
                frozen=frozen,
                event_filter=self.event_filter,
                head_view=self.head_view,
                run_filter=self.run_filter,
                source=watched.source.where,
                corrupt=watched.source.corrupt,
                notice=self.notice or _gone(watched),
                selected=watched.source.run_id,
                label=watched.source.label,
            )


def _searched(row: RunRow) -> str:
    """What a filter looks in; the id has the time in it."""
    return f"{row.run_id} {row.label} {row.state.value} {row.kind.value} {row.group}".casefold()


def _gone(watched: Watched) -> str:
    return f"the folder {watched.source.where} is gone: this is what was read before" if watched.life.gone else ""
