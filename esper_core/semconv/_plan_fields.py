"""How one field of a payload becomes attributes and is read back."""

from __future__ import annotations

import types
import typing
from dataclasses import MISSING, Field, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, cast

from esper_core.events import About, about_field
from esper_core.semconv._errors import CodecError
from esper_core.semconv._scalars import Leaf, leaf_of, text_or_none

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from esper_core.semconv._scalars import AttributeType, AttributeValue

__all__ = [
    "AttributeSpec",
    "FieldReading",
    "Item",
    "array_item",
    "array_type",
    "at_key",
    "key_of",
    "plain_type",
    "scalar_item",
    "sequence",
    "unwrap",
]


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


@dataclass(frozen=True, slots=True)
class Item:
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


def at_key(key: str, read: Callable[[object], object], value: object) -> object:
    """Read a value; a fault of it names the attribute."""
    try:
        return read(value)
    except CodecError as error:
        raise CodecError(f"attribute {key}: {error.message}") from None


def scalar_item(owner: type[Any], item: Field[Any], key: str, hint: Any, *, optional: bool) -> Item:
    """One value becomes one attribute."""
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
        return absent(key) if found is None else at_key(key, take, found)

    spec = AttributeSpec(
        key=key, field=item.name, type=leaf.name, optional=optional, about=about_field(item), members=leaf.members
    )
    return Item(item.name, (spec,), (FieldReading(key, item.name, leaf, item.default, "value"),), read, put=put)


def _unless_default(default: object, leaf: Leaf) -> Callable[[Any], AttributeValue | None]:
    return lambda value: None if value == default else leaf.write(value)


def array_item(owner: type[Any], item: Field[Any], key: str, hint: Any) -> Item:
    """Several values become one array."""
    leaf = leaf_of(hint)
    put, take, absent = leaf.write, leaf.read, _absent(owner, item)

    def put_all(values: Any) -> AttributeValue | None:
        return tuple(map(put, values)) or None

    def read(attributes: Mapping[str, object]) -> object:
        found = attributes.get(key)
        return absent(key) if found is None else tuple(at_key(key, take, part) for part in sequence(key, found))

    spec = AttributeSpec(key=key, field=item.name, type=array_type(leaf), optional=False, about=about_field(item))
    return Item(item.name, (spec,), (FieldReading(key, item.name, leaf, item.default, "list"),), read, put=put_all)


def plain_type(item: Item) -> type | None:
    """The type of values that are written as they are, without a call."""
    (leaf, *others) = [reading.leaf for reading in item.readings]
    plain = {"double": float, "boolean": bool, "string": str}.get(leaf.name)
    return plain if not others and item.put is leaf.write else None


def array_type(leaf: Leaf) -> AttributeType:
    """The type of an array of such values."""
    return cast("AttributeType", f"{leaf.name}[]")


def sequence(key: str, value: object) -> Sequence[object]:
    """An array as it was found."""
    if isinstance(value, list | tuple):
        return value
    raise CodecError(f"attribute {key}: expected an array, got {value!r}")


def unwrap(hint: Any) -> tuple[Any, bool]:
    """``X | None`` as (X, True), anything else as (hint, False)."""
    if typing.get_origin(hint) in {types.UnionType, typing.Union}:
        rest = [part for part in typing.get_args(hint) if part is not type(None)]
        if len(rest) == 1:
            return rest[0], True
    return hint, False


def key_of(item: Field[Any], prefix: str) -> str:
    """The attribute's name: one shared with another event, or the field's name or alias after the prefix."""
    about = about_field(item)
    return about.key or f"{prefix}.{about.name or item.name}"
