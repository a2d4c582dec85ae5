"""The journal's reader: follows a run while it is written, and reads an ended one even when its files are damaged.

A line is read once its newline is written. While following, the reader waits for the rest of a torn last line; at the
end it counts that line as corrupt. A corrupt line in the middle is counted and reported with file and line number; the
lines around it are read.
"""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple

from esper_core.errors import JournalError
from esper_core.events import Payload, PPOUpdatePayload, TelemetryEvent
from esper_core.runs.files import FileFault, fault_of
from esper_core.runs.layout import JournalFile, RunDir, journal_files
from esper_core.runs.lines import MAX_LINE_BYTES, complete_size, decode_line, line_number, lines_backwards, skip_line
from esper_core.runs.segments import is_gone, open_segment
from esper_core.semconv.codec import CodecError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["JournalLine", "JournalProblem", "JournalReader", "read_events", "tail_events"]

_PROBLEMS_KEPT: Final = 100


@dataclass(frozen=True, slots=True)
class JournalProblem:
    """One line that holds no event.

    Attributes:
        path: the journal file.
        line: counts from 1.
        reason: what is wrong with it.
    """

    path: Path
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.reason}"


class JournalLine(NamedTuple):
    """One line of a journal, not decoded.

    Attributes:
        path: the journal file.
        offset: where it begins, in bytes of the plain text.
        text: the line with its newline.
        torn: it has none: the write was cut short.
    """

    path: Path
    offset: int
    text: bytes
    torn: bool


@dataclass(slots=True)
class _Cursor:
    """How far one file has been read. ``finished`` is True once nothing can be appended any more."""

    file: JournalFile
    offset: int = 0
    finished: bool = False


