"""Stepping through a run: which update comes before or after another, and what the screen showed at it.

Recent events are kept in memory; older updates of a run on disk are read again through its index.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from typing import TYPE_CHECKING, Final

from esper_core.errors import EsperError
from esper_core.events import EpisodeFinished, PolicyEvaluated, PPOUpdatePayload, RunStarted
from esper_core.reading.aggregator import SanctumAggregator
from esper_core.reading.attempts import Attempts, attempt_begins, effective_updates
from esper_core.reading.snapshot import RECENT
from esper_core.reading.tamiyo import RELATIVE_WINDOW

if TYPE_CHECKING:
    from collections.abc import Iterable

    from esper_core.events import Payload, TelemetryEvent
    from esper_core.reading.index import UpdateIndex
    from esper_core.reading.snapshot import SanctumSnapshot

    Event = TelemetryEvent[Payload]

__all__ = ["Timeline"]

_KEPT: Final = 1200
_WINDOW: Final = RECENT + RELATIVE_WINDOW
_INDEX_BITE: Final = 1024 * 1024


class Timeline:
    """The order of a run's updates.

    Args:
        index: an index over the run on disk, still empty; None when only what was seen can be shown.
    """

    def __init__(self, index: UpdateIndex | None = None) -> None:
        self._index = index
        self._indexed = index is None  # a run received over the network has no index
        self._events: deque[Event] = deque(maxlen=_KEPT)
        self._starts: list[Event] = []
        self._attempts = Attempts()
        self._ids: list[int] = []
        self._made_by: dict[int, int] = {}

    @property
    def index(self) -> UpdateIndex | None:
        """The index, as far as it has been read."""
        return self._index

    @property
    def indexed(self) -> bool:
        """Whether the index has reached the end of the journal once."""
        return self._indexed

    def add(self, events: Iterable[Event]) -> None:
        """Take new events in."""
        for event in events:
            payload = event.payload
            if event.marked or isinstance(payload, EpisodeFinished):
                continue
            if isinstance(payload, RunStarted):
                self._starts.append(event)
            self._events.append(event)
            first = attempt_begins(event)
            if first is not None and self._attempts.begin(event.attempt, first):
                self._forget_replaced()
            if isinstance(payload, PPOUpdatePayload) and not self._attempts.replaced(event.attempt, payload.update_id):
                self._note(payload.update_id, event.attempt)

    def _note(self, update_id: int, attempt: int) -> None:
        """Keep the ids of the updates in memory, ascending."""
        if not self._ids or update_id > self._ids[-1]:
            self._ids.append(update_id)
            if len(self._ids) > 2 * _KEPT:
                for old in self._ids[:-_KEPT]:
                    del self._made_by[old]
                del self._ids[:-_KEPT]
        elif update_id not in self._made_by:
            insort(self._ids, update_id)
        self._made_by[update_id] = attempt

    def _forget_replaced(self) -> None:
        """A resumed attempt makes some updates anew: what it replaces can no longer be stepped to."""
        self._ids = [known for known in self._ids if not self._attempts.replaced(self._made_by[known], known)]
        self._made_by = {known: self._made_by[known] for known in self._ids}

    def shed(self, kept: int) -> None:
        """Drop the oldest events, so that ``kept`` of them stay in memory."""
        while len(self._events) > kept:
            self._events.popleft()

    def events(self) -> list[Event]:
        """What memory still has, with the plan of every attempt."""
        return [*self._starts, *(event for event in self._events if not isinstance(event.payload, RunStarted))]

    def updates(self) -> list[TelemetryEvent[PPOUpdatePayload]]:
        """The effective updates that memory still has, ascending."""
        return effective_updates([*self._starts, *self._events])

    def evaluations(self) -> list[PolicyEvaluated]:
        """The effective evaluations that memory still has, ascending."""
        found = {}
        # The copy is one step of the interpreter: another thread may add events meanwhile.
        for event in list(self._events):
            payload = event.payload
            if isinstance(payload, PolicyEvaluated) and not self._attempts.replaced(event.attempt, payload.update_id):
                found[payload.update_id] = payload
        return [found[update_id] for update_id in sorted(found)]

    def extend_index(self) -> bool:
        """Read on in the background: one megabyte. True when there is more to read now."""
        if self._index is None:
            return False
        more = self._index.extend(_INDEX_BITE)
        self._indexed = self._indexed or not more
        return more

    # --- order --------------------------------------------------------------------------------

    def ends(self) -> tuple[int, int] | None:
        """First and last update id that can be shown."""
        if not self._ids:
            return None
        first = self._ids[0]
        if self._index is not None and len(self._index):
            first = min(first, self._index.update_id(0))
        return first, self._ids[-1]

    def neighbour(self, update_id: int, offset: int) -> int | None:
        """The update ``offset`` places on, or the nearest end; None when nothing is known."""
        found = self._indexed_neighbour(update_id, offset)
        if found is not None:
            return found
        if not self._ids:
            return None
        place = bisect_left(self._ids, update_id) + offset
        return self._ids[min(max(place, 0), len(self._ids) - 1)]

    def _indexed_neighbour(self, update_id: int, offset: int) -> int | None:
        """Through the index where it reaches; None where the memory knows better."""
        index = self._index
        if index is None or not len(index):
            return None
        place = index.position(update_id)
        if place is None:
            return None
        target = place + offset
        if target < 0:
            return index.update_id(0)
        return index.update_id(target) if target < len(index) else None

    def distance(self, update_id: int, newest: int) -> int:
        """Updates between one and the newest."""
        return max(newest - update_id, 0)

    # --- what was shown -----------------------------------------------------------------------

    def snapshot_at(self, update_id: int, now: SanctumSnapshot) -> SanctumSnapshot:
        """The snapshot as it was when that update had just ended; the present one when it cannot be read any more."""
        events = self._kept_until(update_id)
        if events is None:
            events = self._read_until(update_id)
        if events is None:
            return now
        aggregator = SanctumAggregator(now.run_id)
        aggregator.handle_all(event for event in self._starts if event.time_ns <= events[-1].time_ns)
        aggregator.handle_all(event for event in events if not isinstance(event.payload, RunStarted))
        return aggregator.snapshot()

    def _kept_until(self, update_id: int) -> list[Event] | None:
        """Events in memory up to an update, when enough of them are there."""
        kept = list(self._events)
        place = next((i for i in range(len(kept) - 1, -1, -1) if _id_of(kept[i]) == update_id), None)
        if place is None:
            return None
        before = sum(_id_of(event) is not None for event in kept[: place + 1])
        first = next((_id_of(event) for event in kept if _id_of(event) is not None), None)
        if before < _WINDOW and self._index is not None and first is not None and first > 1:
            return None
        return kept[: place + 1]

    def _read_until(self, update_id: int) -> list[Event] | None:
        """The window of updates that ends with one, read from disk."""
        index = self._index
        if index is None:
            return None
        place = index.position(update_id)
        if place is None:
            kept = self._kept_events(update_id)
            return kept or None
        try:
            return [index.event(position) for position in range(max(place - _WINDOW + 1, 0), place + 1)]
        except (OSError, EsperError):
            return None

    def _kept_events(self, update_id: int) -> list[Event]:
        """What memory has up to an update that the index has not reached yet."""
        kept = list(self._events)
        place = next((i for i in range(len(kept) - 1, -1, -1) if _id_of(kept[i]) == update_id), None)
        return kept[: place + 1] if place is not None else []


def _id_of(event: Event) -> int | None:
    payload = event.payload
    return payload.update_id if isinstance(payload, PPOUpdatePayload) else None
