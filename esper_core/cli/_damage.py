"""What a command says on stderr, apart from its output, of the files and lines of a run that it could not read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from esper_core.cli._output import note
from esper_core.errors import JournalError

if TYPE_CHECKING:
    from esper_core.reading import Run
    from esper_core.runs import FileFault, JournalReader

__all__ = ["refuse_without_journal", "say_faults", "say_lines"]

_SHOWN: Final = 5
_KEEP_ONE: Final = "--sink adds a sink and keeps the journal; --sinks replaces every sink, the journal too"


def refuse_without_journal(run: Run) -> None:
    """Raise for a run that made updates and has none of them on disk.

    Raises:
        JournalError: it kept no journal, or its journal is gone.
    """
    from esper_core.reading import journal_condition

    absent = journal_condition(run.directory, run.record).absent
    if absent:
        raise JournalError(f"{run.path}: {absent}", hint=_KEEP_ONE)


def say_faults(faults: list[FileFault]) -> None:
    """Print the files that cannot be read."""
    for fault in faults[:_SHOWN]:
        note(f"esper: {fault}")
    if len(faults) > _SHOWN:
        note(f"esper: and {len(faults) - _SHOWN} more files that cannot be read")


def say_lines(reader: JournalReader) -> None:
    """Print how many lines of the journal could not be read, and the first of them."""
    if not reader.corrupt:
        return
    lines = "1 damaged line" if reader.corrupt == 1 else f"{reader.corrupt} damaged lines"
    note(f"esper: {lines} in the journal passed over; everything else was read")
    for problem in reader.problems[:_SHOWN]:
        note(f"  {problem}")
    if reader.corrupt > _SHOWN:
        note(f"  and {reader.corrupt - _SHOWN} more")
