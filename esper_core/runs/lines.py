"""The lines of a journal file: their bytes, forwards past damage and backwards from the end, and the events in one."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO, Final

from esper_core.runs.files import BOM
from esper_core.runs.segments import open_segment
from esper_core.semconv.codec import decode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from esper_core.events import Payload, TelemetryEvent

__all__ = ["MAX_LINE_BYTES", "complete_size", "decode_line", "line_number", "lines_backwards", "skip_line"]

MAX_LINE_BYTES: Final = 16 * 1024 * 1024
"""Bytes. A longer line is damage (a hole left by a power loss), not an event."""

_BLOCK_BYTES: Final = 256 * 1024


def decode_line(line: bytes) -> list[TelemetryEvent[Payload]]:
    """The events in one line of a journal; a byte-order mark before it is passed over.

    Raises:
        CodecError: the line is damaged.
    """
    return decode(line.removeprefix(BOM))


def skip_line(file: BinaryIO) -> int:
    """Move to the position after the next newline, or to the end; return that position."""
    while part := file.readline(MAX_LINE_BYTES):
        if part.endswith(b"\n"):
            break
    return file.tell()


def complete_size(path: Path) -> int:
    """Size of the file up to and with its last newline; 0 when it cannot be read."""
    try:
        file = open_segment(path)
    except OSError:
        return 0
    with file, suppress(OSError):  # said when its lines are read
        position = file.seek(0, 2)
        while position > 0:
            start = max(0, position - _BLOCK_BYTES)
            file.seek(start)
            newline = file.read(position - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            position = start
    return 0


def lines_backwards(file: BinaryIO, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield complete lines from the last to the first, with their offsets. ``end`` is a position after a newline."""
    position = end
    pending: list[bytes] = []  # parts of a line that begins in an earlier block, last part first
    while position > 0:
        size = min(_BLOCK_BYTES, position)
        position -= size
        file.seek(position)
        block = file.read(size)
        cut = len(block)
        while (newline := block.rfind(b"\n", 0, cut)) >= 0:
            line = block[newline + 1 : cut] + b"".join(reversed(pending))
            pending.clear()
            if line:
                yield position + newline + 1, line
            cut = newline
        pending.append(block[:cut])
    line = b"".join(reversed(pending))
    if line:
        yield 0, line


def line_number(path: Path, offset: int) -> int:
    """Count the lines before an offset. Called only for a damaged line, because it reads the file from its start."""
    number = 1
    try:
        file = open_segment(path)
    except OSError:
        return number
    with file, suppress(OSError):
        while offset > 0 and (block := file.read(min(_BLOCK_BYTES, offset))):
            number += block.count(b"\n")
            offset -= len(block)
    return number
