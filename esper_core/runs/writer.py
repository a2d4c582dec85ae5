"""The journal's writer: appends each event to files that no other attempt writes to."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING, Final

from esper_core.runs.layout import JournalFile, RunDir, journal_files
from esper_core.semconv.codec import encode, encode_log_events

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from esper_core.events import Payload, TelemetryEvent
    from esper_core.hooks import EventForm
    from esper_core.semconv.attributes import AttributeValue

__all__ = ["SEGMENT_BYTES", "JournalWriter"]

SEGMENT_BYTES: Final = 64 * 1024 * 1024


class JournalWriter:
    """Appends events to a run's journal.

    Each event is one ``os.write`` on a descriptor opened with ``O_APPEND``: once :meth:`append` has returned, it
    is kept even when the process is killed (``kill -9``). It is not forced to the disk (fsync) per event, so a
    power loss may lose the last seconds; segments are forced when they are full and at :meth:`close`.

    After a failed write the next append opens the file again. When the failure left a torn line, the next record
    begins on a new line: readers count the torn line as corrupt and read everything else.

    Each append first checks that the file was not deleted (0.7 microseconds), because lines that are written to a
    deleted file are lost without an error. If it was, ``on_deleted`` receives the number of events that it held, and
    the next segment begins. If the directory is gone too, appends raise until it is back. A file that was moved is
    not lost, and the writer goes on with it.

    Args:
        run: the run; its directory exists.
        attempt: counts from 1.
        rank: the rank of this process.
        resource: OpenTelemetry resource attributes, written into each line, so that each line can be read alone.
        events: the form of an update's events (``[otel] events``): on the span, as log records in a line of their own
            behind the event's (in the same write), or both. Readers need neither: the span's attributes hold it all.
        segment_bytes: size at which the next file begins; below 4 GiB, which the index relies on.
        on_deleted: called with the file's name and the number of events that were lost with it and with finished
            segments that are gone as well; in the appending or closing thread, under the writer's lock.
    """

    def __init__(
        self,
        run: RunDir,
        *,
        attempt: int,
        rank: int,
        resource: Mapping[str, AttributeValue],
        events: EventForm = "span",
        segment_bytes: int = SEGMENT_BYTES,
        on_deleted: Callable[[str, int], object] | None = None,
    ) -> None:
        self._run = run
        self._attempt = attempt
        self._rank = rank
        self._resource = dict(resource)
        self._events = events
        self._segment_bytes = segment_bytes
        self._on_deleted = on_deleted
        self._lock = threading.Lock()
        self._segment = 0
        self._fd: int | None = None
        self._file: JournalFile | None = None
        self._size = 0
        self._written = 0
        self._finished: dict[Path, int] = {}
        self._torn = False
        self._closed = False

    @property
    def path(self) -> str:
        """The file being written, for messages; empty before the first append."""
        return str(self._file.path) if self._file is not None else ""

    def append(self, event: TelemetryEvent[Payload]) -> int:
        """Write one event.

        Returns:
            Bytes written.

        Raises:
            OSError: disk full, read-only or run deleted: the event is lost; a later append may succeed.
            ValueError: the writer is closed.
        """
        lines = self._encode(event)
        with self._lock:
            if self._closed:
                raise ValueError("the journal is closed")
            try:
                self._check_file()
                return self._write(lines)
            except OSError:
                self._abandon()
                raise

    def _encode(self, event: TelemetryEvent[Payload]) -> bytes:
        """The event's line, and its log events' line if the form asks for it and there are any."""
        line = encode(event, self._resource, with_events=self._events != "log") + b"\n"
        records = encode_log_events(event, self._resource) if self._events != "span" else b""
        return line + records + b"\n" if records else line

    def close(self) -> None:
        """Force the last segment to the disk and close it. A second call does nothing."""
        with self._lock:
            self._closed = True
            self._check_file()
            self._finish()

    def _write(self, lines: bytes) -> int:
        if self._fd is not None and self._size and self._size + len(lines) > self._segment_bytes:
            self._finish()
        fd = self._open() if self._fd is None else self._fd
        record = b"\n" + lines if self._torn else lines
        rest = memoryview(record)
        while rest:
            # On a full disk the first write may write only a part; the next one raises.
            written = os.write(fd, rest)
            self._size += written
            rest = rest[written:]
            self._torn = bool(rest)
        self._written += 1
        return len(record)

    def _check_file(self) -> None:
        """Give up a file that was deleted: nobody can read what is written there."""
        if self._file is None:
            return
        if self._fd is not None:
            if os.fstat(self._fd).st_nlink:
                return
        elif self._file.path.exists():  # a failed write has closed it
            return
        gone = [path for path in self._finished if not path.exists()]
        lost = self._written + sum(self._finished.pop(path) for path in gone)
        name = self._file.path.name
        self._abandon()
        self._file = None
        self._written = 0
        self._torn = False
        if self._on_deleted is not None:
            self._on_deleted(name, lost)

    def _open(self) -> int:
        """Open the next segment, or after a failure the same one again."""
        if self._file is not None:
            self._fd = os.open(self._file.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._size = os.fstat(self._fd).st_size
            return self._fd
        if self._segment == 0:
            own = (self._attempt, self._rank)
            taken = [item.segment for item in journal_files(self._run) if (item.attempt, item.rank) == own]
            self._segment = max(taken, default=0)
        while True:
            item = JournalFile.named(self._run.telemetry, self._attempt, self._rank, self._segment + 1)
            try:
                # O_EXCL: never append to a file that another process created, even under the same name.
                self._fd = os.open(item.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            except FileExistsError:
                self._segment += 1
                continue
            self._segment += 1
            self._file = item
            self._size = 0
            self._torn = False
            return self._fd

    def _finish(self) -> None:
        """Force a segment to the disk and close it; the next append begins another one."""
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.fsync(self._fd)
            self._abandon()
        if self._file is not None:
            self._finished[self._file.path] = self._written
        self._file = None
        self._written = 0

    def _abandon(self) -> None:
        """Close the descriptor."""
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = None
