"""A curve as text: braille dots on a grid of cells, so that every value is seen, whatever it is. Pure.

A value above the range is drawn at its upper edge and marked ▲, one below it ▼; what is not a number is marked in the
top row and breaks the line. Where signs meet in a cell, the worse news is drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from esper_core.reading.glyphs import ABOVE, BELOW, NON_FINITE, RESUME

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from esper_core.reading.glyphs import Role
    from esper_sink_tui.lines import Line

__all__ = ["Rule", "chart", "column_of", "ids_line", "row_of"]

_BRAILLE: Final = 0x2800
_DOTS: Final = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of a cell's dots, by row and column."""
_APART: Final = 2
"""Blank cells between two labels of an axis."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A horizontal line at a value: a limit, drawn behind the curve."""

    value: float
    sign: str
    role: Role


def column_of(x: float, ends: tuple[float, float], width: int) -> int:
    """The cell of a chart of ``width`` cells that a place on the x axis lies in."""
    return _dot(x, ends, width * 2) // 2


def row_of(value: float, bounds: tuple[float, float], height: int) -> int:
    """The row of a chart of ``height`` cells, from above, that a value lies in; the first or last for those beyond."""
    return (height * 4 - 1 - _dot(value, bounds, height * 4)) // 4


def chart(
    points: Sequence[tuple[float, float | None]],
    *,
    ends: tuple[float, float],
    bounds: tuple[float, float],
    size: tuple[int, int],
    role: Role = "",
    rules: Iterable[Rule] = (),
    resumes: Iterable[float] = (),
) -> list[Line]:
    """Draw one curve.

    Args:
        points: place on the x axis and value, ascending; None where nothing was measured.
        ends: of the x axis.
        bounds: least and greatest value.
        size: cells across and down.
        role: of the curve.
        rules: lines behind the curve; of two in one row the later one is drawn.
        resumes: places on the x axis where an attempt begins.
    """
    width, height = size
    cells: list[list[tuple[str, Role]]] = [[(" ", "")] * width for _ in range(height)]
    for rule in rules:
        cells[row_of(rule.value, bounds, height)] = [(rule.sign, rule.role)] * width
    for x in resumes:
        for row in cells:
            row[column_of(x, ends, width)] = (RESUME, "info")
    for (column, row_), bits in _curve(points, ends, bounds, size).items():
        cells[row_][column] = (chr(_BRAILLE + bits), role)
    for x, value in points:
        if value is None:
            continue
        column = column_of(x, ends, width)
        if not math.isfinite(value):
            cells[0][column] = (NON_FINITE, "bad")
        elif value > bounds[1] and cells[0][column][0] != NON_FINITE:
            cells[0][column] = (ABOVE, "crit")
        elif value < bounds[0]:
            cells[-1][column] = (BELOW, "crit")
    return [_merged(row) for row in cells]


def ids_line(ids: Sequence[int], width: int) -> str:
    """Update ids below an axis: the first, the last and those between that have room; no two alike or touching."""
    if not ids or width < 1:
        return " " * width
    ends = (ids[0], ids[-1])
    wanted = [0.0, 1.0, 0.5, 0.25, 0.75]
    taken: dict[int, str] = {}
    for share in wanted:
        number = _nearest(ids, ends[0] + share * (ends[1] - ends[0]))
        text = str(number)
        start = min(max(column_of(number, ends, width) - len(text) // 2, 0), width - len(text))
        free = all(
            start + len(text) + _APART <= other or other + len(known) + _APART <= start
            for other, known in taken.items()
        )
        if start >= 0 and free and text not in taken.values():
            taken[start] = text
    line = ""
    for start in sorted(taken):
        line = line.ljust(start) + taken[start]
    return line.ljust(width)


def _nearest(ids: Sequence[int], wanted: float) -> int:
    return min(ids, key=lambda item: abs(item - wanted))


def _dot(value: float, ends: tuple[float, float], dots: int) -> int:
    """The dot of an axis from its start that a value lies on, within the axis. In halves: no difference overflows."""
    low, high = ends[0] / 2, ends[1] / 2
    if not high > low:
        return 0
    share = (value / 2 - low) / (high - low)
    return round(min(max(share, 0.0), 1.0) * (dots - 1))


def _curve(
    points: Sequence[tuple[float, float | None]],
    ends: tuple[float, float],
    bounds: tuple[float, float],
    size: tuple[int, int],
) -> dict[tuple[int, int], int]:
    """The braille bits of each cell that the curve touches; broken where a value is missing or no number."""
    width, height = size
    bits: dict[tuple[int, int], int] = {}
    before: tuple[int, int] | None = None
    for x, value in points:
        if value is None or not math.isfinite(value):
            before = None
            continue
        here = (_dot(x, ends, width * 2), height * 4 - 1 - _dot(value, bounds, height * 4))
        for across, down in _between(before if before is not None else here, here):
            cell = (across // 2, down // 4)
            bits[cell] = bits.get(cell, 0) | _DOTS[down % 4][across % 2]
        before = here
    return bits


def _between(one: tuple[int, int], other: tuple[int, int]) -> list[tuple[int, int]]:
    """Every dot of the straight line between two dots, both included."""
    steps = max(abs(other[0] - one[0]), abs(other[1] - one[1]))
    if not steps:
        return [one]
    return [
        (
            round(one[0] + (other[0] - one[0]) * step / steps),
            round(one[1] + (other[1] - one[1]) * step / steps),
        )
        for step in range(steps + 1)
    ]


def _merged(row: Sequence[tuple[str, Role]]) -> Line:
    """Neighbours of one role as one span."""
    places = [0, *(at + 1 for at, (one, other) in enumerate(pairwise(row)) if one[1] != other[1]), len(row)]
    return tuple(
        ("".join(sign for sign, _ in row[start:end]), row[start][1]) for start, end in pairwise(places) if end > start
    )
