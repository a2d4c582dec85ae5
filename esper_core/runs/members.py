"""Gzip files made of members that a reader can jump between, as a journal's segments are at rest.

RFC 1952 lets a file hold several members one after another, and lets each name extra fields in its header. Every member
here holds whole lines and says in an extra field (``ES``) how long it is, compressed and not. ``zcat``, Python's
``gzip`` and the Collector's receiver pass over the field; :class:`MemberFile` jumps by it, so that the end of a
segment, or one line in it, costs one member and not the whole file. Files that another program compressed are read too,
by looking through them once.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from bisect import bisect_right
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MEMBER_BYTES", "MemberFile", "pack_member"]

MEMBER_BYTES: Final = 1024 * 1024
"""Bytes of lines in one member, but for a single longer line."""
_LEVEL: Final = 6  # 10.5 times smaller at 60 microseconds an update; 9 takes twice as long for 1 % more
_GZIP: Final = 31  # zlib's window bits for a gzip member
_MAGIC: Final = b"\x1f\x8b\x08\x04"  # gzip, deflate, with an extra field
_EXTRA: Final = struct.Struct("<2sHQQ")  # name, length of what follows, compressed length of the member, plain length
_NAME: Final = b"ES"
_HEADER: Final = struct.Struct("<4sIBBH")  # magic, time, flags of the compressor, system, length of the extra fields
_HEADER_BYTES: Final = _HEADER.size + _EXTRA.size
_TRAILER: Final = struct.Struct("<II")
_BLOCK: Final = 256 * 1024
_LENGTHS: Final = 16  # bytes of the two
_DAMAGED_LINE: Final = b"\0\n"


class _Member(NamedTuple):
    """Where one member lies: its first byte in the file and in the plain text, and both lengths."""

    at: int
    plain_at: int
    length: int
    plain_length: int


def pack_member(plain: bytes) -> bytes:
    """One gzip member that says both its lengths.

    Args:
        plain: whole lines, so that damage in one member costs no line of another.
    """
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -15)
    body = packer.compress(plain) + packer.flush()
    length = _HEADER_BYTES + len(body) + _TRAILER.size
    header = _HEADER.pack(_MAGIC, 0, 0, 255, _EXTRA.size) + _EXTRA.pack(_NAME, _LENGTHS, length, len(plain))
    return header + body + _TRAILER.pack(zlib.crc32(plain), len(plain) & 0xFFFFFFFF)


class MemberFile(io.RawIOBase):
    """Reads a gzip file as if it were the plain one: positions are those of the plain text. Not shared by threads.

    A damaged member reads as zeros and a newline, as long as it says it is, so that a reader of lines counts one bad
    line and goes on behind it; what can be read before the damage in a member comes first.

    Args:
        file: the open file; closed with this object.

    Raises:
        OSError: it cannot be read.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        self._members = list(self._find())
        self._starts = [item.plain_at for item in self._members]
        self._end = self._members[-1].plain_at + self._members[-1].plain_length if self._members else 0
        self._position = 0
        self._open: _Unpacked | None = None

    def close(self) -> None:
        """Close the file too."""
        self._file.close()
        super().close()

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The position in the plain text."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position of the plain text; costs nothing until something is read."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._end}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: memoryview | bytearray, /) -> int:  # type: ignore[override]  # any writable buffer
        """Read plain bytes, of one member at most."""
        if self._position >= self._end:
            return 0
        place = bisect_right(self._starts, self._position) - 1
        member = self._members[place]
        inside = self._position - member.plain_at
        if self._open is None or self._open.member is not member or self._open.position > inside:
            self._open = _Unpacked(self._file, member)
        self._open.skip_to(inside)
        found = self._open.read(min(len(buffer), member.plain_length - inside))
        buffer[: len(found)] = found
        self._position += len(found)
        return len(found)

    def _find(self) -> Iterator[_Member]:
        at = plain_at = 0
        if not self._size:  # what was compressed had lines
            yield _Member(0, 0, 0, len(_DAMAGED_LINE))
        while at < self._size:
            told = self._told(at)
            member = _Member(at, plain_at, *told) if told else self._measured(at, plain_at)
            yield member
            at += member.length
            plain_at += member.plain_length

    def _told(self, at: int) -> tuple[int, int] | None:
        """Both lengths of a member that says them; None for another program's, and for one that was cut off."""
        self._file.seek(at)
        header = self._file.read(_HEADER_BYTES)
        if len(header) < _HEADER_BYTES or header[:4] != _MAGIC:
            return None
        name, size, length, plain_length = _EXTRA.unpack_from(header, _HEADER.size)
        fits = name == _NAME and size == _LENGTHS and _HEADER_BYTES < length <= self._size - at
        # Deflate cannot make anything more than 1032 times smaller: a length beyond that is damage.
        return (length, plain_length) if fits and plain_length <= 1032 * length else None

    def _measured(self, at: int, plain_at: int) -> _Member:
        """Look through a member to its end. What is none, or is damaged, reaches to the next of ours, or to the end."""
        self._file.seek(at)
        unpacker = zlib.decompressobj(_GZIP)
        plain_length = read = 0
        try:
            while not unpacker.eof and (block := self._file.read(_BLOCK)):
                read += len(block)
                while block and not unpacker.eof:
                    plain_length += len(unpacker.decompress(block, _BLOCK))
                    block = unpacker.unconsumed_tail
        except zlib.error:
            pass
        if unpacker.eof:
            return _Member(at, plain_at, read - len(unpacker.unused_data), plain_length)
        # One line of damage more than what could be read: a reader must count it.
        return _Member(at, plain_at, self._next(at) - at, plain_length + len(_DAMAGED_LINE))

    def _next(self, at: int) -> int:
        """Where the next member of ours begins; the end when there is none."""
        position, before = at + 1, b""
        self._file.seek(position)
        while block := self._file.read(_BLOCK):
            found = (before + block).find(_MAGIC)
            while found >= 0:
                here = position - len(before) + found
                if self._told(here):
                    return here
                found = (before + block).find(_MAGIC, found + 1)
            position += len(block)
            before = block[1 - len(_MAGIC) :]
            self._file.seek(position)
        return self._size


class _Unpacked:
    """One member being read from its start."""

    def __init__(self, file: BinaryIO, member: _Member) -> None:
        self.member = member
        self.position = 0
        self._file = file
        self._at = member.at
        self._unpacker = zlib.decompressobj(_GZIP)
        self._ready = b""
        self._damaged = False

    def skip_to(self, position: int) -> None:
        while self.position < position:
            self.read(min(_BLOCK, position - self.position))

    def read(self, count: int) -> bytes:
        """Up to ``count`` bytes, at least one: from the damage on, zeros and a newline at the end."""
        while not self._ready and not self._damaged:
            self._ready = self._unpack()
        found, self._ready = self._ready[:count], self._ready[count:]
        if self._damaged and not found:
            found = self._filling(count)
        self.position += len(found)
        return found

    def _unpack(self) -> bytes:
        block = self._unpacker.unconsumed_tail
        if not block:
            self._file.seek(self._at)
            block = self._file.read(min(_BLOCK, self.member.at + self.member.length - self._at))
            self._at += len(block)
        try:
            found = self._unpacker.decompress(block, _BLOCK) if block else b""
        except zlib.error:
            found = block = b""
        self._damaged = not found and (not block or self._unpacker.eof)
        return found

    def _filling(self, count: int) -> bytes:
        left = self.member.plain_length - self.position
        return b"\0" * count if count < left else b"\0" * (left - 1) + b"\n"
