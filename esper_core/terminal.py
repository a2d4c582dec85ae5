"""Text from outside, made fit for a terminal: the one home of that filter.

Exception messages, names of runs and heads, ids of environments, values of files and what other sinks said may hold
anything: escape sequences that set a terminal's title or its colours, marks that reverse the reading direction, line
breaks where one line is promised. Whoever prints such text passes it through here. Pure; imports nothing.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

__all__ = ["encodable", "escaped", "one_line", "printable"]

_BREAKS: Final = re.compile("[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]+")
_BYTES: Final = range(0xDC80, 0xDD00)
"""The code points by which Python holds the bytes of a file name that are no text (``surrogateescape``)."""


def one_line(text: str) -> str:
    """The text in one line: line breaks and tabs become a space, other characters that do not print are escaped."""
    return _escape(_BREAKS.sub(" ", text))


def printable(text: str) -> str:
    """The text with its line breaks; other characters that do not print are escaped."""
    return "\n".join(_escape(line.replace("\t", " ")) for line in text.replace("\r\n", "\n").split("\n"))


def escaped(sign: str) -> str:
    r"""A character as its escape, ``\u001b``, as TOML, JSON and Python read it; a byte of a file name as ``\xff``."""
    number = ord(sign)
    if number in _BYTES:
        return f"\\x{number - 0xDC00:02x}"
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"


def encodable(text: str) -> str:
    """The text with what UTF-8 cannot encode escaped: bytes of file names, which files and wires would refuse."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join(escaped(sign) if unicodedata.category(sign) == "Cs" else sign for sign in text)
    return text


def _escape(line: str) -> str:
    if line.isprintable():
        return line
    return "".join(sign if sign.isprintable() else _space_or_escape(sign) for sign in line)


def _space_or_escape(sign: str) -> str:
    """A space for every kind of space (no-break, ideographic), which Python does not call printable."""
    return " " if unicodedata.category(sign) == "Zs" else escaped(sign)
