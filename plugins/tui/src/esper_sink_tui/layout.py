"""Which panels a terminal of a given size shows, and where. Pure: the app, ``--once`` and tests call the same function.

Wide from 100x34, compact from 80x22, banner and health below, one line below 40x6. Heights depend on the size of the
terminal alone, never on the data: no panel moves between two refreshes. One place depends on the run: one that has
divergences has a panel for them beside the events, from the update that first tells of one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from esper_core.reading.divergences import newest_divergences
from esper_sink_tui.lines import Line, ascii_line, beside, fit, fit_all
from esper_sink_tui.panels import PANELS, banner_line
from esper_sink_tui.panels.runs import runs_line
from esper_sink_tui.panels.sinks import sinks_line
from esper_sink_tui.panels.throughput import throughput_line

if TYPE_CHECKING:
    from esper_core.reading.model import ScreenModel

__all__ = ["Cell", "Mode", "cell_lines", "has_divergences", "layout", "mode_of", "screen_lines", "strip_lines"]

Mode: TypeAlias = Literal["wide", "compact", "small", "line"]
_LEFT = 67


@dataclass(frozen=True, slots=True)
class Cell:
    """A panel's place, in terminal cells."""

    name: str
    x: int
    y: int
    width: int
    height: int


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
        return [
            top,
            Cell("health", 0, 4, width, 9),
            Cell("heads", 0, 13, width, 5),
            Cell("strip", 0, 18, width, 2),
            Cell("events", 0, 20, width, rows - 20),
        ]
    left = _LEFT
    right = width - left
    heads = 9 if rows >= 38 else 8
    runs = 6 if rows < 44 else 8
    low = 4 + 12 + heads
    return [
        top,
        Cell("health", 0, 4, left, 12),
        Cell("plot", left, 4, right, 12),
        Cell("heads", 0, 16, left, heads),
        Cell("throughput", left, 16, right, heads),
        Cell("runs", 0, low, left, runs),
        Cell("sinks", left, low, right, runs),
        *_last_row(low + runs, width, rows - low - runs, divergences=divergences),
    ]


def _last_row(y: int, width: int, height: int, *, divergences: bool) -> list[Cell]:
    if not divergences:
        return [Cell("events", 0, y, width, height)]
    return [Cell("events", 0, y, _LEFT, height), Cell("divergences", _LEFT, y, width - _LEFT, height)]


def strip_lines(model: ScreenModel, width: int, height: int) -> list[Line]:
    """Throughput, sinks and runs in two lines, for the compact layout."""
    second = (*sinks_line(model), (" ", ""), *runs_line(model))
    return [fit(item, width) for item in (throughput_line(model, width), second)][:height]


def screen_lines(model: ScreenModel, width: int, height: int, *, ascii_only: bool = False) -> list[Line]:
    """The whole screen as text, without the footer."""
    cells = layout(width, height, footer=0, divergences=has_divergences(model))
    blocks: dict[int, list[list[Line]]] = {}
    for cell in cells:
        blocks.setdefault(cell.y, []).append(cell_lines(model, cell))
    lines: list[Line] = []
    for place in sorted(blocks):
        block = blocks[place][0]
        for other in blocks[place][1:]:
            block = beside(block, other)
        lines.extend(block)
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
    return PANELS[cell.name](model, cell.width, cell.height)
