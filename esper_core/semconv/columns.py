"""Decodes many journal lines at once, column by column: a tenth of what an event a line costs.

For tables of updates. It reads lines of the form that Esper's writer gives them, with one update each, and leaves every
other line, and every line with anything odd, to :func:`esper_core.semconv.codec.decode`: what both read is the same.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import MISSING, dataclass
from itertools import chain
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar, cast

import msgspec

from esper_core.events import PPOUpdatePayload
from esper_core.semconv._errors import CodecError
from esper_core.semconv._json_forms import INT64, TIMES, AnyValue, Span, TracesData, WireValue, mapping
from esper_core.semconv._plan import plan_of
from esper_core.semconv._scalars import leaf_of
from esper_core.semconv.attributes import KINDS_BY_SPAN, SPAN_NAMES
from esper_core.semconv.identity import ATTEMPT, ITERATION_SPAN, MARKED, RANK, ROLLOUT_SPAN, RUN_ID

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper_core.semconv._json_forms import ArrayValue
    from esper_core.semconv._plan_fields import FieldReading
    from esper_core.semconv._scalars import Leaf

__all__ = ["ColumnReader", "UpdateColumns"]

_SPANS: Final = b'"spans":['
_CLOSING: Final = b"}]}]}\n"
_UPDATE: Final = SPAN_NAMES[PPOUpdatePayload.kind]
_OTHERS: Final = frozenset(KINDS_BY_SPAN) - {_UPDATE}
_READ_TOO: Final = frozenset({_UPDATE, ITERATION_SPAN, ROLLOUT_SPAN})
_HEX: Final = re.compile("[0-9a-fA-F]*")
_COMMON: Final[dict[str, str | int]] = {RUN_ID: "", ATTEMPT: 1, RANK: 0}
"""What every span has, and what goes for it without."""
_HEADS_KEPT: Final = 64
_READINGS: Final = {reading.key: reading for reading in plan_of(PPOUpdatePayload).readings}

_T = TypeVar("_T")
_Shape: TypeAlias = "tuple[tuple[str, tuple[str, ...]], ...]"
"""Of each span of a line its name and the keys of its attributes."""


class _OddError(Exception):
    """Lines that only the codec reads as they are."""


@dataclass(frozen=True, slots=True)
class UpdateColumns:
    """Updates with the same attributes, column by column; each column has one entry an update.

    Attributes:
        places: of their lines among those given, ascending.
        run_ids: of their runs.
        attempts: that made them.
        times_ns: unix nanoseconds of their ends.
        fields: values by the field's path, as ``early_stop.epoch``; those of an early stop only where there is one.
        arrays: of heads and divergences by the field's path, as ``heads.kl``: one column an entry. Their names are the
            same in every update.
    """

    places: list[int]
    run_ids: list[str]
    attempts: list[int]
    times_ns: list[int]
    fields: dict[str, list[object]]
    arrays: dict[str, list[list[object]]]


@dataclass(frozen=True, slots=True)
class _Head:
    """The text of a line before its spans, and the resource in it."""

    text: bytes
    resource: dict[str, WireValue]


class ColumnReader:
    """Reads lines of one journal after another; it remembers the resources that it has seen. Not shared by threads."""

    def __init__(self) -> None:
        self._heads: dict[bytes, _Head | None] = {}
        self._decode = msgspec.json.Decoder(list[Span]).decode

    def read(self, lines: Sequence[bytes]) -> list[UpdateColumns]:
        """The updates of those lines that it can read; the places of the others are in none of the columns.

        Args:
            lines: with their newlines.
        """
        groups: defaultdict[tuple[_Shape, int], list[tuple[int, list[Span]]]] = defaultdict(list)
        heads: dict[int, _Head] = {}
        head: _Head | None = None
        for place, line in enumerate(lines):
            if head is None or not line.startswith(head.text):
                head = self._head(line)
                if head is None:
                    continue
                heads[id(head)] = head
            if not line.endswith(_CLOSING):
                continue
            try:
                spans = self._decode(memoryview(line)[len(head.text) - 1 : -len(_CLOSING)])
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                continue
            shape = tuple([(span.name, tuple([pair.key for pair in span.attributes or ()])) for span in spans])
            groups[shape, id(head)].append((place, spans))
        found = []
        for (shape, key), members in groups.items():
            try:
                found.append(_columns(shape, heads[key].resource, members))
            except (_OddError, CodecError, ValueError):
                continue
        return found

    def _head(self, line: bytes) -> _Head | None:
        """The head of a line; None when it has none that can be cut off."""
        end = line.find(_SPANS)
        if end < 0:
            return None
        text = line[: end + len(_SPANS)]
        if text not in self._heads:
            if len(self._heads) >= _HEADS_KEPT:
                self._heads.clear()
            self._heads[text] = _parsed_head(text)
        return self._heads[text]


def _parsed_head(text: bytes) -> _Head | None:
    """Parse a head as a line without spans; None unless the list that it opens is the only one of the line."""
    try:
        traces = msgspec.json.decode(text + b"]" + _CLOSING, type=TracesData)
        [group] = traces.resource_spans or []
        [scope] = group.scope_spans or []
        if scope.spans is None:
            return None
        return _Head(text, mapping((group.resource.attributes if group.resource else None) or ()))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError):
        return None


def _columns(shape: _Shape, resource: dict[str, WireValue], members: list[tuple[int, list[Span]]]) -> UpdateColumns:
    """The columns of lines of one shape.

    Raises:
        _OddError: only the codec reads them as they are.
        CodecError: a value is none of its field.
        ValueError: a number is none, or outside its bounds.
    """
    names = [name for name, _ in shape]
    if names.count(_UPDATE) != 1 or not _OTHERS.isdisjoint(names):
        raise _OddError
    own: dict[str, Sequence[AnyValue]] = {}
    times_ns: list[int] = []
    for place, (name, keys) in enumerate(shape):
        if name not in _READ_TOO:
            continue
        spans = [found[place] for _, found in members]
        ends = _checked_times(spans)
        values: dict[str, Sequence[AnyValue]] = dict(zip(keys, _by_attribute(spans), strict=True))
        if name == _UPDATE:
            own, times_ns = values, ends
        else:
            for key, some in values.items():
                _scalars(leaf_of(str if key == RUN_ID else int), some)
    if MARKED in own or not (RUN_ID in own or RUN_ID in resource):
        raise _OddError
    count = len(members)
    common = {key: _common(own, resource, key, default, count) for key, default in _COMMON.items()}
    if any(set(map(type, common[key])) != {type(default)} for key, default in _COMMON.items()):
        raise _OddError
    fields, arrays = _fields(own, count)
    return UpdateColumns(
        places=[place for place, _ in members],
        run_ids=cast("list[str]", common[RUN_ID]),
        attempts=cast("list[int]", common[ATTEMPT]),
        times_ns=times_ns,
        fields=fields,
        arrays=arrays,
    )


def _by_attribute(spans: list[Span]) -> list[tuple[AnyValue, ...]]:
    """The values of spans with the same keys, by attribute."""
    found = list(zip(*[[pair.value for pair in span.attributes or ()] for span in spans], strict=True))
    if any(None in some for some in found):
        raise _OddError
    return cast("list[tuple[AnyValue, ...]]", found)


def _checked_times(spans: list[Span]) -> list[int]:
    """When the spans ended, unix nanoseconds, once their ids and times are those of spans."""
    parents = [span.parent_span_id for span in spans if span.parent_span_id]
    for ids, digits in (([span.trace_id for span in spans], 32), ([*(span.span_id for span in spans), *parents], 16)):
        if set(map(len, ids)) != {digits} or not _HEX.fullmatch("".join(ids)):
            raise _OddError
    ends = list(map(int, [span.end_time_unix_nano for span in spans]))
    starts = map(int, [span.start_time_unix_nano for span in spans])
    _within([*ends, *starts], TIMES)
    return ends


def _within(numbers: list[int], bounds: range) -> None:
    if not (min(numbers) in bounds and max(numbers) in bounds):
        raise _OddError


def _common(
    own: dict[str, Sequence[AnyValue]], resource: dict[str, WireValue], key: str, default: object, count: int
) -> list[object]:
    """An attribute of the span, or else of the resource."""
    if key not in own:
        return [resource.get(key, default)] * count
    return _scalars(leaf_of(type(default)), own[key])


def _plain(values: Sequence[AnyValue]) -> list[object]:
    return [value.plain() for value in values]


def _fields(
    own: dict[str, Sequence[AnyValue]], count: int
) -> tuple[dict[str, list[object]], dict[str, list[list[object]]]]:
    """The fields that a table has, and the arrays; what has no attribute has its default."""
    fields: dict[str, list[object]] = {}
    arrays: dict[str, list[list[object]]] = {}
    for key, values in own.items():
        if key in _COMMON:
            continue
        reading = _READINGS.get(key)
        if reading is None:
            _plain(values)  # unknown: only whether it can be read
        elif reading.form == "column":
            arrays[reading.field] = _array(reading, values)
        elif reading.form == "list":
            _list(reading, values)
        else:
            fields[reading.field] = _scalars(reading.leaf, values)
    _add_defaults(fields, count)
    _check_arrays(arrays, count)
    return fields, arrays


def _add_defaults(fields: dict[str, list[object]], count: int) -> None:
    """What has no attribute has its default; an optional record without any is missing."""
    present = {name.partition(".")[0] for name in fields}
    for reading in _READINGS.values():
        if reading.form == "value" or (reading.form == "optional" and reading.field.partition(".")[0] in present):
            _complete(fields, reading, [reading.default] * count)


def _check_arrays(arrays: dict[str, list[list[object]]], count: int) -> None:
    """Complete them too. All of a record's are as long as its first one, and without that there are none."""
    lengths: dict[str, int] = {}
    for reading in _READINGS.values():
        if reading.form != "column":
            continue
        record = reading.field.partition(".")[0]
        if record not in lengths:
            names = arrays.get(reading.field, [])
            lengths[record] = len(names)
            if any(len(set(name)) > 1 for name in names):
                raise _OddError
        _complete(arrays, reading, [[reading.default] * count] * lengths[record])
        if len(arrays[reading.field]) != lengths[record]:
            raise _OddError


