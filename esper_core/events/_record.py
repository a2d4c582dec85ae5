"""What all records of the contract share."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import ClassVar, TypeAlias

__all__ = ["EventKind", "Payload", "Record"]

EventKind: TypeAlias = str
"""A key of ``PAYLOADS``. A text and no union of literals, so that a new kind is declared once."""


def _comparable(value: object) -> object:
    """Replace NaN by a value that equals itself, through tuples."""
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    if isinstance(value, tuple):
        return tuple(_comparable(item) for item in value)
    return value


class Record:
    """Equality and hash over the fields, with NaN equal to NaN."""

    __slots__ = ()

    def _key(self) -> tuple[object, ...]:
        return tuple(_comparable(getattr(self, item.name)) for item in fields(self))  # type: ignore[arg-type]  # subclasses are dataclasses

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash((type(self).__name__, self._key()))


class Payload(Record):
    """What happened: the base of every kind of event."""

    __slots__ = ()

    kind: ClassVar[EventKind]
    """Its hook is ``esper_<kind>``."""
