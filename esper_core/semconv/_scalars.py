"""The wire form of scalars: writes each declared type into an attribute and reads it back."""

from __future__ import annotations

import typing
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from esper_core.semconv._errors import CodecError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["AttributeType", "AttributeValue", "Leaf", "Scalar", "int64", "leaf_of", "read_int", "text_or_none"]

Scalar: TypeAlias = str | bool | int | float
AttributeValue: TypeAlias = Scalar | tuple[Scalar | None, ...]
"""The value of a flat attribute. None occurs only inside arrays, where it keeps parallel arrays aligned."""

AttributeType: TypeAlias = Literal["string", "int", "double", "boolean", "string[]", "int[]", "double[]", "boolean[]"]
"""Type names as weaver's registry format writes them."""

_INT64_MIN: Final = -(2**63)
_INT64_MAX: Final = 2**63 - 1


def int64(value: int) -> int | str:
    """Convert an int to what OTLP can hold: beyond 64 bits it becomes text, so that it is not dropped."""
    return int(value) if _INT64_MIN <= value <= _INT64_MAX else str(int(value))


def text_or_none(value: str) -> str | None:
    """The text; None when it is empty."""
    return str(value) or None


def _read_float(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CodecError(f"expected a number, got {value!r}")
    return float(value)


def read_int(value: object) -> int:
    """Read the int that :func:`int64` wrote, or an integer that another writer stored as a double."""
    if isinstance(value, bool):
        raise CodecError(f"expected an integer, got {value!r}")
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            raise CodecError(f"expected an integer, got {value!r}") from None
    raise CodecError(f"expected an integer, got {value!r}")


def _read_bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise CodecError(f"expected true or false, got {value!r}")
    return value


def _read_str(value: object) -> str:
    if not isinstance(value, str):
        raise CodecError(f"expected text, got {value!r}")
    return value


def _read_choice(choices: tuple[str, ...]) -> Callable[[object], object]:
    def read(value: object) -> object:
        if value not in choices:
            raise CodecError(f"expected one of {', '.join(choices)}, got {value!r}")
        return value

    return read


def _read_enum(enum: type[StrEnum]) -> Callable[[object], object]:
    by_value = {item.value: item for item in enum}

    def read(value: object) -> object:
        if not isinstance(value, str) or value not in by_value:
            raise CodecError(f"expected one of {', '.join(by_value)}, got {value!r}")
        return by_value[value]

    return read


@dataclass(frozen=True, slots=True)
class Leaf:
    """How one scalar type is written and read; ``members``: the values of an enumeration, each with its meaning."""

    name: Literal["string", "int", "double", "boolean"]
    write: Callable[[Any], Scalar]
    read: Callable[[object], object]
    members: tuple[tuple[str, str], ...] = ()


def leaf_of(hint: Any) -> Leaf:
    """How values of this type are written and read.

    Raises:
        TypeError: the type has no attribute form.
    """
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        return Leaf("string", str, _read_choice(choices), tuple((choice, _words(choice)) for choice in choices))
    if isinstance(hint, type):
        if issubclass(hint, StrEnum):
            members = tuple((item.value, getattr(item, "brief", _words(item.value))) for item in hint)
            return Leaf("string", str, _read_enum(hint), members)
        if hint in _LEAVES:
            return _LEAVES[hint]
    raise TypeError(f"no attribute form for {hint!r}; use float, int, bool, str, a StrEnum or a Literal of strings")


def _words(value: str) -> str:
    return value.replace("_", " ")


_LEAVES: Final[dict[type, Leaf]] = {
    float: Leaf("double", float, _read_float),
    int: Leaf("int", int64, read_int),
    bool: Leaf("boolean", bool, _read_bool),
    str: Leaf("string", str, _read_str),
}
