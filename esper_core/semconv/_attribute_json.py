"""Writes attributes as OTLP JSON from a template: for attributes that come again and again with other values.

A template is the text of attributes with these names, types and lengths, with holes for the values. The numbers of all
of them are written by one call of msgspec, which makes a third of the cost of an object for each value.
"""

from __future__ import annotations

from operator import itemgetter
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from esper_core.semconv.otlp_json import attribute_pairs, dump

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from esper_core.semconv._scalars import AttributeValue

__all__ = ["attributes_json"]

_Shape: TypeAlias = "tuple[tuple[str, ...], tuple[int, ...], tuple[type, ...]]"
"""Names, lengths (-1 for what is no array), and the types of all values and entries."""
_TEMPLATES_KEPT: Final = 256
_TEXT_KEPT: Final = 1024
_ONE: Final = -1
_HOLES: Final = {
    float: b'{"doubleValue":%b}',
    int: b'{"intValue":"%b"}',
    bool: b'{"boolValue":%b}',
    str: b'{"stringValue":%b}',
    NoneType: b"{}",
}


class _Template(NamedTuple):
    """The text of attributes of one shape.

    Attributes:
        text: with a hole for each value, numbers and texts in their order.
        numbers: takes the numbers out of the values.
        texts: the places of the texts among the values.
        order: puts the texts of numbers and then texts into the order of the holes.
    """

    text: bytes
    numbers: Callable[[list[Any]], tuple[Any, ...]] | None
    texts: tuple[int, ...]
    order: Callable[[list[bytes]], tuple[bytes, ...]]


_templates: dict[_Shape, _Template | None] = {}
_known: dict[str, bytes] = {}


def attributes_json(attributes: Mapping[str, AttributeValue]) -> bytes:
    """The attributes as a JSON array of OTLP key-value pairs. Any thread."""
    flat: list[Any] = []
    lengths: list[int] = []
    for value in attributes.values():
        if type(value) is tuple:
            flat.extend(value)
            lengths.append(len(value))
        else:
            flat.append(value)
            lengths.append(_ONE)
    shape = tuple(attributes), tuple(lengths), tuple(map(type, flat))
    template = _templates[shape] if shape in _templates else _made(shape)
    if template is None:
        return dump(attribute_pairs(attributes))
    texts: list[bytes] = []
    if template.numbers is not None:
        numbers = dump(template.numbers(flat))
        if b"n" in numbers:  # null, for NaN and infinities
            return dump(attribute_pairs(attributes))
        texts = numbers[1:-1].split(b",")
    texts.extend([_text(flat[place]) for place in template.texts])
    return template.text % template.order(texts)


def _text(value: str) -> bytes:
    found = _known.get(value)
    if found is None:
        found = dump(value)
        if len(_known) < _TEXT_KEPT and len(value) <= 64:
            _known[value] = found
    return found


def _made(shape: _Shape) -> _Template | None:
    """The template of a shape; None where there is a value of another type, or too many have been made."""
    if len(_templates) >= _TEMPLATES_KEPT:
        return None
    _templates[shape] = found = _template(*shape)
    return found


def _template(names: tuple[str, ...], lengths: tuple[int, ...], types: tuple[type, ...]) -> _Template | None:
    holes = list(map(_HOLES.get, types))
    numbers = [place for place, kind in enumerate(types) if kind in {float, int, bool}]
    texts = [place for place, kind in enumerate(types) if kind is str]
    if None in holes or not types:
        return None
    pairs, at = [], 0
    for name, length in zip(names, lengths, strict=True):
        some = b",".join(hole for hole in holes[at : at + abs(length)] if hole is not None)
        at += abs(length)
        value = some if length == _ONE else b'{"arrayValue":{"values":[' + some + b"]}}"
        pairs.append(b'{"key":' + dump(name).replace(b"%", b"%%") + b',"value":' + value + b"}")
    places = {place: at for at, place in enumerate([*numbers, *texts])}
    return _Template(
        text=b"[" + b",".join(pairs) + b"]",
        numbers=_taker(numbers) if numbers else None,
        texts=tuple(texts),
        order=_taker([places[place] for place in sorted(places)]),
    )


def _taker(places: list[int]) -> Callable[[list[Any]], tuple[Any, ...]]:
    """Takes some items of a list as a tuple."""
    if len(places) > 1:
        return itemgetter(*places)
    return lambda items: tuple(items[place] for place in places)
