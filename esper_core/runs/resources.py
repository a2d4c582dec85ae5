"""Looks up the resource of each attempt and rank: a resumed run is another process with another instance id."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_core.runs.layout import journal_files
from esper_core.runs.reader import first_resource

if TYPE_CHECKING:
    from collections.abc import Mapping

    from esper_core.events import Payload, TelemetryEvent
    from esper_core.runs.layout import RunDir

__all__ = ["JournalResources"]


class JournalResources:
    """Looks up the resource with which an event was journaled; each journal's first line is read once.

    Args:
        run: the run.
        default: returned for an event whose journal cannot be read.
    """

    def __init__(self, run: RunDir, default: Mapping[str, str | int | float | bool]) -> None:
        self._run = run
        self._default = default
        self._known: dict[tuple[int, int], Mapping[str, str | int | float | bool]] = {}

    def of(self, event: TelemetryEvent[Payload]) -> Mapping[str, str | int | float | bool]:
        """OpenTelemetry resource attributes of the process that emitted the event."""
        key = (event.attempt, event.rank)
        found = self._known.get(key)
        if found is None:
            files = [item for item in journal_files(self._run) if (item.attempt, item.rank) == key]
            # The default holds what this process adds to every resource; the journal's attributes take precedence.
            found = self._known[key] = {**self._default, **first_resource(files)}
        return found
