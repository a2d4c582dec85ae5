"""Which updates count: the one place of the rule that everybody who reads a run follows.

An update is known by (attempt, update id). A second one of the same attempt never counts. A higher attempt replaces
everything from its first id on, whether that comes before or after: the id that ``RunStarted`` announces, else the
smallest update id seen of it. Marked test events are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from esper_core.events import Payload, PPOUpdatePayload, RunStarted, TelemetryEvent
from esper_core.runs.layout import journal_files
from esper_core.runs.reader import JournalReader

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from esper_core.runs.layout import RunDir

    Update = TelemetryEvent[PPOUpdatePayload]

__all__ = ["Attempts", "Once", "UpdateHistory", "attempt_begins", "effective_updates", "first_events", "stream_updates"]


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
    """Passes each update of an attempt once. Ids only grow within an attempt, in the order of its journal."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: dict[int, int] = {}

    def passes(self, attempt: int, update_id: int) -> bool:
        """Whether this update is a new one."""
        if update_id <= self._last.get(attempt, 0):
            return False
        self._last[attempt] = update_id
        return True


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


def stream_updates(run: RunDir) -> Iterator[Update]:
    """The effective updates of a run on disk by ascending id, one at a time: memory does not grow with the run."""
    attempts, once = Attempts(), Once()
    for event in first_events(run):
        attempts.begin(event.attempt, cast("int", attempt_begins(event)))
    for event in JournalReader(run).stream():
        payload = event.payload
        if not isinstance(payload, PPOUpdatePayload) or event.marked:
            continue
        if once.passes(event.attempt, payload.update_id) and not attempts.replaced(event.attempt, payload.update_id):
            yield cast("Update", event)


def first_events(run: RunDir) -> Iterator[TelemetryEvent[Payload]]:
    """The event that begins each attempt of a run on disk, ascending: its ``RunStarted``, else its first update."""
    for attempt in sorted({item.attempt for item in journal_files(run)}):
        for event in JournalReader(run, attempt=attempt).stream():
            if attempt_begins(event) is not None:
                yield event
                break
