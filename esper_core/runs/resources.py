"""Looks up the resource of each attempt and rank: a resumed run is another process with another instance id."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_core.errors import JournalError
from esper_core.runs.files import BOM
from esper_core.runs.layout import journal_files
from esper_core.runs.lines import MAX_LINE_BYTES
from esper_core.runs.segments import open_journal
from esper_core.semconv.codec import CodecError, resource_of
from esper_core.semconv.identity import FORMER_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from esper_core.events import Payload, TelemetryEvent
    from esper_core.runs.layout import JournalFile, RunDir

__all__ = ["JournalResources", "first_resource", "journal_resource"]


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


def journal_resource(run: RunDir) -> dict[str, str | int | float | bool]:
    """The OpenTelemetry resource attributes that the latest attempt's first line carries; empty without a line.

    Attributes that are not scalars are left out.
    """
    files = journal_files(run, rank=0)
    return first_resource(item for item in files if item.attempt == files[-1].attempt)


def first_resource(files: Iterable[JournalFile]) -> dict[str, str | int | float | bool]:
    """The resource of the first file whose first line can be read; scalars only, older names as they are today."""
    for item in files:
        try:
            file = open_journal(item.path)
            if file is None:
                continue
            with file:
                found = resource_of(file.readline(MAX_LINE_BYTES).removeprefix(BOM))
        except (JournalError, CodecError, ValueError, OSError):
            continue
        scalars = {key: value for key, value in found.items() if isinstance(value, str | int | float | bool)}
        return {FORMER_NAMES.get(key, key): value for key, value in scalars.items()}
    return {}
