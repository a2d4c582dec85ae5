"""Watched: one followed run, what was read of it, and the reading of its next part."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from esper_core.reading.life import Life, after_exit
from esper_core.reading.model import run_row
from esper_core.reading.overview import heard_overview, run_overview
from esper_core.reading.snapshot import SanctumSnapshot
from esper_core.reading.source import JournalSource
from esper_core.reading.stream import stream_updates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from threading import RLock

    from esper_core.events import Payload, PPOUpdatePayload, TelemetryEvent
    from esper_core.reading.aggregator import SanctumAggregator
    from esper_core.reading.model import RunRow
    from esper_core.reading.overview import Section
    from esper_core.reading.source import Source
    from esper_core.reading.timeline import Timeline
    from esper_core.runs import RunDir

__all__ = ["BITE", "Watched"]

BITE: Final = 64
"""The number of events that are read in one part."""
_LIFE_S: Final = 0.5
_ENDED_S: Final = 3.0
"""Seconds between two reads of a run that has ended: it may be resumed."""


@dataclass(slots=True)
class Watched:
    """One followed run."""

    source: Source
    aggregator: SanctumAggregator
    timeline: Timeline
    snapshot: SanctumSnapshot = field(default_factory=SanctumSnapshot)
    life: Life = field(default_factory=Life)
    generation: int = -1
    life_at: float = -1.0
    rests_until: float = -1.0
    caught_up: bool = False
    """Whether all that there was has been read once: before that, what a run comes to is no news."""
    marked: bool = False
    group: str = ""
    row: RunRow | None = None
    exit_code: Callable[[], int | None] | None = None

    @property
    def directory(self) -> RunDir | None:
        """Where the run lies; None for one received over the network."""
        return self.source.run if isinstance(self.source, JournalSource) else None

    def overview(self) -> tuple[Section, ...]:
        """What describes the run beside its numbers."""
        here, last = self.directory, self.snapshot.last
        if here is None:
            return heard_overview(self.snapshot)
        seen = (self.snapshot.updates, last.env_steps if last is not None else 0)
        return run_overview(here, now_ns=time.time_ns(), seen=seen)

    def updates(self) -> Iterator[TelemetryEvent[PPOUpdatePayload]]:
        """Every effective update of the run that can still be read, ascending."""
        if isinstance(self.source, JournalSource):
            return stream_updates(self.source.run)
        return iter(self.timeline.updates())

    def rests(self) -> bool:
        """Whether a run that has ended was read a short time ago; otherwise it is to be read now."""
        now = time.monotonic()
        if not self.life.state.ended:
            return False
        if now < self.rests_until:
            return True
        self.rests_until = now + _ENDED_S
        return False

    def bite(self, lock: RLock) -> list[TelemetryEvent[Payload]]:
        """Read the next part; under the lock it is taken in."""
        events = self.source.poll(BITE)
        with lock:
            if events:
                self.aggregator.handle_all(events)
                self.timeline.add(events)
            if len(events) < BITE and not self.caught_up:
                self.caught_up, self.generation = True, -1
        return events

    def refresh(self, lock: RLock, now_ns: int) -> bool:
        """Rebuild the snapshot when there are new events, and update the state. Reads files without the lock.

        Returns:
            Whether the screen may have to be drawn anew.
        """
        now = time.monotonic()
        with lock:
            changed = self.generation != self.aggregator.generation
            if changed:
                self.generation = self.aggregator.generation
                self.snapshot = self.aggregator.snapshot()
        if now - self.life_at >= _LIFE_S:
            self.life_at = now
            # Before the record: one that was written at the very end is then read after it.
            code = self.exit_code() if self.exit_code is not None else None
            life = after_exit(self.source.life(self.snapshot, now_ns), code)
            # A heartbeat alone changes only the age, which is drawn again every second.
            changed = changed or replace(life, sign_ns=None) != replace(self.life, sign_ns=None)
            self.life = life
        if changed:
            group = self.source.group(self.snapshot)
            with lock:
                self.group = group
                self.row = None
        return changed

    def listed(self) -> RunRow:
        """The run's row of the list."""
        if self.row is None:
            row = run_row(
                self.snapshot,
                self.life,
                label=self.source.label,
                group=self.group,
                marked=self.marked,
                run_id=self.source.run_id,
                started_ns=self.source.started_ns(self.snapshot),
            )
            self.row = replace(row, judged=self.caught_up)
        return self.row
