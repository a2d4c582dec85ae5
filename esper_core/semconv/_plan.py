"""Maps a payload's dataclass to flat attributes: derived once per class from its fields, types and metadata.

This module contains no name of a metric or of a kind of event.
"""

from __future__ import annotations

import typing
from dataclasses import Field, fields, is_dataclass, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, cast

from esper_core.events import EVENTS
from esper_core.semconv._plan_fields import Item, array_item, key_of, plain_type, scalar_item, unwrap
from esper_core.semconv._plan_records import records_item

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from esper_core.events import Payload
    from esper_core.semconv._scalars import AttributeValue

__all__ = ["PayloadPlan", "plan_of"]


def _record(item: Field[Any], prefix: str, inner: type[Any]) -> Item:
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
    return Item(item.name, specs, readings, read, write=write)


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
        self._rows = tuple((item.specs[0].key, plain_type(item), item.put, item.write) for item in self._items)
        names = [item.name for item in self._items]
        many = attrgetter(*names)
        self._getter = many if len(names) > 1 else lambda record: (many(record),)
        self.specs = tuple(spec for item in self._items for spec in item.specs)
        self.readings = tuple(reading for item in self._items for reading in item.readings)

    @staticmethod
    def _item(owner: type[Any], item: Field[Any], hint: Any, prefix: str) -> Item:
        bare, optional = unwrap(hint)
        key = key_of(item, prefix)
        if typing.get_origin(bare) is tuple:
            inner = typing.get_args(bare)[0]
            if is_dataclass(inner):
                return records_item(item, key, cast("type[Any]", inner))
            return array_item(owner, item, key, inner)
        if is_dataclass(bare):
            return _record(item, key, cast("type[Any]", bare))
        return scalar_item(owner, item, key, bare, optional=optional)

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
