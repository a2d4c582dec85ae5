"""How repeated records become parallel arrays and are read back."""

from __future__ import annotations

import typing
from dataclasses import MISSING, Field, dataclass, fields
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from esper_core.events import About, about_field
from esper_core.semconv._errors import CodecError
from esper_core.semconv._plan_fields import (
    AttributeSpec,
    FieldReading,
    Item,
    array_type,
    at_key,
    key_of,
    sequence,
    unwrap,
)
from esper_core.semconv._scalars import Leaf, leaf_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from esper_core.semconv._scalars import AttributeValue, Scalar

__all__ = ["records_item"]

_ONLY_FLOATS: Final = {float}


@dataclass(frozen=True, slots=True)
class _Column:
    """One field of a repeated record: one array."""

    key: str
    name: str
    leaf: Leaf
    optional: bool
    default: object
    about: About

    def write(self, values: tuple[Any, ...]) -> tuple[Scalar | None, ...] | None:
        """The array of the field's values; None when it would hold only empty ones, or only an implied default."""
        put = self.leaf.write
        if put is float and set(map(type, values)) == _ONLY_FLOATS:
            return values
        if self.about.implied and values.count(self.default) == len(values):
            return None
        empty = values.count(None)
        if not empty:
            return tuple(map(put, values))
        if empty == len(values):
            return None
        return tuple([None if value is None else put(value) for value in values])

    def read(self, attributes: Mapping[str, object], length: int) -> list[object]:
        """One value per record; a missing array means empty values."""
        found = attributes.get(self.key)
        values = [None] * length if found is None else sequence(self.key, found)
        if len(values) != length:
            raise CodecError(f"attribute {self.key} has {len(values)} entries, expected {length}")
        empty = None if self.optional else self.default
        return [empty if value is None else at_key(self.key, self.leaf.read, value) for value in values]


def records_item(item: Field[Any], prefix: str, inner: type[Any]) -> Item:
    """Repeated records: one array per field, parallel; the first field is never None and gives the length."""
    columns = []
    hints = typing.get_type_hints(inner)
    for part in fields(inner):
        hint, optional = unwrap(hints[part.name])
        columns.append(
            _Column(
                key=key_of(part, prefix),
                name=part.name,
                leaf=leaf_of(hint),
                optional=optional,
                default=part.default,
                about=about_field(part),
            )
        )
    first = columns[0].key
    values_of = attrgetter(*(column.name for column in columns))
    if len(columns) == 1:
        raise TypeError(f"{inner.__name__} has one field; use a tuple of its values")

    def write(out: dict[str, AttributeValue], value: Any) -> None:
        if value:
            for column, values in zip(columns, zip(*map(values_of, value), strict=True), strict=True):
                array = column.write(values)
                if array is not None:
                    out[column.key] = array

    def read(attributes: Mapping[str, object]) -> object:
        found = attributes.get(first)
        if found is None:
            return ()
        length = len(sequence(first, found))
        read_columns = [column.read(attributes, length) for column in columns]
        if any(MISSING in column for column in read_columns):
            raise CodecError(f"attribute {first} and its parallel arrays: an entry is empty that must not be")
        names = [column.name for column in columns]
        return tuple(inner(**dict(zip(names, row, strict=True))) for row in zip(*read_columns, strict=True))

    specs = tuple(
        AttributeSpec(
            key=column.key,
            field=f"{item.name}.{column.name}",
            type=array_type(column.leaf),
            optional=column.optional,
            about=column.about,
        )
        for column in columns
    )
    readings = tuple(
        FieldReading(
            column.key,
            f"{item.name}.{column.name}",
            column.leaf,
            None if column.optional else column.default,
            "column",
        )
        for column in columns
    )
    return Item(item.name, specs, readings, read, write=write)
