"""HistoryPlot: curves over whole runs, with room at every edge, marks for what the range cannot show, and few ticks."""

from __future__ import annotations

import math
from contextlib import ExitStack
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.binding import Binding
from textual.containers import Grid
from textual.geometry import Region
from textual.reactive import reactive
from textual.strip import Strip
from textual_hires_canvas import Canvas, HiResMode, TextAlign
from textual_plot import NumericAxisFormatter, PlotWidget
from textual_plot.plot_widget import Legend

from esper_core.reading.glyphs import ABOVE, BELOW, EVALUATED, NON_FINITE, RESUME, STOP, to_ascii

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import ArrayLike
    from textual.app import ComposeResult

__all__ = ["HistoryPlot", "segments"]

_GROUND: Final = "─"
"""What the cursor covers: limits."""
_ACROSS: Final = 400
"""Places of a limit's line: more than a screen has columns."""
_LEAST_WIDTH: Final = 1e-9
"""The smallest part of a place on an axis that an axis is wide."""
_FARTHEST: Final = 1e290
"""What lies further from 0 is drawn here: the differences that a plot computes are then no Inf."""


def _near(value: float) -> float:
    return min(max(value, -_FARTHEST), _FARTHEST)


def segments(points: Iterable[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """The stretches of a curve between values that are no numbers: nothing is drawn across these."""
    found: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if math.isfinite(y):
            found[-1].append((x, y))
        elif found[-1]:
            found.append([])
    return [item for item in found if item]


class _Canvas(Canvas):
    """A canvas with a cursor over what is drawn: moving it draws no curve again."""

    cursor: tuple[int, Style] | None = None
    """Column and style; None for no cursor."""
    _ground: Style | None = None

    def __init__(self, *words: Any, **named: Any) -> None:
        super().__init__(*words, **named)
        self._ends: dict[int, int] = {}
        """By line, where the text ends that was written last."""

    @property
    def rich_style(self) -> Style:
        """The ground's style, which Textual makes anew for every line; kept until styles change."""
        if self._ground is None:
            self._ground = super().rich_style
        return self._ground

    def notify_style_update(self) -> None:
        """The theme changed."""
        self._ground = None
        super().notify_style_update()

    def move(self, cursor: tuple[int, Style] | None) -> None:
        """Put the cursor elsewhere, or take it away."""
        moved = [item[0] for item in (self.cursor, cursor) if item is not None]
        if self.cursor != cursor:
            self.cursor = cursor
            self.refresh(*(Region(column, 0, 1, self.size.height) for column in moved))

    def write_text(self, x: int, y: int, text: str, align: TextAlign = TextAlign.LEFT) -> None:
        """As its parent, moved inside, and left out where it would touch what stands before it in its line.

        A number that is cut at an edge, or grown together with another one, is another number.
        """
        length = Text.from_markup(text).cell_len
        start = {TextAlign.LEFT: x, TextAlign.CENTER: x - (length - 1) // 2, TextAlign.RIGHT: x - length + 1}[align]
        room = self.size.width - length
        if room < 0:
            super().write_text(x, y, text, align)
            return
        start = min(max(start, 0), room)
        if start > self._ends.get(y, -2) + 1:
            self._ends[y] = start + length - 1
            super().write_text(start, y, text)

    def reset(self, *words: Any, **named: Any) -> None:
        """As its parent."""
        self._ends = {}
        super().reset(*words, **named)

    def render_line(self, y: int) -> Strip:
        """One line; a sign of the curve stays where the cursor is, in the cursor's colour."""
        strip = super().render_line(y)
        if self.cursor is None or not 0 < y < self.size.height - 1 or not 0 < self.cursor[0] < strip.cell_length - 1:
            return strip
        column, style = self.cursor
        before, here, after = strip.divide([column, column + 1, strip.cell_length])
        sign = here.text if here.text.strip() and here.text not in _GROUND else "│"
        base = next((segment.style for segment in here if segment.style is not None), None)
        at = Segment(sign, style if base is None else base + style)
        return Strip([*before, at, *after], strip.cell_length)


class _AsciiCanvas(_Canvas):
    """A canvas in ASCII signs."""

    def render_line(self, y: int) -> Strip:
        """One line, sign by sign."""
        return Strip([Segment(to_ascii(text), style, control) for text, style, control in super().render_line(y)])


class HistoryPlot(PlotWidget, can_focus=True, inherit_bindings=False):
    """A plot with small margins. They are set before mounting: a later change would not resize the canvas.

    Its keys zoom; arrows are the screen's, which moves a cursor with them.

    Args:
        name: its id.
        ascii_only: draw with ASCII signs.
    """

    BINDINGS: ClassVar[list[Any]] = [
        Binding("plus", "zoom_in", "zoom in", show=False),
        Binding("minus", "zoom_out", "zoom out", show=False),
    ]
    margin_top = reactive(0)
    margin_bottom = reactive(1)
    margin_left = reactive(13)

    def __init__(self, name: str, *, ascii_only: bool = False) -> None:
        super().__init__(id=name)
        self._canvas = _AsciiCanvas if ascii_only else _Canvas
        self._cursor: tuple[float, str] | None = None

    def compose(self) -> ComposeResult:
        """As its parent, of the chosen signs."""
        with Grid():
            for name in ("margin-top", "margin-left", "plot", "margin-bottom"):
                yield self._canvas(1, 1, id=name)
        yield Legend(id="legend")

    def frame_data(self, xs: tuple[float, float], ys: tuple[float, float]) -> None:
        """Set the ends of the axes so that a point on an edge lies inside.

        The canvas draws neither what lies on its upper edge nor what lies on its lower one.
        """
        # Far from 0 a small width is none: neighbouring numbers lie further apart.
        width = max(xs[1] - xs[0], 1.0, *(abs(x) * _LEAST_WIDTH for x in xs))
        low, high = _near(ys[0]), _near(ys[1])
        height = max(high / 2 - low / 2, *(abs(y) * _LEAST_WIDTH for y in (low, high)))
        self.set_xlimits(xs[0] - 0.01 * width, xs[1] + 0.02 * width)
        self.set_ylimits(low - 0.08 * height, high + 0.16 * height)

    def plot(self, x: ArrayLike, y: ArrayLike, *words: Any, **named: Any) -> None:
        """As its parent, of values of any size."""
        super().plot(x, np.clip(y, -_FARTHEST, _FARTHEST), *words, **named)

    def scatter(self, x: ArrayLike, y: ArrayLike, *words: Any, **named: Any) -> None:
        """As its parent, of values of any size."""
        super().scatter(x, np.clip(y, -_FARTHEST, _FARTHEST), *words, **named)

    def _zoom(self, center_x: float, center_y: float, factor: float, zoom_x: bool, zoom_y: bool) -> None:
        """As its parent, as far as there are numbers between the ends of an axis, and no further."""
        for low, high in ((self._x_min, self._x_max), (self._y_min, self._y_max)):
            least = max(abs(low), abs(high)) * _LEAST_WIDTH / 1000
            if not least < (high - low) / (1 + factor) < 10 * _FARTHEST:
                return
        super()._zoom(center_x, center_y, factor, zoom_x, zoom_y)

    def rule(self, value: float, xs: tuple[float, float], style: str) -> None:
        """A limit, from edge to edge, of whole cells: these lie on the row of its tick, which dots may miss."""
        first, width = xs[0], max(xs[1] - xs[0], 1.0)
        across = [first + width * (place / _ACROSS * 1.03 - 0.01) for place in range(_ACROSS + 1)]
        self.scatter(across, [value] * len(across), marker="─", marker_style=style)

    def resume(self, x: float, ys: tuple[float, float], style: str) -> None:
        """Where an attempt begins: a column of marks."""
        rows = [ys[0] + (ys[1] - ys[0]) * share / 12 for share in range(13)]
        self.scatter([x] * len(rows), rows, marker=RESUME, marker_style=style)

    def curve(self, points: Sequence[tuple[float, float]], style: str, *, top: float = math.inf) -> None:
        """Draw one curve; what lies above ``top`` lies on it, and :meth:`marks` says so."""
        for part in segments((x, min(y, top) if math.isfinite(y) else y) for x, y in points):
            xs, ys = [x for x, _ in part], [y for _, y in part]
            if any(one != other for one, other in pairwise(part)):
                self.plot(xs, ys, line_style=style, hires_mode=HiResMode.BRAILLE)
            else:
                self.scatter(xs, ys, marker_style=style, hires_mode=HiResMode.BRAILLE)

    def marks(self, points: Sequence[tuple[float, float]], *, top: float, edge: float, crit: str, bad: str) -> None:
        """Mark what a curve cannot show: values above ``top``, and, at ``edge``, those that are no numbers."""
        above = [x for x, y in points if math.isfinite(y) and y > top]
        if above:
            self.scatter(above, [top] * len(above), marker=ABOVE, marker_style=crit)
        broken = [x for x, y in points if not math.isfinite(y)]
        if broken:
            self.scatter(broken, [edge] * len(broken), marker=NON_FINITE, marker_style=bad)

    def lows(self, xs: Sequence[float], low: float, style: str) -> None:
        """Mark values that a logarithmic axis has no place for, at its lower edge."""
        if xs:
            self.scatter(list(xs), [low] * len(xs), marker=BELOW, marker_style=style)

    def evaluated(self, points: Sequence[tuple[float, float]], style: str) -> None:
        """Draw evaluations: a line, and a sign at each."""
        self.curve(points, style)
        if points:
            self.scatter([x for x, _ in points], [y for _, y in points], marker=EVALUATED, marker_style=f"bold {style}")

    def plain_axis(self) -> None:
        """Round numbers on the y axis."""
        self.set_y_formatter(NumericAxisFormatter())

    def point(self, x: float | None, style: str) -> None:
        """Draw the cursor at a place on the x axis, and none for None; a zoomed plot moves along."""
        self._cursor = None if x is None else (x, style)
        if x is not None and not self._x_min <= x <= self._x_max:
            half = (self._x_max - self._x_min) / 2
            self.set_xlimits(x - half, x + half)
        self._point()

    def _point(self) -> None:
        canvas = self.query_one("#plot", _Canvas)
        if self._cursor is None or not canvas.size:
            canvas.move(None)
            return
        x, style = self._cursor
        canvas.move((self.get_pixel_from_coordinate(x, 0)[0], Style.parse(style)))

    def _render_plot(self) -> None:
        """As its parent, which would mark its canvases as dirty for every sign; the cursor moves with the axes."""
        with ExitStack() as batches:
            for canvas in self.query(Canvas):
                batches.enter_context(canvas.batch_refresh())
            super()._render_plot()
        self._point()

    def settle(self) -> None:
        """Draw what was asked for now. Within a frame it would be drawn, and then all of it once more."""
        if self._needs_rerender and not self._needs_canvas_resize:
            self.render()

    def place_of(self, column: int) -> float:
        """The place on the x axis of a column of the canvas."""
        return self.get_coordinate_from_pixel(column, 1)[0]

    def column_of(self, x: float) -> int:
        """The column of a place on the x axis, from 0 inside the frame; outside of it for one that is not shown."""
        return self.get_pixel_from_coordinate(x, 0)[0] - 1

    def stops(self, xs: Sequence[float], low: float, style: str) -> None:
        """Mark the updates that stopped early, on the axis."""
        if xs:
            self.scatter(list(xs), [low] * len(xs), marker=STOP, marker_style=style)
