"""Opens and reads the files of a run: regular files only, so that no reader waits for the writer of a pipe."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final

from esper_core.errors import EsperError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["BOM", "FileFault", "fault_of", "file_fault", "open_file", "read_bytes", "read_text"]

BOM: Final = b"\xef\xbb\xbf"
"""The byte-order mark that some editors put before UTF-8."""
_LARGEST: Final = 64 * 1024 * 1024
_BUFFER: Final = 256 * 1024
_KINDS: Final = {
    stat.S_IFIFO: "a FIFO (named pipe)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a directory",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_REMEDIES: Final = {
    errno.EACCES: "give the right to read it, with chmod or as its owner",
    errno.EPERM: "give the right to read it, with chmod or as its owner",
    errno.ELOOP: "replace the link by the file",
    errno.EFBIG: "put the right file in its place, or remove it",
    errno.EINVAL: "put the file in its place, or remove it",
}


@dataclass(frozen=True, slots=True)
class FileFault:
    """A file of a run that cannot be read.

    Attributes:
        path: the file.
        reason: what is wrong with it.
        remedy: what to do about it.
    """

    path: Path
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"cannot read {self.path}: {self.reason}; {self.remedy}"


def open_file(path: Path) -> BinaryIO:
    """Open a regular file for reading, without waiting.

    Raises:
        OSError: it is missing, is no regular file (``strerror`` names what it is), or cannot be opened.
    """
    _refuse_other_kinds(path.stat().st_mode, path)  # before opening: opening a device may have an effect
    # Without blocking: what lay there may have been replaced by a pipe since. A regular file does not notice.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        _refuse_other_kinds(os.fstat(fd).st_mode, path)
        return os.fdopen(fd, "rb", buffering=_BUFFER)
    except BaseException:
        os.close(fd)
        raise


def read_bytes(path: Path, *, largest: int = _LARGEST) -> bytes:
    """The content of a small regular file, without a byte-order mark.

    Args:
        path: the file.
        largest: bytes; a larger file is none of a run's small ones.

    Raises:
        OSError: as :func:`open_file`, or it is larger than that.
    """
    with open_file(path) as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise OSError(errno.EFBIG, f"is larger than {largest} bytes", str(path))
    return content.removeprefix(BOM)


def read_text(path: Path) -> str:
    """The text of a small regular file in UTF-8, without a byte-order mark.

    Raises:
        OSError: as :func:`read_bytes`.
        UnicodeDecodeError: it is not UTF-8.
    """
    return read_bytes(path).decode("utf-8")


def file_fault(path: Path) -> FileFault | None:
    """Why a file cannot be read; None when its first byte can be, or when there is none."""
    try:
        with open_file(path) as file:
            file.read(1)
    except OSError as error:
        return None if isinstance(error, FileNotFoundError) and not path.is_symlink() else fault_of(path, error)
    return None


def fault_of(path: Path, error: OSError | EsperError | ValueError | RecursionError) -> FileFault:
    """An error of reading a file, in words with what to do about it."""
    if isinstance(error, RecursionError):
        return FileFault(path, "is nested too deeply", "put the right file in its place, or remove it")
    if isinstance(error, OSError):
        remedy = _REMEDIES.get(error.errno or 0, "put the file in its place, or remove it")
        return FileFault(path, error.strerror or str(error), remedy)
    reason = error.message if isinstance(error, EsperError) else str(error)
    return FileFault(path, reason or "it is damaged", "put the right file in its place, or remove it")


def _refuse_other_kinds(mode: int, path: Path) -> None:
    if stat.S_ISREG(mode):
        return
    kind = _KINDS.get(stat.S_IFMT(mode), "something else")
    raise OSError(errno.EINVAL, f"is {kind}, not a file", str(path))