def _complete(columns: dict[str, list[_T]], reading: FieldReading, default: list[_T]) -> None:
    if reading.field not in columns:
        if reading.default is MISSING and default:
            raise _OddError
        columns[reading.field] = default


def _scalars(leaf: Leaf, values: Sequence[AnyValue]) -> list[object]:
    """Values of one field."""
    found = _plainly_written(leaf, values)
    return list(map(leaf.read, _plain(values))) if found is None else found


def _plainly_written(leaf: Leaf, values: Sequence[AnyValue]) -> list[object] | None:
    """Values as Esper writes them, read without a call each; None when not all are."""
    if leaf.name == "double":
        floats = [value.double_value for value in values]
        return cast("list[object]", floats) if set(map(type, floats)) == {float} else None
    if leaf.name == "int":
        texts = [value.int_value for value in values]
        if set(map(type, texts)) != {str}:
            return None
        numbers = list(map(int, cast("list[str]", texts)))
        _within(numbers, INT64)
        return cast("list[object]", numbers)
    if leaf.name == "string":
        words = [value.string_value for value in values]
        different = set(words)
        if None in different:
            return None
        known = {word: leaf.read(word) for word in different}
        return [known[word] for word in words]
    return None


def _entries(values: Sequence[AnyValue]) -> list[list[AnyValue]]:
    found = [value.array_value for value in values]
    if None in found:
        raise _OddError
    return [item.values or [] for item in cast("list[ArrayValue]", found)]


def _array(reading: FieldReading, values: Sequence[AnyValue]) -> list[list[object]]:
    """One column an entry; an empty entry is what a missing one is."""
    rows = _entries(values)
    (length,) = set(map(len, rows))  # ValueError: not all have as many
    entries = list(chain.from_iterable(rows))
    found = _plainly_written(reading.leaf, entries)
    if found is None:
        read, empty = reading.leaf.read, reading.default
        found = [empty if value is None else read(value) for value in _plain(entries)]
        if MISSING in found:
            raise _OddError
    return [found[place::length] for place in range(length)]


def _list(reading: FieldReading, values: Sequence[AnyValue]) -> None:
    """Only whether it can be read: no table has it."""
    _scalars(reading.leaf, list(chain.from_iterable(_entries(values))))
