"""A run's effective updates as one table: the columns, their types and their cells.

Columns derive from the payload's fields, so that a new metric is a new column.
"""

from __future__ import annotations

import datetime as dt
import math
import typing
from collections import Counter
from dataclasses import fields
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from esper_core.events import Divergence, EarlyStop, HeadStats, PolicyEvaluated, PPOUpdatePayload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from esper_core.events import TelemetryEvent

    Update = TelemetryEvent[PPOUpdatePayload]

__all__ = ["CellType", "cell_type", "columns", "heading", "iso", "json_value", "part_columns", "part_names", "row"]

CellType: typing.TypeAlias = "type[int | float | str | bool]"
_PARTS: typing.Final = {"head": HeadStats, "divergence": Divergence}
"""What an update has several of, each with a name: columns ``head.NAME.PART`` and ``divergence.NAME.PART``."""


def _columns() -> dict[str, Callable[[PPOUpdatePayload], object]]:
    def own(name: str) -> Callable[[PPOUpdatePayload], object]:
        return lambda payload: getattr(payload, name)

    def stop(name: str) -> Callable[[PPOUpdatePayload], object]:
        return lambda payload: None if payload.early_stop is None else getattr(payload.early_stop, name)

    found: dict[str, Callable[[PPOUpdatePayload], object]] = {}
    hints = typing.get_type_hints(PPOUpdatePayload)
    for item in fields(PPOUpdatePayload):
        hint = hints[item.name]
        if EarlyStop in typing.get_args(hint):
            found.update({f"{item.name}.{part.name}": stop(part.name) for part in fields(EarlyStop)})
        elif typing.get_origin(hint) is not tuple:
            found[item.name] = own(item.name)
    return found


def _cell_types(of: type, prefix: str = "") -> dict[str, CellType]:
    """The types of a record's scalar fields, those that may be None and literals too."""
    found: dict[str, CellType] = {}
    for name, hint in typing.get_type_hints(of).items():
        options = (hint, *typing.get_args(hint))
        # bool before int: the first that matches counts, and a literal or an enumeration is text.
        found[f"{prefix}{name}"] = next((kind for kind in (bool, int, float) if kind in options), str)
    return found


_COLUMNS = _columns()
_TYPES: typing.Final[dict[str, CellType]] = {
    "run": str,
    "attempt": int,
    "time": str,
    **_cell_types(PPOUpdatePayload),
    **_cell_types(EarlyStop, "early_stop."),
}
_PART_TYPES: typing.Final = {
    kind: {name: found for name, found in _cell_types(of).items() if name in {item.name for item in fields(of)}}
    for kind, of in {**_PARTS, "evaluation": PolicyEvaluated}.items()
}


def columns() -> dict[str, Callable[[PPOUpdatePayload], object]]:
    """Columns of an update, by name: every scalar field of the payload, and those of its early stop.

    Columns of heads and divergences depend on the run, see :func:`heading`; series (``kl_by_epoch``) have no place in
    a table and stay in the journal.
    """
    return dict(_COLUMNS)


def cell_type(column: str) -> CellType:
    """What the cells of a column hold, where they hold anything. ``time`` is text: ISO 8601, UTC."""
    kind, _, rest = column.partition(".")
    if kind in _PART_TYPES and rest:
        return _PART_TYPES[kind][rest.rpartition(".")[2]]
    return _TYPES[column]


def part_names(names: Iterable[str]) -> list[str]:
    """What the parts of one kind are called in columns: a name given twice is told apart by its place, ``NAME#2``."""
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return found


def part_columns(kind: Literal["head", "divergence"], name: str) -> dict[str, str]:
    """The columns of a head or divergence, each with the field it is of."""
    return {f"{kind}.{name}.{part}": part for part in _PART_TYPES[kind] if part != "name"}


def _parts(update: PPOUpdatePayload) -> dict[str, object]:
    """The cells of an update's heads and divergences."""
    kinds: dict[Literal["head", "divergence"], tuple[HeadStats, ...] | tuple[Divergence, ...]] = {
        "head": update.heads,
        "divergence": update.divergences,
    }
    return {
        column: getattr(item, part)
        for kind, items in kinds.items()
        for name, item in zip(part_names(item.name for item in items), items, strict=True)
        for column, part in part_columns(kind, name).items()
    }


def heading(updates: Iterable[PPOUpdatePayload]) -> list[str]:
    """Every column of runs, given updates that between them have every head and every divergence.

    Heads come before divergences, each in the order in which they appear.
    """
    found: dict[str, None] = {}
    for update in updates:
        found.update(dict.fromkeys(_parts(update)))
    return ["run", "attempt", "time", *_COLUMNS, *sorted(found, key=lambda name: name.startswith("divergence."))]


def row(event: Update) -> dict[str, object]:
    """One update as cells by column; what was not measured is None."""
    cells: dict[str, object] = {"run": event.run_id, "attempt": event.attempt, "time": iso(event.time_ns)}
    cells.update({name: value(event.payload) for name, value in _COLUMNS.items()})
    cells.update(_parts(event.payload))
    return cells


def iso(time_ns: int) -> str:
    """Unix nanoseconds as UTC, to the microsecond."""
    return f"{_second(time_ns // 1_000_000_000)}.{time_ns % 1_000_000_000 // 1000:06d}Z"


@lru_cache(maxsize=1024)
def _second(time_s: int) -> str:
    return f"{dt.datetime.fromtimestamp(time_s, tz=dt.UTC):%Y-%m-%dT%H:%M:%S}"


def json_value(value: typing.Any) -> typing.Any:
    """A value as JSON can hold it: NaN and infinities by the names that proto-JSON gives them, also inside."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, dict):
        return {key: json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    return value
