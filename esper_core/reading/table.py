"""A run's effective updates as one table: the columns, their types, and how cells are written as CSV and JSON lines.

Columns derive from the payload's fields, so that a new metric is a new column.
"""

from __future__ import annotations

import csv
import datetime as dt
import json
import math
import typing
from collections import Counter
from dataclasses import fields
from typing import TYPE_CHECKING, TextIO

from esper_core.events import Divergence, EarlyStop, HeadStats, PPOUpdatePayload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from esper_core.events import TelemetryEvent

    Update = TelemetryEvent[PPOUpdatePayload]

__all__ = ["CellType", "cell_type", "columns", "heading", "json_value", "row", "write_csv", "write_jsonl"]

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
    for kind, of in _PARTS.items()
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


def _parts(update: PPOUpdatePayload) -> dict[str, object]:
    """The cells of an update's heads and divergences; a name given twice is told apart by its place, ``NAME#2``."""
    cells: dict[str, object] = {}
    for kind, items in (("head", update.heads), ("divergence", update.divergences)):
        seen: Counter[str] = Counter()
        for item in items:
            seen[item.name] += 1
            name = item.name if seen[item.name] == 1 else f"{item.name}#{seen[item.name]}"
            cells.update({f"{kind}.{name}.{part}": getattr(item, part) for part in _PART_TYPES[kind] if part != "name"})
    return cells


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
    cells: dict[str, object] = {"run": event.run_id, "attempt": event.attempt, "time": _iso(event)}
    cells.update({name: value(event.payload) for name, value in _COLUMNS.items()})
    cells.update(_parts(event.payload))
    return cells


def _iso(event: Update) -> str:
    """The event's time in UTC, to the microsecond."""
    moment = dt.datetime.fromtimestamp(event.time_ns // 1_000_000_000, tz=dt.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{event.time_ns % 1_000_000_000 // 1000:06d}Z"


def write_csv(updates: Iterable[Update], names: Sequence[str], out: TextIO) -> int:
    """Write updates under a heading.

    Empty cells for what was not measured; ``nan`` and ``inf`` as any reader of CSV takes them.

    Returns:
        Rows written.
    """
    writer = csv.DictWriter(out, list(names), restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    written = 0
    for event in updates:
        writer.writerow(row(event))
        written += 1
    return written


def write_jsonl(updates: Iterable[Update], out: TextIO) -> int:
    """Write updates as one JSON object a line.

    What was not measured is left out; NaN and infinities are the strings ``NaN``, ``Infinity``, ``-Infinity``.

    Returns:
        Lines written.
    """
    written = 0
    for event in updates:
        known = {name: json_value(value) for name, value in row(event).items() if value is not None}
        out.write(json.dumps(known, ensure_ascii=False) + "\n")
        written += 1
    return written


def json_value(value: typing.Any) -> typing.Any:
    """A value as JSON can hold it: NaN and infinities by the names that proto-JSON gives them, also inside."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, dict):
        return {key: json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    return value
