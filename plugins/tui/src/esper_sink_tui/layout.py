"""Which panels a terminal of a given size shows, and where. Pure: the app, ``--once`` and tests call the same function.

Wide from 100x34, compact from 80x22, banner and health below, one line below 40x6. Heights depend on the size of the
terminal alone, never on the data: no panel moves between two refreshes. One place depends on the run: one that has
divergences has a panel for them beside the events, from the update that first tells of one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from esper_core.reading.divergences import newest_divergences
from esper_sink_tui.lines import Line, ascii_line, fit, fit_all
from esper_sink_tui.panels import PANELS, ZOOMED, banner_line
from esper_sink_tui.panels.runs import runs_line
from esper_sink_tui.panels.sinks import sinks_line
from esper_sink_tui.panels.throughput import throughput_line

if TYPE_CHECKING:
    from esper_core.reading.model import ScreenModel

__all__ = ["Cell", "Mode", "cell_lines", "has_divergences", "layout", "mode_of", "screen_lines", "strip_lines"]

Mode: TypeAlias = Literal["wide", "compact", "small", "line"]
_LEFT: Final = 67
"""Columns of the health panel with all that it has."""
_SHORT: Final = 51
"""Columns of the health panel without the limits."""
_DIVERGENCES: Final = 60
"""Columns that the panel of divergences has at most."""
_LEAST_PLOT: Final = 32
_WIDE_ROWS: Final = 33
"""Rows of the smallest wide layout, without the footer."""
_PAIR_FROM: Final = 96
"""Columns of the right half from which speed and sinks stand side by side."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A panel's place, in terminal cells, and whether it has the screen for itself."""

    name: str
    x: int
    y: int
    width: int
    height: int
    zoomed: bool = False


def mode_of(width: int, height: int) -> Mode:
    """The name of the layout for a terminal of this size."""
    if width < 40 or height < 6:
        return "line"
    if width >= 100 and height >= 34:
        return "wide"
    if width >= 80 and height >= 22:
        return "compact"
    return "small"


def layout(width: int, height: int, *, footer: int = 1, divergences: bool = False) -> list[Cell]:
    """The panels and their places; ``footer`` rows at the bottom stay free, ``divergences``: the run has some.

    Below 40x6 there is one cell, ``line``.
    """
    mode = mode_of(width, height)
    rows = height - footer
    if mode == "line":
        return [Cell("line", 0, 0, width, 1)]
    top = Cell("banner", 0, 0, width, 4)
    if mode == "small":
        return [top, Cell("health", 0, 4, width, max(min(rows - 4, 12), 1))]
    if mode == "compact":
        return [top, *_compact(width, rows)]
    return [top, *_wide(width, rows, divergences=divergences)]


def _compact(width: int, rows: int) -> list[Cell]:
    """Health beside the plot, heads, two lines for all else, events."""
    left = _LEFT if width - _LEFT >= _LEAST_PLOT else _SHORT
    high = min(max(rows - 4 - 5 - 2 - 3, 9), 12)
    return [
        Cell("health", 0, 4, left, high),
        Cell("plot", left, 4, width - left, high),
        Cell("heads", 0, 4 + high, width, 5),
        Cell("strip", 0, 9 + high, width, 2),
        Cell("events", 0, 11 + high, width, rows - 11 - high),
    ]


def _wide(width: int, rows: int, *, divergences: bool) -> list[Cell]:
    """Two columns over the events: numbers, heads and runs; the plot, which takes what room there is, speed and sinks.

    Where the right column has room for both, speed and sinks stand side by side below the plot.
    """
    right = width - _LEFT
    spare = rows - _WIDE_ROWS
    events = min(5 + spare // 4, 14)
    column = rows - 4 - events
    health = 12
    heads = min(8 + (spare + 1) // 4, 14)
    low = 4 + health + heads
    runs = column - health - heads
    cells = [
        Cell("health", 0, 4, _LEFT, health),
        Cell("heads", 0, 4 + health, _LEFT, heads),
        Cell("runs", 0, low, _LEFT, runs),
    ]
    if right >= _PAIR_FROM:
        half = right // 2
        y = 4 + column - 8
        cells += [
            Cell("plot", _LEFT, 4, right, column - 8),
            Cell("throughput", _LEFT, y, half, 8),
            Cell("sinks", _LEFT + half, y, right - half, 8),
        ]
    else:
        sinks = min(6 + spare // 6, 8)
        plot = column - 8 - sinks
        cells += [
            Cell("plot", _LEFT, 4, right, plot),
            Cell("throughput", _LEFT, 4 + plot, right, 8),
            Cell("sinks", _LEFT, 12 + plot, right, sinks),
        ]
    return [*cells, *_last_row(4 + column, width, events, divergences=divergences)]


def _last_row(y: int, width: int, height: int, *, divergences: bool) -> list[Cell]:
    """Events, whose lines are long, have what the divergences do not need."""
    if not divergences:
        return [Cell("events", 0, y, width, height)]
    events = max(width - _DIVERGENCES, _LEFT)
    return [Cell("events", 0, y, events, height), Cell("divergences", events, y, width - events, height)]


def strip_lines(model: ScreenModel, width: int, height: int) -> list[Line]:
    """Throughput, sinks and runs in two lines, for the compact layout."""
    second = (*sinks_line(model), (" ", ""), *runs_line(model))
    return [fit(item, width) for item in (throughput_line(model, width), second)][:height]


def screen_lines(model: ScreenModel, width: int, height: int, *, ascii_only: bool = False) -> list[Line]:
    """The whole screen as text, without the footer."""
    cells = layout(width, height, footer=0, divergences=has_divergences(model))
    drawn = [(cell, cell_lines(model, cell)) for cell in sorted(cells, key=lambda cell: cell.x)]
    lines: list[Line] = [
        tuple(span for cell, block in drawn if cell.y <= y < cell.y + cell.height for span in block[y - cell.y])
        for y in range(max(cell.y + cell.height for cell in cells))
    ]
    lines = fit_all(lines, width, max(len(lines), 1))
    return [ascii_line(item) for item in lines] if ascii_only else lines


def has_divergences(model: ScreenModel) -> bool:
    """Whether a screen shows the panel of divergences."""
    return bool(newest_divergences(model.snapshot))


def cell_lines(model: ScreenModel, cell: Cell) -> list[Line]:
    """The text of one place."""
    if cell.name == "line":
        return [banner_line(model, cell.width)]
    if cell.name == "strip":
        return strip_lines(model, cell.width, cell.height)
    panel = ZOOMED.get(cell.name, PANELS[cell.name]) if cell.zoomed else PANELS[cell.name]
    return panel(model, cell.width, cell.height)
