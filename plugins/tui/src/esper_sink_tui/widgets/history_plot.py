"""HistoryPlot: curves over whole runs, with room at every edge, marks for what the range cannot show, and few ticks."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from textual.reactive import reactive
from textual_hires_canvas import HiResMode
from textual_plot import NumericAxisFormatter, PlotWidget

from esper_core.reading.glyphs import ABOVE, NON_FINITE, RESUME, STOP
from esper_core.reading.numbers import plain
from esper_core.reading.rows import kl_range

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from esper_core.health import KLLimits

__all__ = ["HistoryPlot", "KLAxis", "WholeAxis", "segments"]

_TICKS: Final = 6
_ACROSS: Final = 400
"""Places of a limit's line: more than a screen has columns."""


class KLAxis(NumericAxisFormatter):
    """Formats the axis: marks the limits by name instead of round numbers.

    Args:
        limits: of the runs on show.
    """

    def __init__(self, *limits: KLLimits) -> None:
        self._names = {item.warning: "warn" for item in limits} | {item.critical: "crit" for item in limits}
        self._top = max(kl_range(item)[1] for item in limits)

    def get_ticks(self, min_: float, max_: float, max_ticks: int = 8) -> list[float]:
        """0, the limits and the top; while zoomed beyond these, round numbers."""
        ticks = [tick for tick in sorted({0.0, *self._names, self._top}) if min_ <= tick <= max_]
        return ticks if len(ticks) > 1 else super().get_ticks(min_, max_, max_ticks)

    def get_labels_for_ticks(self, ticks: Sequence[float]) -> list[str]:
        """The label of a tick: name and value of a limit."""
        return [f"{self._names.get(tick, '')} {_nats(tick)}".strip() for tick in ticks]


def _nats(tick: float) -> str:
    """Four decimals, or two figures of a value that they would not show."""
    text = plain(tick, 4)
    return text.removeprefix("0") if math.isclose(float(text), tick, rel_tol=0.05) else f"{tick:.2g}"


class WholeAxis(NumericAxisFormatter):
    """Update ids: whole numbers, each once."""

    def get_ticks(self, min_: float, max_: float, max_ticks: int = 8) -> list[float]:
        """At most six whole numbers at round distances."""
        del max_ticks
        least = max((max_ - min_) / _TICKS, 1.0)
        power = 10.0 ** math.floor(math.log10(least))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least)
        first = math.ceil(min_ / step)
        return [place * step for place in range(first, math.floor(max_ / step) + 1)]

    def get_labels_for_ticks(self, ticks: Sequence[float]) -> list[str]:
        """Without decimals."""
        return [f"{tick:.0f}" for tick in ticks]


def segments(points: Iterable[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """The stretches of a curve between values that are no numbers: nothing is drawn across these."""
    found: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if math.isfinite(y):
            found[-1].append((x, y))
        elif found[-1]:
            found.append([])
    return [item for item in found if item]


class HistoryPlot(PlotWidget, can_focus=True):
    """A plot with small margins. They are set before mounting: a later change would not resize the canvas."""

    margin_top = reactive(0)
    margin_bottom = reactive(1)
    margin_left = reactive(12)

    def frame_data(self, xs: tuple[float, float], ys: tuple[float, float]) -> None:
        """Set the ends of the axes so that a point on an edge lies inside.

        The canvas draws neither what lies on its upper edge nor what lies on its lower one.
        """
        width, height = max(xs[1] - xs[0], 1.0), ys[1] / 2 - ys[0] / 2
        self.set_xlimits(xs[0] - 0.01 * width, xs[1] + 0.02 * width)
        self.set_ylimits(ys[0] - 0.08 * height, ys[1] + 0.16 * height)

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
            self.scatter(xs, ys, marker_style=style, hires_mode=HiResMode.BRAILLE)
            if any(one != other for one, other in pairwise(part)):
                self.plot(xs, ys, line_style=style, hires_mode=HiResMode.BRAILLE)

    def marks(self, points: Sequence[tuple[float, float]], *, top: float, crit: str, bad: str) -> None:
        """Mark what a curve cannot show: values above ``top``, and those that are no numbers."""
        above = [x for x, y in points if math.isfinite(y) and y > top]
        if above:
            self.scatter(above, [top] * len(above), marker=ABOVE, marker_style=crit)
        broken = [x for x, y in points if not math.isfinite(y)]
        if broken:
            self.scatter(broken, [top] * len(broken), marker=NON_FINITE, marker_style=bad)

    def stops(self, xs: Sequence[float], low: float, style: str) -> None:
        """Mark the updates that stopped early, on the axis."""
        if xs:
            self.scatter(list(xs), [low] * len(xs), marker=STOP, marker_style=style)
