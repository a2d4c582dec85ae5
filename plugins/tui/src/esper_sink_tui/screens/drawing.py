"""Draws curves of whole runs into two plots: the KL above, a metric below."""

from __future__ import annotations

import math
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from esper_core.reading.curves import RETURN, Abscissa, curve, smoothed
from esper_core.reading.rows import kl_range
from esper_sink_tui.screens.legend import LETTERS, groups, kl_band, metric_band
from esper_sink_tui.widgets.axes import KLAxis, LogAxis, Upright, across

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from esper_core.health import KLLimits
    from esper_core.reading.curves import Unit
    from esper_core.reading.series import Band, Series
    from esper_sink_tui.widgets.axes import Scale
    from esper_sink_tui.widgets.history_plot import HistoryPlot

__all__ = ["COLOURS", "COLOURS_ON_LIGHT", "Drawing", "View"]

COLOURS: Final = ("#56b4e9", "#e69f00", "#cc79a7", "#f0e442", "#8fc7ec", "#d55e00", "#b8c4d0", "#9e7bb5")
"""Of runs, on a dark ground."""
COLOURS_ON_LIGHT: Final = (
    "#0072b2",
    "#a65a00",
    "#a03d7c",
    "#6b5b00",
    "#00664f",
    "#b3410f",
    "#4a5563",
    "#5b3f99",
)
"""Likewise on a light one, where the others are too pale to be read."""
Points = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class View:
    """What is drawn of the runs, and how.

    Attributes:
        metric: below the KL.
        scale: of the y axes.
        unit: of the x axis.
        weight: of the past in smoothed curves; 0 smooths nothing.
        grouped: mean and spread of each experiment instead of every run.
    """

    metric: str = RETURN
    scale: Scale = "limits"
    unit: Unit = "updates"
    weight: float = 0.0
    grouped: bool = False


