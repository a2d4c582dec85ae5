"""Which updates count: the one place of the rule that everybody who reads a run follows.

An update is known by (attempt, update id). A second one of the same attempt never counts. A higher attempt replaces
everything from its first id on, whether that comes before or after: the id that ``RunStarted`` announces, else the
smallest update id seen of it. Marked test events are left out.
"""

from __future__ import annotations

from bisect import bisect_right
from operator import itemgetter
from typing import TYPE_CHECKING, Final, cast

from esper_core.events import Payload, PPOUpdatePayload, RunStarted, TelemetryEvent
from esper_core.runs.layout import journal_files
from esper_core.runs.reader import JournalReader

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from esper_core.runs.layout import RunDir

    Update = TelemetryEvent[PPOUpdatePayload]

__all__ = ["Attempts", "Once", "UpdateHistory", "attempt_begins", "effective_updates", "first_events"]

_LOOKED_AT: Final = 64
"""Updates among which an attempt's ``RunStarted`` is looked for, when it is not before them."""


class Attempts:
    """Where each attempt of a run begins, and what it replaces by that."""

    __slots__ = ("_first", "_highest")

    def __init__(self) -> None:
        self._first: dict[int, int] = {}
        self._highest = 0

    def begin(self, attempt: int, first: int) -> bool:
        """Note an update id that an attempt makes.

        Returns:
            True when the attempt begins there, as far as is known now: updates of lower attempts from ``first`` on
            no longer count, which :meth:`replaced` says of each.
        """
        known = self._first.get(attempt)
        if known is not None and known <= first:
            return False
        self._first[attempt] = first
        self._highest = max(self._highest, attempt)
        return True

    def replaced(self, attempt: int, update_id: int) -> bool:
        """Whether a higher attempt makes this update anew."""
        return attempt < self._highest and any(
            other > attempt and first <= update_id for other, first in self._first.items()
        )


class Once:
    """Passes each update of an attempt once, in whatever order they come.

    Attributes:
        repeated: updates that came again, and were not passed.
        late: updates that came behind a later one of their attempt, and were passed.
    """

    __slots__ = ("_seen", "late", "repeated")

    def __init__(self) -> None:
        self.repeated = 0
        self.late = 0
        # Per attempt the ids seen, as pairs (first, last) of unbroken ranges, ascending: one pair for a whole run.
        self._seen: dict[int, list[tuple[int, int]]] = {}

    def passes(self, attempt: int, update_id: int) -> bool:
        """Whether this update is a new one."""
        ranges = self._seen.setdefault(attempt, [])
        if ranges and update_id == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], update_id)
            return True
        place = bisect_right(ranges, update_id, key=itemgetter(0))
        if place and update_id <= ranges[place - 1][1]:
            self.repeated += 1
            return False
        self.late += place < len(ranges)
        self._insert(ranges, place, update_id)
        return True

    def continues(self, attempt: int, first: int, count: int) -> bool:
        """Pass so many updates at once, if they follow the last one of their attempt without a gap."""
        ranges = self._seen.get(attempt)
        if not ranges or ranges[-1][1] + 1 != first:
            return False
        ranges[-1] = (ranges[-1][0], first + count - 1)
        return True

    @staticmethod
    def _insert(ranges: list[tuple[int, int]], place: int, update_id: int) -> None:
        """Add an id before the range at ``place``, joining what it touches."""
        first, last = update_id, update_id
        end = place
        if place < len(ranges) and ranges[place][0] == update_id + 1:
            last, end = ranges[place][1], place + 1
        if place and ranges[place - 1][1] == update_id - 1:
            first, place = ranges[place - 1][0], place - 1
        ranges[place:end] = [(first, last)]


class UpdateHistory:
    """The effective updates of a run, kept up to date event by event; the order of arrival does not matter."""

    def __init__(self) -> None:
        self._updates: dict[int, Update] = {}
        self._attempts = Attempts()

    def __len__(self) -> int:
        return len(self._updates)

    def add(self, event: TelemetryEvent[Payload]) -> bool:
        """Take an event in; True when it became an effective update or replaced some."""
        first = attempt_begins(event)
        if first is None:
            return False
        dropped = self._attempts.begin(event.attempt, first) and self._drop_replaced()
        if not isinstance(event.payload, PPOUpdatePayload):
            return dropped
        if self._attempts.replaced(event.attempt, first) or first in self._updates:
            return False
        self._updates[first] = cast("Update", event)
        return True

    def updates(self) -> list[Update]:
        """The effective updates by ascending id."""
        return [self._updates[key] for key in sorted(self._updates)]

    def _drop_replaced(self) -> bool:
        stale = [key for key, kept in self._updates.items() if self._attempts.replaced(kept.attempt, key)]
        for key in stale:
            del self._updates[key]
        return bool(stale)


def attempt_begins(event: TelemetryEvent[Payload]) -> int | None:
    """The update id from which the event's attempt counts, as far as this event tells; None for other events."""
    payload = event.payload
    if event.marked:
        return None
    if isinstance(payload, RunStarted):
        return payload.first_update_id
    return payload.update_id if isinstance(payload, PPOUpdatePayload) else None


def effective_updates(events: Iterable[TelemetryEvent[Payload]]) -> list[Update]:
    """The effective updates among events, by ascending id."""
    history = UpdateHistory()
    for event in events:
        history.add(event)
    return history.updates()


def first_events(run: RunDir) -> Iterator[TelemetryEvent[Payload]]:
    """The event that begins each attempt of a run on disk, ascending: its ``RunStarted``, else its first update.

    Files that cannot be read are passed over.
    """
    for attempt in sorted({item.attempt for item in journal_files(run, rank=0)}):
        first = _first_event(JournalReader(run, attempt=attempt))
        if first is not None:
            yield first


def _first_event(reader: JournalReader) -> TelemetryEvent[Payload] | None:
    """Where an attempt begins; its ``RunStarted`` may lie a little behind an update in a journal out of order."""
    found: TelemetryEvent[Payload] | None = None
    looked = 0
    for event in reader.stream():
        first = attempt_begins(event)
        if first is None:
            continue
        if isinstance(event.payload, RunStarted):
            return event
        if found is None or first < cast("int", attempt_begins(found)):
            found = event
        looked += 1
        if looked >= _LOOKED_AT:
            break
    return found
