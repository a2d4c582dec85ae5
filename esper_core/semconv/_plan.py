"""Maps a payload's dataclass to flat attributes: derived once per class from its fields, types and metadata.

This module contains no name of a metric or of a kind of event.
"""

from __future__ import annotations

import types
import typing
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, cast

from esper_core.events import EVENTS, About, about_field
from esper_core.semconv._errors import CodecError
from esper_core.semconv._scalars import Leaf, leaf_of, text_or_none

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from esper_core.events import Payload
    from esper_core.semconv._scalars import AttributeType, AttributeValue, Leaf, Scalar

__all__ = ["AttributeSpec", "FieldReading", "PayloadPlan", "plan_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributeSpec:
    """One attribute of the wire form of a payload's field.

    Attributes:
        key: attribute name.
        field: path of the field, for example ``heads.kl``.
        type: the attribute's type, as the registry names it.
        optional: True when the field may be None, which is left out (inside parallel arrays: kept as an empty value).
        about: the metadata of the field.
        members: the values of an enumeration, each with its meaning; empty for other types.
    """

    key: str
    field: str
    type: AttributeType
    optional: bool
    about: About
    members: tuple[tuple[str, str], ...] = ()

    @property
    def examples(self) -> tuple[Any, ...]:
        """Examples of the attribute's values."""
        return self.about.examples or tuple(value for value, _ in self.members) or (_EXAMPLES[self.type],)


class FieldReading(NamedTuple):
    """How one attribute is read back, for who reads many records at once.

    Attributes:
        key: attribute name.
        field: path of the field, for example ``heads.kl``.
        leaf: of the value, or of one entry of an array.
        default: the value without the attribute; ``dataclasses.MISSING`` when it must be there.
        form: one ``value``, or one value of an ``optional`` record; a ``list``; or one ``column`` of several records,
            an array that is parallel to that of their first field.
    """

    key: str
    field: str
    leaf: Leaf
    default: object
    form: Literal["value", "optional", "list", "column"]


_EXAMPLES: Final[dict[AttributeType, Any]] = {
    "string": "text",
    "int": 3,
    "double": 0.25,
    "boolean": True,
    "string[]": ("a", "b"),
    "int[]": (512, 128),
    "double[]": (0.012, 0.007),
    "boolean[]": (True, False),
}


# --- fields -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Item:
    """One field: how to write it into attributes and how to read it back.

    ``put`` returns the attribute's value, or None to leave it out; a field that becomes several attributes has
    ``write`` instead.
    """

    name: str
    specs: tuple[AttributeSpec, ...]
    readings: tuple[FieldReading, ...]
    read: Callable[[Mapping[str, object]], object]
    put: Callable[[Any], AttributeValue | None] | None = None
    write: Callable[[dict[str, AttributeValue], Any], None] | None = None


def _absent(owner: type[Any], item: Field[Any]) -> Callable[[str], object]:
    """The value of a field whose attribute is missing: its default, because an older writer did not have the field."""

    def value(key: str) -> object:
        if item.default is MISSING:
            raise CodecError(f"{owner.__name__} needs the attribute {key}, which is missing")
        return item.default

    return value


def _at(key: str, read: Callable[[object], object], value: object) -> object:
    try:
        return read(value)
    except CodecError as error:
        raise CodecError(f"attribute {key}: {error.message}") from None


def _scalar(owner: type[Any], item: Field[Any], key: str, hint: Any, *, optional: bool) -> _Item:
    leaf = leaf_of(hint)
    put: Callable[[Any], AttributeValue | None] = leaf.write
    take, absent = leaf.read, _absent(owner, item)
    # An empty text whose default is empty carries no information and is left out, as None is.
    if leaf.name == "string" and item.default == "":
        put = text_or_none
    elif about_field(item).implied:
        put = _unless_default(item.default, leaf)

    def read(attributes: Mapping[str, object]) -> object:
        found = attributes.get(key)
        return absent(key) if found is None else _at(key, take, found)

    spec = AttributeSpec(
        key=key, field=item.name, type=leaf.name, optional=optional, about=about_field(item), members=leaf.members
    )
    return _Item(item.name, (spec,), (FieldReading(key, item.name, leaf, item.default, "value"),), read, put=put)


def _unless_default(default: object, leaf: Leaf) -> Callable[[Any], AttributeValue | None]:
    return lambda value: None if value == default else leaf.write(value)


def _array(owner: type[Any], item: Field[Any], key: str, hint: Any) -> _Item:
    leaf = leaf_of(hint)
    put, take, absent = leaf.write, leaf.read, _absent(owner, item)

    def put_all(values: Any) -> AttributeValue | None:
        return tuple(map(put, values)) or None

    def read(attributes: Mapping[str, object]) -> object:
        found = attributes.get(key)
        return absent(key) if found is None else tuple(_at(key, take, part) for part in _sequence(key, found))

    spec = AttributeSpec(key=key, field=item.name, type=_many(leaf), optional=False, about=about_field(item))
    return _Item(item.name, (spec,), (FieldReading(key, item.name, leaf, item.default, "list"),), read, put=put_all)


def _record(item: Field[Any], prefix: str, inner: type[Any]) -> _Item:
    """An optional record: its fields become attributes under the field's name."""
    plan = PayloadPlan(inner, prefix)

    def write(out: dict[str, AttributeValue], value: Any) -> None:
        plan.write(out, value)

    def read(attributes: Mapping[str, object]) -> object:
        return plan.read(attributes) if any(spec.key in attributes for spec in plan.specs) else None

    specs = tuple(replace(spec, field=f"{item.name}.{spec.field}", optional=True) for spec in plan.specs)
    readings = tuple(
        reading._replace(field=f"{item.name}.{reading.field}", form="optional") for reading in plan.readings
    )
    return _Item(item.name, specs, readings, read, write=write)


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
        values = [None] * length if found is None else _sequence(self.key, found)
        if len(values) != length:
            raise CodecError(f"attribute {self.key} has {len(values)} entries, expected {length}")
        empty = None if self.optional else self.default
        return [empty if value is None else _at(self.key, self.leaf.read, value) for value in values]


def _records(item: Field[Any], prefix: str, inner: type[Any]) -> _Item:
    """Repeated records: one array per field, parallel; the first field is never None and gives the length."""
    columns = []
    hints = typing.get_type_hints(inner)
    for part in fields(inner):
        hint, optional = _unwrap(hints[part.name])
        columns.append(
            _Column(
                key=_key(part, prefix),
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
        length = len(_sequence(first, found))
        read_columns = [column.read(attributes, length) for column in columns]
        if any(MISSING in column for column in read_columns):
            raise CodecError(f"attribute {first} and its parallel arrays: an entry is empty that must not be")
        names = [column.name for column in columns]
        return tuple(inner(**dict(zip(names, row, strict=True))) for row in zip(*read_columns, strict=True))

    specs = tuple(
        AttributeSpec(
            key=column.key,
            field=f"{item.name}.{column.name}",
            type=_many(column.leaf),
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
    return _Item(item.name, specs, readings, read, write=write)


def _as_it_is(item: _Item) -> type | None:
    """The type of values that are written as they are, without a call."""
    (leaf, *others) = [reading.leaf for reading in item.readings]
    plain = {"double": float, "boolean": bool, "string": str}.get(leaf.name)
    return plain if not others and item.put is leaf.write else None


def _many(leaf: Leaf) -> AttributeType:
    return cast("AttributeType", f"{leaf.name}[]")


def _sequence(key: str, value: object) -> Sequence[object]:
    if isinstance(value, list | tuple):
        return value
    raise CodecError(f"attribute {key}: expected an array, got {value!r}")


def _unwrap(hint: Any) -> tuple[Any, bool]:
    """``X | None`` as (X, True), anything else as (hint, False)."""
    if typing.get_origin(hint) in {types.UnionType, typing.Union}:
        rest = [part for part in typing.get_args(hint) if part is not type(None)]
        if len(rest) == 1:
            return rest[0], True
    return hint, False


def _key(item: Field[Any], prefix: str) -> str:
    """The attribute's name: one shared with another event, or the field's name or alias after the prefix."""
    about = about_field(item)
    return about.key or f"{prefix}.{about.name or item.name}"


class PayloadPlan:
    """Writes records of one class into flat attributes and reads them back.

    Args:
        owner: a frozen dataclass of plain values.
        prefix: namespace of its attributes, without a final dot.
        only: names of fields to write; empty for all. A plan of some fields cannot read.
    """

    __slots__ = ("_getter", "_items", "_rows", "owner", "readings", "specs")

    def __init__(self, owner: type[Any], prefix: str, *, only: Collection[str] = ()) -> None:
        hints = typing.get_type_hints(owner)
        self.owner = owner
        self._items = tuple(
            self._item(owner, item, hints[item.name], prefix) for item in fields(owner) if not only or item.name in only
        )
        self._rows = tuple((item.specs[0].key, _as_it_is(item), item.put, item.write) for item in self._items)
        names = [item.name for item in self._items]
        many = attrgetter(*names)
        self._getter = many if len(names) > 1 else lambda record: (many(record),)
        self.specs = tuple(spec for item in self._items for spec in item.specs)
        self.readings = tuple(reading for item in self._items for reading in item.readings)

    @staticmethod
    def _item(owner: type[Any], item: Field[Any], hint: Any, prefix: str) -> _Item:
        bare, optional = _unwrap(hint)
        key = _key(item, prefix)
        if typing.get_origin(bare) is tuple:
            inner = typing.get_args(bare)[0]
            if is_dataclass(inner):
                return _records(item, key, cast("type[Any]", inner))
            return _array(owner, item, key, inner)
        if is_dataclass(bare):
            return _record(item, key, cast("type[Any]", bare))
        return _scalar(owner, item, key, bare, optional=optional)

    def key(self, name: str) -> str:
        """The attribute that a field becomes."""
        return next(spec.key for spec in self.specs if spec.field == name)

    def write(self, out: dict[str, AttributeValue], record: object) -> None:
        """Add the record's attributes to ``out``; None and empty values are left out."""
        self.write_values(out, self._getter(record))

    def write_values(self, out: dict[str, AttributeValue], values: Sequence[Any]) -> None:
        """As :meth:`write`, from the fields' values in their order: it saves the creation of a record."""
        for (key, as_it_is, put, write), value in zip(self._rows, values, strict=True):
            if value is None:
                continue
            if type(value) is as_it_is:
                out[key] = value  # type: ignore[assignment]  # mypy does not see the type that was just compared
            elif put is not None:
                found = put(value)
                if found is not None:
                    out[key] = found
            elif write is not None:
                write(out, value)

    def read(self, attributes: Mapping[str, object]) -> Any:
        """Build the record from attributes; other keys are ignored.

        Raises:
            CodecError: an attribute is missing or has a value of the wrong type.
        """
        return self.owner(**{item.name: item.read(attributes) for item in self._items})


_PLANS: Final = {spec.payload: PayloadPlan(spec.payload, spec.namespace) for spec in EVENTS.values()}


def plan_of(owner: type[Payload]) -> PayloadPlan:
    """The plan of one kind of payload."""
    return _PLANS[owner]
