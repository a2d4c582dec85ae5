"""Which updates count: a duplicate never twice, and a resumed attempt replaces what came after its checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from esper_core.events import Payload, PPOUpdatePayload, RunStarted, TelemetryEvent
from esper_core.runs.layout import journal_files
from esper_core.runs.reader import JournalReader

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from esper_core.runs.layout import RunDir

    Update = TelemetryEvent[PPOUpdatePayload]

__all__ = ["UpdateHistory", "effective_updates", "stream_updates"]


class UpdateHistory:
    """The effective updates of a run, kept up to date event by event; the order of arrival does not matter.

    An update is known by (attempt, update id): a second one never counts. A higher attempt replaces everything from
    its first id on, whether that comes before or after: the id that ``RunStarted`` announces, else the smallest
    update id seen of it. Marked test events are left out.
    """

    def __init__(self) -> None:
        self._updates: dict[int, Update] = {}
        self._first: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._updates)

    def add(self, event: TelemetryEvent[Payload]) -> bool:
        """Take an event in; True when it became an effective update or replaced some."""
        payload = event.payload
        if event.marked:
            return False
        if isinstance(payload, RunStarted):
            return self._begins(event.attempt, payload.first_update_id)
        if not isinstance(payload, PPOUpdatePayload):
            return False
        self._begins(event.attempt, payload.update_id)
        if self._replaced(event.attempt, payload.update_id) or payload.update_id in self._updates:
            return False
        self._updates[payload.update_id] = cast("Update", event)
        return True

    def updates(self) -> list[Update]:
        """The effective updates by ascending id."""
        return [self._updates[key] for key in sorted(self._updates)]

    def _begins(self, attempt: int, first: int) -> bool:
        """Note where an attempt begins, and drop what it replaces."""
        known = self._first.get(attempt)
        if known is not None and known <= first:
            return False
        self._first[attempt] = first
        stale = [key for key, kept in self._updates.items() if key >= first and kept.attempt < attempt]
        for key in stale:
            del self._updates[key]
        return bool(stale)

    def _replaced(self, attempt: int, update_id: int) -> bool:
        return any(other > attempt and first <= update_id for other, first in self._first.items())


def effective_updates(events: Iterable[TelemetryEvent[Payload]]) -> list[Update]:
    """The effective updates among events, by ascending id; see :class:`UpdateHistory`."""
    history = UpdateHistory()
    for event in events:
        history.add(event)
    return history.updates()


def stream_updates(run: RunDir) -> Iterator[Update]:
    """The effective updates of a run on disk by ascending id, one at a time: memory does not grow with the run."""
    begins = attempt_starts(run)
    last: dict[int, int] = {}
    for event in JournalReader(run).stream():
        payload = event.payload
        if not isinstance(payload, PPOUpdatePayload) or event.marked:
            continue
        key = payload.update_id
        if key <= last.get(event.attempt, 0):
            continue  # a duplicate: ids only grow within an attempt
        last[event.attempt] = key
        if not any(other > event.attempt and first <= key for other, first in begins.items()):
            yield cast("Update", event)


def attempt_starts(run: RunDir) -> dict[int, int]:
    """Each attempt's first update id, from the beginning of its journal."""
    begins: dict[int, int] = {}
    for attempt in sorted({item.attempt for item in journal_files(run)}):
        reader = JournalReader(run, attempt=attempt)
        for event in reader.stream():
            if event.marked:
                continue
            if isinstance(event.payload, RunStarted):
                begins[attempt] = event.payload.first_update_id
                break
            if isinstance(event.payload, PPOUpdatePayload):
                begins[attempt] = event.payload.update_id
                break
    return begins
