"""One event file: what is written, what has reached the disk, and what a failure costs."""

from __future__ import annotations

import contextlib
import time
from itertools import count
from typing import TYPE_CHECKING

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

if TYPE_CHECKING:
    from pathlib import Path

    from tensorboardX.proto.summary_pb2 import Summary

__all__ = ["EventFile"]


class EventFile:
    """Appends records and forces them to the disk.

    tensorboardX's own ``SummaryWriter`` has a queue, a thread and a multiprocessing queue between caller and file; the
    host has given this sink its thread already, so records go to the file at once.

    Args:
        folder: created when it is not there.
        attempt: stands in the file's name, with a number: no file of an earlier process is written over.
        first_step: of what is written: TensorBoard hides what older files of the folder have from this step on, so
            that a resumed run has one curve.
        flush_s: least seconds between two flushes; 0 flushes after every event.

    Raises:
        OSError: the file cannot be created or written.

    Attributes:
        unflushed: events that a SIGKILL now would cost.
    """

    def __init__(self, folder: Path, attempt: int, first_step: int, *, flush_s: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        number = next(n for n in count(1) if not any(folder.glob(f"events.*.{attempt}-{n}")))
        self._writer = EventsWriter(str(folder / "events"), f".{attempt}-{number}")
        (self._path,) = folder.glob(f"events.*.{attempt}-{number}")
        self._flush_s = flush_s
        self._flushed_at = time.monotonic()
        self._kept = False
        self.unflushed = 0
        start = SessionLog(status=SessionLog.START)
        now = time.time()
        self._writer.write_event(Event(wall_time=now, step=first_step, file_version="brain.Event:2"))
        self._writer.write_event(Event(wall_time=now, step=first_step, session_log=start))

    def describe(self, summary: Summary, *, step: int, time_ns: int) -> None:
        """Append a record that stands for no event.

        Raises:
            OSError: as :meth:`add`.
        """
        self._writer.write_event(Event(wall_time=time_ns / 1e9, step=step, summary=summary))

    def add(self, summary: Summary, *, step: int, time_ns: int) -> None:
        """Append the record of one event, with the event's own time.

        Raises:
            OSError: the disk refused; the file may end in a torn record, and nothing after that would be read.
        """
        self.unflushed += 1
        self.describe(summary, step=step, time_ns=time_ns)
        if time.monotonic() - self._flushed_at >= self._flush_s:
            self.flush()

    def flush(self) -> None:
        """Force what is written to the disk.

        Raises:
            OSError: the disk refused.
        """
        self._writer.flush()
        self._flushed_at = time.monotonic()
        self._kept = True
        self.unflushed = 0

    def close(self) -> None:
        """Flush and close.

        Raises:
            OSError: the disk refused.
        """
        try:
            self.flush()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close a file that failed. One that holds nothing is removed: a full disk is tried again and again."""
        with contextlib.suppress(OSError):
            self._writer.close()
        if not self._kept:
            with contextlib.suppress(OSError):
                self._path.unlink()

    def remove(self) -> None:
        """Remove the closed file, and its folder when nothing else is there."""
        with contextlib.suppress(OSError):
            self._path.unlink()
            self._path.parent.rmdir()
