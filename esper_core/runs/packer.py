"""Compresses a journal's segments behind their writer, in a thread of its own."""

from __future__ import annotations

import os
import queue
import threading
from typing import TYPE_CHECKING, Final, NamedTuple

from esper_core.runs.layout import JOURNAL_FOLDER, REST_SUFFIX
from esper_core.runs.members import MEMBER_BYTES, pack_member

if TYPE_CHECKING:
    from esper_core.runs.folder import Folder

__all__ = ["SegmentPacker", "lies_there"]

_PARTIAL: Final = ".partial"


def lies_there(folder: Folder, name: str) -> bool:
    """Whether a finished segment lies in the run, plain or compressed.

    Args:
        folder: the run's directory.
        name: of the plain file, in it.
    """
    # In this order: the compressed file has its name before the plain one is deleted.
    return any(folder.stat(place) is not None for place in (name, name + REST_SUFFIX))


class _Order(NamedTuple):
    """Compress a segment up to a size; at its end also put the compressed file in the plain one's place."""

    name: str
    size: int
    ended: bool


class SegmentPacker:
    """Compresses what the writer tells it, a MiB at a time, so that little is left to do when a segment ends.

    The plain file stays whole until the compressed one is on the disk (fsync) and has its name: a process killed at any
    moment leaves one of them, or both, and a partial file whose name begins with a dot, which no reader looks at. What
    cannot be compressed, on a full disk for instance, stays plain. Each piece opens and closes its files:
    a descriptor that is kept could be closed by others, and its number be another file's by then.

    The writer calls; the work is done in a daemon thread that begins with the first order. Without one all stays plain.

    Args:
        folder: the run's directory; stays open until :meth:`close` has returned.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._orders: queue.SimpleQueue[_Order | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._ordered: dict[str, int] = {}
        self._packed: dict[str, int] = {}

    def written(self, name: str, size: int) -> None:
        """Tell how long a segment is now; whole lines lie up to there. Does nothing below a MiB more than last time."""
        if size - self._ordered.get(name, 0) >= MEMBER_BYTES:
            self._order(_Order(name, size, ended=False))

    def ended(self, name: str, size: int) -> None:
        """Tell that a segment has its final length."""
        self._order(_Order(name, size, ended=True))

    def close(self) -> None:
        """Wait until every segment that has ended is compressed."""
        if self._thread is not None:
            self._orders.put(None)
            self._thread.join()
            self._thread = None

    def _order(self, order: _Order) -> None:
        self._ordered[order.name] = order.size
        if self._thread is None:
            thread = threading.Thread(target=self._work, name="esper-journal-packer", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system gives none, or the interpreter ends
                return
            self._thread = thread
        self._orders.put(order)

    def _work(self) -> None:
        while (order := self._orders.get()) is not None:
            if self._packed.get(order.name, 0) < 0:
                continue
            try:
                self._pack(order)
            except OSError:
                self._packed[order.name] = -1  # it stays plain
                self._folder.unlink(_partial(order.name))

    def _pack(self, order: _Order) -> None:
        partial = _partial(order.name)
        packed = self._packed.get(order.name, 0)
        how = os.O_WRONLY | os.O_APPEND | (0 if packed else os.O_CREAT | os.O_TRUNC)
        with (
            open(order.name, "rb", opener=self._folder.opener) as source,
            os.fdopen(self._folder.open(partial, how), "wb") as target,
        ):
            source.seek(packed)
            while packed < order.size:
                lines = source.read(min(MEMBER_BYTES, order.size - packed))
                lines += source.readline(order.size - packed - len(lines)) if not lines.endswith(b"\n") else b""
                if not lines:
                    raise OSError(f"{order.name} is shorter than what was written")
                target.write(pack_member(lines))
                packed += len(lines)
            self._packed[order.name] = packed
            if not order.ended:
                return
            target.flush()
            os.fsync(target.fileno())
            if os.fstat(source.fileno()).st_size != packed:
                raise OSError(f"{order.name} was written by someone else")
        self._folder.rename(partial, order.name + REST_SUFFIX)
        self._folder.unlink(order.name)
        self._folder.sync(JOURNAL_FOLDER)


def _partial(name: str) -> str:
    folder, _, base = name.rpartition("/")
    return f"{folder}/.{base}{REST_SUFFIX}{_PARTIAL}"
