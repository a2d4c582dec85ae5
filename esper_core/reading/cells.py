"""Updates as blocks of cells, column by column: what the writers of tables take."""

from __future__ import annotations

from collections import defaultdict
from itertools import islice
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from esper_core.reading.table import columns, iso, part_columns, part_names, row

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from esper_core.events import PPOUpdatePayload, TelemetryEvent
    from esper_core.semconv.columns import UpdateColumns

    Update = TelemetryEvent[PPOUpdatePayload]

__all__ = ["BLOCK_ROWS", "Block", "Cells", "blocks_of", "cells_of_columns", "cells_of_events"]

BLOCK_ROWS: Final = 64
"""Rows that are read and written at a time: what is parsed of them stays in the processor's cache."""
_OWN: Final = tuple(columns())
_PARTS: Final[dict[str, Literal["head", "divergence"]]] = {"heads": "head", "divergences": "divergence"}


class Cells(NamedTuple):
    """Some rows of a block, with the same columns.

    Attributes:
        places: of the rows in the block, ascending.
        columns: one entry a row, None for what was not measured; a column without any entry may be missing.
    """

    places: Sequence[int]
    columns: dict[str, Sequence[object]]


class Block(NamedTuple):
    """Rows that follow each other.

    Attributes:
        rows: how many.
        parts: between them they have each row once.
    """

    rows: int
    parts: list[Cells]

    def columns(self) -> list[str]:
        """Names of the columns that any part has."""
        return list(dict.fromkeys(name for part in self.parts for name in part.columns))

    def column(self, name: str) -> Sequence[object]:
        """A column in the order of the rows; None where it has no entry."""
        if len(self.parts) == 1:
            return self.parts[0].columns.get(name) or [None] * self.rows
        found: list[object] = [None] * self.rows
        for part in self.parts:
            for place, value in zip(part.places, part.columns.get(name, ()), strict=False):
                found[place] = value
        return found


def blocks_of(updates: Iterable[Update]) -> Iterator[Block]:
    """Updates that are there as events, in blocks."""
    rest = iter(updates)
    while some := list(islice(rest, BLOCK_ROWS)):
        yield Block(len(some), cells_of_events(range(len(some)), some))


def cells_of_events(places: Sequence[int], updates: Sequence[Update]) -> list[Cells]:
    """The cells of events, one a row; those with other columns, or in another order, stand apart."""
    groups: defaultdict[tuple[str, ...], list[tuple[int, dict[str, object]]]] = defaultdict(list)
    for place, update in zip(places, updates, strict=True):
        cells = row(update)
        groups[tuple(cells)].append((place, cells))
    return [
        Cells([place for place, _ in rows], {name: [cells[name] for _, cells in rows] for name in names})
        for names, rows in groups.items()
    ]


def cells_of_columns(found: UpdateColumns) -> Cells:
    """The cells of updates that were read by columns; the places are those of their lines."""
    cells: dict[str, Sequence[object]] = {
        "run": found.run_ids,
        "attempt": found.attempts,
        "time": list(map(iso, found.times_ns)),
    }
    cells.update({name: found.fields[name] for name in _OWN if name in found.fields})
    for field, kind in _PARTS.items():
        names = part_names(str(entries[0]) for entries in found.arrays[f"{field}.name"])
        for place, name in enumerate(names):
            for column, part in part_columns(kind, name).items():
                cells[column] = found.arrays[f"{field}.{part}"][place]
    return Cells(found.places, cells)
