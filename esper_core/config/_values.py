"""Values that no key can use, whatever its type: no number at all, too large for the wire, or text that is no text."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from typing import Any, Final

from esper_core.errors import ConfigError
from esper_core.terminal import one_line

__all__ = ["fault_of", "shown_value"]

_INT64: Final = 2**63 - 1
"""OTLP, TOML and the journal hold integers of 64 bits."""
_SHOWN: Final = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = _SHOWN.maxlong = 60


def shown_value(value: Any) -> str:
    """A value as an error shows it: of a length that can be read, whatever it is."""
    try:
        return _SHOWN.repr(value)
    except ValueError:  # Python writes no integer of more than 4300 digits
        return "a number of thousands of digits"


def fault_of(value: Any, place: str, *, finite: bool = False, most: float | None = None) -> ConfigError | None:
    """The error of a value that cannot work; None for every other.

    Args:
        value: as read; lists and tables are looked into.
        place: file and key, for the message.
        finite: refuse NaN and infinities; the free tables of environments and sinks may hold them.
        most: the largest number that can work; None for any that fits in 64 bits.
    """
    if isinstance(value, str):
        return _fault_of_text(value, place)
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return _fault_of_number(value, place, finite=finite, most=most)
    inner = (*value, *value.values()) if isinstance(value, Mapping) else value
    for item in inner if isinstance(inner, list | tuple) else ():
        if (fault := fault_of(item, place, finite=finite, most=most)) is not None:
            return fault
    return None


def _fault_of_number(value: float, place: str, *, finite: bool, most: float | None) -> ConfigError | None:
    if isinstance(value, float) and not math.isfinite(value):
        return ConfigError(f"{place}: {value} is no number to work with", hint=_finite(most)) if finite else None
    if most is not None and value > most:
        return ConfigError(f"{place}: {shown_value(value)} is more than can work", hint=_at_most(most))
    if isinstance(value, int) and not -_INT64 - 1 <= value <= max(_INT64, most or 0):
        return ConfigError(f"{place}: {shown_value(value)} does not fit in 64 bits", hint=_at_most(_INT64))
    return None


def _finite(most: float | None) -> str:
    return "give a finite number" if most is None else f"give a finite number, {_at_most(most).removeprefix('give ')}"


def _at_most(most: float) -> str:
    return f"give at most {most:g}" if most < _INT64 else f"give at most {most}"


def _fault_of_text(text: str, place: str) -> ConfigError | None:
    if "\0" in text:
        return ConfigError(f"{place}: holds a NUL character ({one_line(text)})", hint="leave it out")
    try:
        text.encode()
    except UnicodeEncodeError:
        return ConfigError(
            f"{place}: {one_line(text)} holds bytes that are no text, and the files of a run are UTF-8",
            hint="give a name in UTF-8; under LC_ALL=C start Python with PYTHONUTF8=1",
        )
    return None
