"""A run's effective updates as one table: the columns, and how cells are written as CSV and as JSON lines.

Columns derive from the payload's fields, so that a new metric is a new column.
"""

from __future__ import annotations

import csv
import datetime as dt
import json
import math
import typing
from dataclasses import fields
from typing import TYPE_CHECKING, TextIO

from esper_core.events import EarlyStop, HeadStats, PPOUpdatePayload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from esper_core.events import TelemetryEvent

    Update = TelemetryEvent[PPOUpdatePayload]

__all__ = ["columns", "head_columns", "heading", "json_value", "row", "write_csv", "write_jsonl"]

_HEAD_PARTS = tuple(item.name for item in fields(HeadStats) if item.name != "name")


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


_COLUMNS = _columns()


def columns() -> dict[str, Callable[[PPOUpdatePayload], object]]:
    """Columns of an update, by name: every scalar field of the payload, and those of its early stop.

    Head columns depend on the run's heads, see :func:`head_columns`; series (``kl_by_epoch``) have no place in a
    table and stay in the journal.
    """
    return dict(_COLUMNS)


def head_columns(update: PPOUpdatePayload) -> list[str]:
    """Columns of an update's heads: ``head.NAME.PART``. They stay the same within an attempt."""
    return [f"head.{head.name}.{part}" for head in update.heads for part in _HEAD_PARTS]


def heading(first_of_attempts: Iterable[PPOUpdatePayload]) -> list[str]:
    """Every column of runs, of which the first update of each attempt is given."""
    names = dict.fromkeys(["run", "attempt", "time", *_COLUMNS])
    for update in first_of_attempts:
        names.update(dict.fromkeys(head_columns(update)))
    return list(names)


def row(event: Update) -> dict[str, object]:
    """One update as cells by column; what was not measured is None."""
    cells: dict[str, object] = {"run": event.run_id, "attempt": event.attempt, "time": _iso(event)}
    cells.update({name: value(event.payload) for name, value in _COLUMNS.items()})
    for head in event.payload.heads:
        cells.update({f"head.{head.name}.{part}": getattr(head, part) for part in _HEAD_PARTS})
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
