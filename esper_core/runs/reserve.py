"""Room on the disk for the small files that must be written on a full one too: ``run.json`` and ``summary.json``."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

from esper_core.runs.folder import FULL

if TYPE_CHECKING:
    from esper_core.runs.folder import Folder

__all__ = ["RESERVE_BYTES", "drop_reserve", "keep_reserve", "replace_reserved"]

RESERVE_BYTES: Final = 16 * 1024
"""Size of one reserve: several times the size of a ``run.json`` with ten sinks."""


def keep_reserve(folder: Folder, name: str) -> None:
    """Occupy the room that :func:`replace_reserved` uses for this file. On a full disk nothing is kept."""
    content = os.urandom(RESERVE_BYTES)  # file systems that compress would keep no room for zeros
    with contextlib.suppress(OSError):
        folder.replace(_reserve(name), content, durable=False)


def drop_reserve(folder: Folder, name: str) -> None:
    """Give the room back."""
    folder.unlink(_reserve(name))


def replace_reserved(folder: Folder, name: str, content: bytes, *, durable: bool) -> None:
    """Replace a file atomically, in its reserve when the disk is full.

    The content is then written over the reserve, whose blocks nobody else can take, and the reserve becomes the file;
    the old file's blocks are the next reserve. So it works again and again, and competes with no journal for room.

    Raises:
        OSError: it cannot be written; the old file is still there.
    """
    try:
        folder.replace(name, content, durable=durable)
    except OSError as error:
        if error.errno not in FULL:
            raise
        _replace_from_reserve(folder, name, content, durable=durable)


def _replace_from_reserve(folder: Folder, name: str, content: bytes, *, durable: bool) -> None:
    reserve, former = _reserve(name), f".{name}.former"
    try:
        fd = folder.open(reserve, os.O_RDWR | os.O_NOFOLLOW)
        try:
            written = 0
            while written < len(content):
                written += os.pwrite(fd, content[written:], written)
            os.ftruncate(fd, len(content))
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
    except OSError:
        # A file system that writes every block anew has no room for this either. Deleted, the reserve gives it some.
        folder.unlink(reserve)
        folder.replace(name, content, durable=durable)
        return
    folder.unlink(former)
    with contextlib.suppress(OSError):  # there is none yet, or the file system has no hard links
        folder.link(name, former)
    folder.rename(reserve, name)
    with contextlib.suppress(OSError):
        folder.rename(former, reserve)
    if durable:
        folder.sync()


def _reserve(name: str) -> str:
    return f".{name}.reserve"
