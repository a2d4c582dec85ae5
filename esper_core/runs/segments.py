"""Opens a journal file wherever it is in its life: being written, or compressed and at rest."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, BinaryIO, Final

from esper_core.errors import JournalError
from esper_core.runs.files import open_file
from esper_core.runs.layout import REST_SUFFIX
from esper_core.runs.members import MemberFile

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["is_gone", "open_journal", "open_segment", "read_segment"]

_BUFFER: Final = 256 * 1024


def open_segment(path: Path) -> BinaryIO:
    """Open a journal file for reading. Positions are those of the plain text, compressed or not.

    Args:
        path: as it was called when it was found. It may have been compressed since, or unpacked by someone.

    Raises:
        OSError: as :func:`esper_core.runs.files.open_file`.
    """
    try:
        return _opened(path)
    except FileNotFoundError:
        if path.is_symlink():
            raise
        at_rest = path.name.endswith(REST_SUFFIX)
        other = path.with_name(path.name.removesuffix(REST_SUFFIX) if at_rest else path.name + REST_SUFFIX)
        if not other.exists():
            raise
        return _opened(other)


def read_segment(path: Path) -> bytes:
    """The plain text of a journal file that is not too large for the memory.

    Raises:
        OSError: as :func:`open_segment`, and when it cannot be read.
    """
    with open_segment(path) as file:
        return file.read()


def _opened(path: Path) -> BinaryIO:
    file = open_file(path)
    if not path.name.endswith(REST_SUFFIX):
        return file
    try:
        return io.BufferedReader(MemberFile(file), _BUFFER)
    except BaseException:
        file.close()
        raise


def open_journal(path: Path) -> BinaryIO | None:
    """Open a journal file for reading; None when it is gone.

    Raises:
        JournalError: it exists and cannot be read, or is no file.
    """
    try:
        return open_segment(path)
    except OSError as error:
        if is_gone(path, error):
            return None
        raise JournalError(f"cannot read {path}: {error.strerror or error}") from error


def is_gone(path: Path, error: OSError) -> bool:
    """Whether a file is not there; a link to nothing is there and cannot be read."""
    return isinstance(error, FileNotFoundError) and not path.is_symlink()