class Drawing:
    """One way to draw some runs.

    Args:
        series: the runs.
        view: how.
        style: of a role, in Rich's notation.
        colours: of the runs, in turn; none where there are no colours.
    """

    def __init__(
        self, series: Sequence[Series], view: View, *, style: Callable[[str], str], colours: Sequence[str] = COLOURS
    ) -> None:
        self._series = series
        self._view = view
        self._style = style
        self._colours = colours
        self._places = [Abscissa(item, view.unit) for item in series]

    def x_of(self, update_id: int) -> float:
        """Where an update of the first run lies on the x axis."""
        return self._places[0](update_id)

    def ends(self) -> tuple[float, float] | None:
        """The ends of the x axis; None without an update."""
        xs = [
            place(update_id)
            for item, place in zip(self._series, self._places, strict=True)
            for update_id in (
                *item.updates[:1],
                *item.updates[-1:],
                *item.return_updates[:1],
                *item.return_updates[-1:],
            )
        ]
        return (min(xs), max(xs)) if xs else None

    def kl(self, plot: HistoryPlot, limits: Sequence[KLLimits], *, framed: bool) -> int:
        """Draw the KL with its limits.

        Args:
            plot: cleared.
            limits: of the runs.
            framed: set the ends of the axes; otherwise a zoom is kept.

        Returns:
            Values that are not above 0 and have no logarithm.
        """
        axis = Upright(
            self._view.scale,
            (value for item in self._series for value in item.kl),
            fixed=(0.0, max(kl_range(item)[1] for item in limits)),
        )
        xs = self._frame(plot, axis, framed=framed)
        plot.set_y_formatter(LogAxis() if axis.log else KLAxis(*limits))
        if xs is None:
            return 0
        for limit in limits:
            for value, role in ((limit.warning, "role-warn"), (limit.critical, "role-crit")):
                if axis.inside(value):
                    plot.rule(axis.of(value), xs, self._style(role))
        top = axis.bounds[1] if axis.capped else math.inf
        if self._view.grouped:
            found = [kl_band(members, self._view.unit, self._view.weight) for members in groups(self._series)]
            self._bands(plot, found, axis, top=top)
            return axis.below
        for number, (item, place) in enumerate(zip(self._series, self._places, strict=True)):
            if len(self._series) == 1:
                for update_id in item.resumes:
                    plot.resume(place(update_id), axis.bounds, self._style("role-info"))
                plot.stops([place(update_id) for update_id in item.stops], axis.bounds[0], self._style("role-stop"))
            measured = [(x, y) for x, y in zip(item.updates, item.kl, strict=True) if not math.isnan(y)]
            broken = [(x, math.nan) for x in item.broken]
            points = [(place(x), y) for x, y in sorted([*measured, *broken], key=itemgetter(0))]
            self._curve(plot, number, points, axis, top=top)
            edge = axis.bounds[1]
            plot.marks(
                [(x, axis.of(y)) for x, y in points],
                top=top,
                edge=edge,
                crit=self._style("role-crit"),
                bad=self._style("role-bad"),
            )
            plot.lows([x for x, y in points if axis.log and y <= 0], axis.bounds[0], self._style("role-dim"))
        return axis.below

    def metric(self, plot: HistoryPlot, *, framed: bool) -> int:
        """Draw the other metric; evaluations beside returns. Arguments and result are those of :meth:`kl`."""
        name = self._view.metric
        curves = [
            list(zip(item.return_updates, item.returns, strict=True)) if name == RETURN else curve(item, name)
            for item in self._series
        ]
        played = [
            [(found.update_id, found.return_mean) for found in item.evaluations] if name == RETURN else []
            for item in self._series
        ]
        axis = Upright(self._view.scale, (y for points in (*curves, *played) for _, y in points))
        xs = self._frame(plot, axis, framed=framed)
        if axis.log:
            plot.set_y_formatter(LogAxis())
        else:
            plot.plain_axis()
        if xs is None:
            return 0
        if self._view.grouped:
            found = [metric_band(members, name, self._view.unit, self._view.weight) for members in groups(self._series)]
            self._bands(plot, found, axis)
            return axis.below
        for number, (points, evaluated, place) in enumerate(zip(curves, played, self._places, strict=True)):
            moved = [(place(x), y) for x, y in points]
            self._curve(plot, number, moved, axis)
            broken = [(x, y) for x, y in moved if not math.isfinite(y)] if name != RETURN else []
            plot.marks(
                broken, top=math.inf, edge=axis.bounds[1], crit=self._style("role-crit"), bad=self._style("role-bad")
            )
            plot.lows([x for x, y in moved if axis.log and y <= 0], axis.bounds[0], self._style("role-dim"))
            plot.evaluated([(place(x), axis.of(y)) for x, y in evaluated], self._style("role-stop"))
        return axis.below

    def _frame(self, plot: HistoryPlot, axis: Upright, *, framed: bool) -> tuple[float, float] | None:
        xs = self.ends()
        plot.clear()
        plot.set_x_formatter(across(self._view.unit))
        if framed:
            plot.frame_data(xs if xs is not None else (0.0, 1.0), axis.bounds)
        return xs

    def _curve(self, plot: HistoryPlot, number: int, points: Points, axis: Upright, *, top: float = math.inf) -> None:
        """Draw a run's line, with its letter at the end, so that lines can be distinguished without colours.

        Behind a smoothed line the values stay, dim.
        """
        finite = [(x, axis.of(y)) for x, y in points if math.isfinite(y)]
        if not finite:
            return
        style = self._colour(number)
        if self._view.weight:
            plot.curve([(x, axis.of(y)) for x, y in points], f"dim {self._style('role-dim')}", top=top)
            calm = smoothed([y for _, y in points], self._view.weight)
            points = [(x, y) for (x, _), y in zip(points, calm, strict=True)]
            finite = [(x, axis.of(y)) for x, y in points if math.isfinite(y)]
        plot.curve([(x, axis.of(y)) for x, y in points], style, top=top)
        x, y = finite[-1]
        if len(self._series) > 1:
            plot.scatter([x], [min(y, top)], marker=LETTERS[number], marker_style=f"bold {style}")

    def _bands(self, plot: HistoryPlot, found: Sequence[Band | None], axis: Upright, *, top: float = math.inf) -> None:
        for number, band in enumerate(found):
            if band is None:
                continue
            style = self._colour(number)
            if band.seeds > 1 and len(band.updates) > 1:
                for edge in (band.low, band.high):
                    points = [(x, axis.of(y)) for x, y in zip(band.updates, edge, strict=True)]
                    plot.curve(points, f"dim {style}", top=top)
            middle = [(x, axis.of(y)) for x, y in zip(band.updates, band.mean, strict=True)]
            plot.curve(middle, style, top=top)
            x, y = middle[-1]
            plot.scatter([x], [min(y, top)], marker=LETTERS[number], marker_style=f"bold {style}")

    def _colour(self, number: int) -> str:
        if len(self._series) == 1:
            return self._style("role-info")
        return self._colours[number % len(self._colours)] if self._colours else "default"
