"""What a sink says of itself (``SinkContext.report``), checked: its author may give anything."""

from __future__ import annotations

import operator
import reprlib
from typing import Final

__all__ = ["wrong_report"]

LARGEST_REPORT: Final = 2**53
"""Losses in one report; sums of them stay within the 64 bits of a counter."""
_REPORTED: Final = ("failing", "recovered")


def wrong_report(state: object, message: object, lost: object) -> str:
    """What is wrong with a sink's report, in words; empty when nothing is."""
    if not isinstance(state, str) or state not in _REPORTED:
        return f"state {_shown(state)} is not known; report one of {', '.join(_REPORTED)}"
    if not isinstance(message, str):
        return f"message is {type(message).__name__}, not text"
    try:
        count = -1 if isinstance(lost, bool) else operator.index(lost)  # type: ignore[arg-type]  # a sink gives anything
    except TypeError:
        count = -1
    if not 0 <= count <= LARGEST_REPORT:
        return f"lost={_shown(lost)} is no count of events; report how many were lost since the last report"
    return ""


def _shown(value: object) -> str:
    """A wrong value in a message: short, and without running code of the sink's."""
    if type(value) in {str, float, bool} or (type(value) is int and abs(value) <= LARGEST_REPORT):
        return reprlib.repr(value)
    return f"a value of type {type(value).__name__}"
