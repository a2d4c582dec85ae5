"""What of a run's files is not as a run leaves it: files that cannot be read, updates that no journal holds."""

from __future__ import annotations

import stat
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from esper_core.errors import JournalError
from esper_core.reading.account import from_record
from esper_core.runs.files import FileFault, fault_of, file_fault, read_bytes, read_text
from esper_core.runs.layout import journal_files
from esper_core.runs.state import record_fault

if TYPE_CHECKING:
    from esper_core.runs.layout import JournalFile, RunDir
    from esper_core.runs.state import RunRecord

__all__ = ["SOUND", "JournalCondition", "has_journal", "journal_condition", "run_faults"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalCondition:
    """What a run's journal lacks.

    Attributes:
        unread: its files that cannot be read.
        absent: why a run that made updates has none on disk, as text; empty when its journal holds something.
        recorded: updates that an ended run made in all; 0 while it runs, and when nobody said.
    """

    unread: tuple[FileFault, ...] = ()
    absent: str = ""
    recorded: int = 0

    def gap(self, last_update: int) -> str:
        """What is missing beside the updates that were read, the last of which has this id; empty for nothing."""
        if self.unread:
            first, more = self.unread[0], len(self.unread) - 1
            others = f" and {more} more" if more else ""
            return f"{first.path.name}{others} cannot be read ({first.reason}): numbers here have gaps"
        if not last_update or self.recorded <= last_update:
            return ""
        first_lost = last_update + 1
        if first_lost == self.recorded:
            return f"update {first_lost} is not in its journal: numbers here end before it"
        return f"updates {first_lost} to {self.recorded} are not in its journal: numbers here end before them"


SOUND = JournalCondition()
"""A journal that lacks nothing."""


def journal_condition(run: RunDir, record: RunRecord | None) -> JournalCondition:
    """What the journal of a run lacks.

    Args:
        run: its directory.
        record: what ``run.json`` says.
    """
    try:
        files = journal_files(run, rank=0)
    except JournalError as error:
        reason = error.message.removeprefix(f"cannot read {run.telemetry}: ")
        return JournalCondition(unread=(FileFault(run.telemetry, reason, "put the folder of the journal there"),))
    return JournalCondition(
        unread=tuple(fault for item in files if (fault := file_fault(item.path)) is not None),
        absent="" if record is None or _holds_something(files) else _absent(run, record),
        recorded=record.updates if record is not None and record.state.ended else 0,
    )


def has_journal(run: RunDir) -> bool:
    """Whether the run's journal holds something, readable or not."""
    try:
        return _holds_something(journal_files(run, rank=0))
    except JournalError:
        return True


def _holds_something(files: list[JournalFile]) -> bool:
    for item in files:
        try:
            found = item.path.stat()
            if found.st_size or not stat.S_ISREG(found.st_mode) or file_fault(item.path) is not None:
                return True
        except OSError:
            return True  # something is there; it is named as unreadable
    return False


def _absent(run: RunDir, record: RunRecord) -> str:
    """Why a run has no journal; empty when it made no update."""
    if record.updates <= 0:
        return ""
    made = "1 update" if record.updates == 1 else f"{record.updates} updates"
    if any(from_record(sink).is_record for sink in record.sinks):
        return f"{made}, but the journal of this run is gone from {run.telemetry}"
    sinks = ", ".join(sink.name for sink in record.sinks)
    return f"{made}, but this run kept no journal ({f'its sinks: {sinks}' if sinks else 'it had no sinks'})"


def run_faults(run: RunDir) -> list[FileFault]:
    """The files of a run that are there and cannot be read, with what to do about each; not the damaged lines.

    Args:
        run: its directory.
    """
    others = (file_fault(run.checkpoint), file_fault(run.log_path))
    found = (record_fault(run), _config_fault(run), _summary_fault(run), *journal_condition(run, None).unread, *others)
    return [fault for fault in found if fault is not None]


def _config_fault(run: RunDir) -> FileFault | None:
    fault = file_fault(run.config_path)
    if fault is not None:
        return fault
    try:
        tomllib.loads(read_text(run.config_path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        return fault_of(run.config_path, error)
    return None


def _summary_fault(run: RunDir) -> FileFault | None:
    fault = file_fault(run.summary_path)
    if fault is not None:
        return fault
    try:
        msgspec.json.decode(read_bytes(run.summary_path), type=dict)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        return fault_of(run.summary_path, error)
    return None