class JournalReader:
    """Reads a run's journal over all segments and attempts; each call continues where the last one ended.

    Several readers may read one run at once, in any process, while it is written. A reader is not shared by threads.

    Args:
        run: the run; it may have no journal yet, and may be deleted while it is read.
        attempt: read this attempt only; None for all.

    A file that exists and cannot be read (a pipe, a directory, no right to) does not hide the others: it is passed over
    and noted in ``unreadable``; :meth:`check` raises for it.

    Raises:
        JournalError: the folder of the journal cannot be read.

    Attributes:
        corrupt: the number of lines without an event so far.
        problems: the first hundred of those lines.
    """

    def __init__(self, run: RunDir, *, attempt: int | None = None) -> None:
        self.run = run
        self.attempt = attempt
        self.corrupt = 0
        self.problems: list[JournalProblem] = []
        self._cursors: dict[str, _Cursor] = {}
        self._faults: dict[str, FileFault] = {}

    @property
    def unreadable(self) -> list[FileFault]:
        """The files that could not be read when they were last tried, in order of their names."""
        return [self._faults[name] for name in sorted(self._faults)]

    def check(self) -> None:
        """Raise for files that could not be read; everything else has been read.

        Raises:
            JournalError: it names the first of them, and how many more there are.
        """
        faults = self.unreadable
        if not faults:
            return
        first, more = faults[0], len(faults) - 1
        others = f", and {more} more {'file' if more == 1 else 'files'} of the journal" if more else ""
        raise JournalError(
            f"cannot read {first.path}: {first.reason}{others}", hint=f"{first.remedy}; everything else was read"
        )

    @property
    def deleted(self) -> bool:
        """True when the run's directory no longer exists."""
        return not self.run.path.is_dir()

    def poll(self, limit: int | None = None) -> list[TelemetryEvent[Payload]]:
        """The complete new events since the last call, oldest first within each file; empty when there are none.

        Args:
            limit: stop after about this many; the next call returns the rest.
        """
        events: list[TelemetryEvent[Payload]] = []
        for found in self._new(final=False):
            events.extend(found)
            if limit is not None and len(events) >= limit:
                break
        return events

    def stream(self) -> Iterator[TelemetryEvent[Payload]]:
        """Yield every event not read yet; a torn last line is counted as corrupt. For runs that have ended."""
        for found in self._new(final=True):
            yield from found

    def lines(self) -> Iterator[JournalLine]:
        """Yield every line not read yet as it is, for who knows a faster way with most; :meth:`events` takes others."""
        return self._new_lines(final=True)

    def events(self, line: JournalLine) -> list[TelemetryEvent[Payload]]:
        """Decode a line of :meth:`lines`; one without an event is counted as corrupt."""
        if not line.text.strip():
            return []
        try:
            return decode_line(line.text)
        except CodecError as error:
            self._note(line.path, line.offset, "torn: the write was cut short" if line.torn else error.message)
            return []

    def finish(self) -> list[TelemetryEvent[Payload]]:
        """Return the rest of a followed journal to which nothing more is written: as :meth:`stream`, in a list."""
        return list(self.stream())

    def tail(self, count: int, *, updates_only: bool = False) -> list[TelemetryEvent[Payload]]:
        """Return the last events, read backwards from the end; :meth:`poll` continues after them.

        The time it takes depends on ``count`` and not on the journal's length.

        Args:
            count: events to return at most.
            updates_only: count PPO updates only; the other events among them are returned as well.

        Returns:
            Events, oldest first.
        """
        files = self._files()
        newest: deque[list[TelemetryEvent[Payload]]] = deque()
        left = count
        for item in files:
            self._cursors[item.key] = _Cursor(item, offset=complete_size(item.path))
        for item in reversed(files):
            if left <= 0:
                break
            end = self._cursors[item.key].offset
            file = self._open(item.path)
            if file is None:
                continue
            with file, self._noting(item.path):
                for offset, line in lines_backwards(file, end):
                    found = self.events(JournalLine(item.path, offset, line, torn=False))
                    newest.appendleft(found)
                    left -= sum(not updates_only or isinstance(event.payload, PPOUpdatePayload) for event in found)
                    if left <= 0:
                        break
        return [event for found in newest for event in found]

    def _open(self, path: Path) -> BinaryIO | None:
        """Open a journal file; None when it is gone, and when it cannot be read, which is noted."""
        try:
            file = open_segment(path)
        except OSError as error:
            if not is_gone(path, error):
                self._faults[path.name] = fault_of(path, error)
            return None
        self._faults.pop(path.name, None)
        return file

    @contextmanager
    def _noting(self, path: Path) -> Iterator[None]:
        """Note a file that can be opened and not read: a broken disk."""
        try:
            yield
        except OSError as error:
            self._faults[path.name] = fault_of(path, error)

    def _files(self) -> list[JournalFile]:
        files = journal_files(self.run, rank=0)
        return files if self.attempt is None else [item for item in files if item.attempt == self.attempt]

    def _new(self, *, final: bool) -> Iterator[list[TelemetryEvent[Payload]]]:
        """Decode the new lines."""
        return map(self.events, self._new_lines(final=final))

    def _new_lines(self, *, final: bool) -> Iterator[JournalLine]:
        files = self._files()
        for index, item in enumerate(files):
            cursor = self._cursors.setdefault(item.key, _Cursor(item))
            if cursor.finished:
                continue
            # A torn line at the end of a segment that has a successor is never completed.
            after = files[index + 1] if index + 1 < len(files) else None
            closed = after is not None and (after.attempt, after.rank) == (item.attempt, item.rank)
            yield from self._new_in(cursor, final=final or closed)
            cursor.finished = closed

    def _new_in(self, cursor: _Cursor, *, final: bool) -> Iterator[JournalLine]:
        path = cursor.file.path
        file = self._open(path)
        if file is None:
            return
        with file, self._noting(path):
            file.seek(0, 2)
            if file.tell() < cursor.offset:
                cursor.offset = 0  # a shorter copy: read it again; callers recognise updates by their ids
            file.seek(cursor.offset)
            while line := file.readline(MAX_LINE_BYTES):
                start = cursor.offset
                if line.endswith(b"\n"):
                    cursor.offset += len(line)
                    yield JournalLine(path, start, line, torn=False)
                elif len(line) == MAX_LINE_BYTES:
                    cursor.offset = skip_line(file)
                    self._note(path, start, f"longer than {MAX_LINE_BYTES} bytes")
                elif final:
                    cursor.offset += len(line)
                    yield JournalLine(path, start, line, torn=True)
                else:
                    return

    def _note(self, path: Path, offset: int, reason: str) -> None:
        self.corrupt += 1
        if len(self.problems) < _PROBLEMS_KEPT:
            self.problems.append(JournalProblem(path, line_number(path, offset), reason))


def read_events(run: RunDir) -> Iterator[TelemetryEvent[Payload]]:
    """Yield every event that a run's files hold now, in the order of the files; damaged lines are skipped.

    Use :class:`JournalReader` to count the damaged lines, or to follow a run.

    Raises:
        JournalError: after the last event, when a file could not be read.
    """
    reader = JournalReader(run)
    yield from reader.stream()
    reader.check()


def tail_events(run: RunDir, count: int, *, updates_only: bool = False) -> list[TelemetryEvent[Payload]]:
    """The last events of a run, oldest first, without reading the rest; see :meth:`JournalReader.tail`.

    Raises:
        JournalError: a file that was needed for it could not be read.
    """
    reader = JournalReader(run)
    found = reader.tail(count, updates_only=updates_only)
    reader.check()
    return found
