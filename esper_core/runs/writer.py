"""The journal's writer: appends each event to files that no other attempt writes to."""

from __future__ import annotations

import contextlib
import os
import threading
from array import array
from typing import TYPE_CHECKING, Final

from esper_core.runs.folder import Folder
from esper_core.runs.layout import JOURNAL_FOLDER, JournalFile, RunDir
from esper_core.runs.packer import SegmentPacker, lies_there
from esper_core.semconv.codec import encode, encode_log_events

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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

    With ``compress``, a segment that is full, and the last one at :meth:`close`, is compressed (``.gz``) by a thread of
    the writer's own, to about a tenth; readers follow it there. The segment being written is plain.

    After a failed write the next append opens the file again. When the failure left a torn line, the next record
    begins on a new line: readers count the torn line as corrupt and read everything else.

    The run's directory is held open: its files land there wherever it is moved to, and whatever the working directory
    is. Each append first checks that the file still lies there under its name (2 microseconds), because lines that are
    written to a deleted file are lost without an error, and lines in a file that was moved out are no part of the run.
    If it is gone, ``on_vanished`` receives the number of events that it held, and the next segment begins, in
    directories that are made again when they were deleted too. Of the finished segments each append checks one. A file
    that someone has shortened (``> file``, a log rotation that copies and truncates) is left as it is in the same way:
    what was cut off it is lost.

    Args:
        run: the run; its directory exists.
        attempt: counts from 1.
        rank: the rank of this process.
        resource: OpenTelemetry resource attributes, written into each line, so that each line can be read alone.
        events: the form of an update's events (``[otel] events``): on the span, as log records in a line of their own
            behind the event's (in the same write), or both. Readers need neither: the span's attributes hold it all.
        compress: whether segments are compressed once nothing more is written into them.
        segment_bytes: size at which the next file begins; below 4 GiB, which the index relies on.
        on_vanished: called with a text that names the file, and the number of events that were lost of it and with
            finished segments that are gone as well; in the appending or closing thread, under the writer's lock.

    Raises:
        OSError: there is no such directory.
    """

    def __init__(
        self,
        run: RunDir,
        *,
        attempt: int,
        rank: int,
        resource: Mapping[str, AttributeValue],
        events: EventForm = "span",
        compress: bool = False,
        segment_bytes: int = SEGMENT_BYTES,
        on_vanished: Callable[[str, int], object] | None = None,
    ) -> None:
        self._folder = Folder(run.path)
        self._telemetry = run.telemetry
        self._attempt = attempt
        self._rank = rank
        self._resource = dict(resource)
        self._events = events
        self._segment_bytes = segment_bytes
        self._on_vanished = on_vanished
        self._lock = threading.Lock()
        self._segment = 0
        self._fd: int | None = None
        self._inode = (0, 0)
        self._inodes_tell = True
        self._file: JournalFile | None = None
        self._size = 0
        self._ends = array("q")
        """Of each event in the file, where it ends, in bytes."""
        self._finished: dict[str, int] = {}
        self._looked_at = 0
        self._torn = False
        self._closed = False
        self._packer = SegmentPacker(self._folder) if compress else None

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
        """Force the last segment to the disk, close it and compress it. A second call does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            try:
                self._check_file()
                self._vanished([name for name in self._finished if not lies_there(self._folder, name)])
                self._finish()
            finally:
                self._abandon()
                if self._packer is not None:
                    self._packer.close()
                self._folder.close()

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
        self._ends.append(self._size)
        if self._packer is not None and self._file is not None:
            self._packer.written(_name(self._file), self._size)
        return len(record)

    def _check_file(self) -> None:
        """Give up a file that is not in the run any more: nobody will read there what is written into it."""
        if self._file is None:
            return
        if self._fd is not None and not self._is_ours(self._fd):
            self._fd = None  # someone closed it (closerange), and the number may be another file's: open it again
        name = _name(self._file)
        found = self._folder.stat(name)
        if self._is_gone(found, self._fd):
            gone = [other for other in self._finished if not lies_there(self._folder, other)]
            moved = self._fd is not None and os.fstat(self._fd).st_nlink
            self._leave(name)
            self._vanished([name, *gone], "moved out of the run" if moved else "deleted")
        elif found is not None and self._ends and found.st_size < self._ends[-1]:
            lost = sum(end > found.st_size for end in self._ends)
            self._leave(name)
            self._finished[name] -= lost
            if self._on_vanished is not None:
                self._on_vanished(f"{name.rpartition('/')[2]} was shortened by someone else", lost)
        elif self._finished:
            self._looked_at += 1
            one = list(self._finished)[self._looked_at % len(self._finished)]
            self._vanished([] if lies_there(self._folder, one) else [one])

    def _leave(self, name: str) -> None:
        """Write no more into the file; the next append begins another one."""
        self._finished[name] = len(self._ends)
        self._abandon()
        self._file = None
        self._ends = array("q")
        self._torn = False

    def _is_gone(self, found: os.stat_result | None, fd: int | None = None) -> bool:
        """Whether no file has the name, or another one than the open one; ``found`` is what has it."""
        if found is None or fd is None or not self._inodes_tell:
            return found is None
        return (found.st_dev, found.st_ino) != self._inode

    def _is_ours(self, fd: int) -> bool:
        try:
            found = os.fstat(fd)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._inode

    def _vanished(self, names: list[str], how: str = "deleted") -> None:
        """Count what was in files that are gone."""
        lost = sum(self._finished.pop(name) for name in names)
        if names and self._on_vanished is not None:
            self._on_vanished(f"{names[0].rpartition('/')[2]} was {how}", lost)

    def _open(self) -> int:
        """Open the next segment, or after a failure the same one again."""
        if self._file is not None:
            return self._opened(os.O_CREAT)
        if self._segment == 0:
            own = (self._attempt, self._rank)
            found = [JournalFile.parse(self._telemetry / name) for name in self._folder.names(JOURNAL_FOLDER)]
            taken = [item.segment for item in found if item is not None and (item.attempt, item.rank) == own]
            self._segment = max(taken, default=0)
        while True:
            self._segment += 1
            self._file = JournalFile.named(self._telemetry, self._attempt, self._rank, self._segment)
            self._torn = False
            try:
                # O_EXCL: never append to a file that another process created, even under the same name.
                return self._opened(os.O_CREAT | os.O_EXCL)
            except FileExistsError:
                continue
            except OSError:
                self._file = None
                self._segment -= 1
                raise

    def _opened(self, flags: int) -> int:
        assert self._file is not None  # the caller has chosen it  # noqa: S101
        self._fd = self._folder.open(_name(self._file), os.O_WRONLY | os.O_APPEND | flags, 0o644)
        found = os.fstat(self._fd)
        self._inode, self._size = (found.st_dev, found.st_ino), found.st_size
        # Some file systems in user space number a file anew whenever they are asked.
        self._inodes_tell = True
        self._inodes_tell = not self._is_gone(self._folder.stat(_name(self._file)), self._fd)
        return self._fd

    def _finish(self) -> None:
        """Force a segment to the disk and close it; the next append begins another one."""
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.fsync(self._fd)
            self._abandon()
        if self._file is not None:
            self._finished[_name(self._file)] = len(self._ends)
            if self._packer is not None and self._ends and not self._torn:
                self._packer.ended(_name(self._file), self._size)
        self._file = None
        self._ends = array("q")

    def _abandon(self) -> None:
        """Close the descriptor, unless someone has, and its number is another file's by now."""
        if self._fd is not None and self._is_ours(self._fd):
            with contextlib.suppress(OSError):
                os.close(self._fd)
        self._fd = None


def _name(file: JournalFile) -> str:
    """The file's name in the run's directory."""
    return f"{JOURNAL_FOLDER}/{file.path.name}"
