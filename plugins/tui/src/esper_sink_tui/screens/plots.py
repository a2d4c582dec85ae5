"""KL and return over whole runs: the history of one, and several overlaid, alone or grouped by experiment."""

from __future__ import annotations

import math
import time
from operator import itemgetter
from typing import TYPE_CHECKING, ClassVar, Final

from textual.binding import Binding
from textual.containers import Vertical
from textual.screen import Screen
from textual.widgets import Footer, Static

from esper_core.health import DEFAULT_KL_LIMITS, format_kl
from esper_core.reading.numbers import plain
from esper_core.reading.rows import kl_range
from esper_core.reading.series import Band, Series, bands, headroom, read_series
from esper_core.terminal import one_line
from esper_sink_tui.theme import MONO, rich_colour
from esper_sink_tui.widgets.history_plot import HistoryPlot, KLAxis, WholeAxis

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from textual.app import ComposeResult
    from textual.binding import BindingType
    from textual_plot import PlotWidget

    from esper_core.health import KLLimits, KLOn
    from esper_sink_tui.watch import Watched

__all__ = ["PlotsScreen", "groups", "legend_lines"]

_COLOURS: Final = ("#56b4e9", "#e69f00", "#cc79a7", "#f0e442", "#8fc7ec", "#d55e00", "#b8c4d0", "#9e7bb5")
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
_MOST: Final = 8
_LOOK_S: Final = 1.0
"""Seconds between two looks whether a run has gone on."""
_REST: Final = 10.0
"""Reading takes at most one part in so many of the time."""


def legend_lines(series: Sequence[Series], *, grouped: bool) -> str:
    """Each run with its letter, its experiment and its last numbers; or each experiment with its seeds.

    Numbers of an experiment are formatted against the limits of its first run.
    """
    lines = []
    if grouped:
        for letter, members in zip(_LETTERS, groups(series), strict=False):
            drift, returns = _kl_band(members), _return_band(members)
            if drift is None:
                continue
            limits = members[0].limits
            middle = plain(returns.mean[-1] if returns is not None else None, 1)
            half = (returns.high[-1] - returns.low[-1]) / 2 if returns is not None else None
            spread = f" +- {plain(half, 1)}" if half is not None else ""
            shown = f"{limits.name} {format_kl(drift.mean[-1], limits=limits)}"
            lines.append(f"{letter}  {one_line(drift.label)}  {drift.seeds} seeds  {shown}  return {middle}{spread}")
        return "\n".join(lines)
    for letter, item in zip(_LETTERS, series, strict=False):
        value = next((value for value in reversed(item.returns) if not math.isnan(value)), None)
        joined = f"  each point the largest of {item.joined}" if item.joined > 1 else ""
        update, kl = item.last if item.last is not None else (0, None)
        shown = f"{item.limits.name} {format_kl(kl, limits=item.limits)}"
        lines.append(
            f"{letter}  {one_line(item.label)}  {one_line(item.group)}  update {update}  {shown}"
            f"  return {plain(value, 1)}{joined}"
        )
    return "\n".join(lines)


def groups(series: Sequence[Series]) -> list[list[Series]]:
    """The runs of each experiment, those judged on another KL apart: a mean over both would be of neither."""
    found: dict[tuple[str, KLOn], list[Series]] = {}
    for item in series:
        found.setdefault((item.group, item.limits.on), []).append(item)
    return list(found.values())


def _kl_band(members: Sequence[Series]) -> Band | None:
    return next(iter(bands((item.group, item.updates, item.kl) for item in members)), None)


def _return_band(members: Sequence[Series]) -> Band | None:
    return next(iter(bands((item.group, item.return_updates, item.returns) for item in members)), None)


class PlotsScreen(Screen[None]):
    """Two plots and a legend, read again while the runs go on. The mouse wheel zooms, dragging moves.

    Args:
        runs: one run for its history, several to compare them.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape,q,h,v", "dismiss", "back"),
        ("g", "group", "group by experiment"),
        Binding("question_mark", "app.help", "help", key_display="?"),
        Binding("r", "whole", "whole run", priority=True),
    ]
    DEFAULT_CSS = """
    PlotsScreen PlotWidget {
        height: 1fr; border: solid $role-frame; border-title-style: bold; border-title-color: $role-title;
    }
    PlotsScreen PlotWidget:focus { border: solid $role-cursor; }
    PlotsScreen PlotWidget > .plot--axis { color: $role-frame; }
    PlotsScreen PlotWidget > .plot--tick { color: $role-dim; text-style: none; }
    PlotsScreen Static { height: auto; max-height: 8; padding: 0 1; }
    """

    def __init__(self, runs: Sequence[Watched], *, grouped: bool = False) -> None:
        super().__init__()
        self._runs = list(runs)[:_MOST]
        self._left_out = max(len(runs) - _MOST, 0)
        self._grouped = grouped
        self._read_at: list[int] = []
        self._reading = False
        self._due = 0.0
        self._held: set[str | None] = set()
        self.series: list[Series] = []

    def compose(self) -> ComposeResult:
        """KL above, return below, then the legend."""
        with Vertical():
            yield HistoryPlot(id="history-kl")
            yield HistoryPlot(id="history-return")
            yield Static("reading the whole journal ...", id="history-legend", markup=False)
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Read in the background, now and whenever a run has gone on."""
        self.refresh_runs()
        self.set_interval(_LOOK_S, self.refresh_runs)

    def refresh_runs(self) -> None:
        """Read the runs again when they have changed; a run that takes long to read is read less often."""
        now = [item.generation for item in self._runs]
        if self._reading or now == self._read_at or time.monotonic() < self._due:
            return
        self._read_at, self._reading = now, True
        self.run_worker(self._read, thread=True, exclusive=True)

    def _read(self) -> None:
        began = time.monotonic()
        series = [read_series(item.source, item.snapshot, group=item.group) for item in self._runs]
        self._due = time.monotonic() + _REST * (time.monotonic() - began)
        self._reading = False
        self.app.call_from_thread(self._draw, series)

    def action_group(self) -> None:
        """One line a run, or mean and band of each experiment."""
        self._grouped = not self._grouped
        self._draw(self.series)

    def action_whole(self) -> None:
        """Show the whole runs again after a zoom."""
        self._held.clear()
        self._draw(self.series)

    def on_plot_widget_scale_changed(self, event: PlotWidget.ScaleChanged) -> None:
        """Keep a zoom while the run goes on."""
        self._held.add(event.plot.id)

    def _draw(self, series: list[Series]) -> None:
        if not self.is_mounted:
            return
        self.series = series
        kl, returns = self.query_one("#history-kl", HistoryPlot), self.query_one("#history-return", HistoryPlot)
        word = "experiments" if self._grouped else "runs" if len(series) > 1 else series[0].label if series else ""
        limits = tuple(dict.fromkeys(item.limits for item in series)) or (DEFAULT_KL_LIMITS,)
        name = " and ".join(dict.fromkeys(item.name for item in limits))
        kl.border_title, returns.border_title = f"{name}, {one_line(word)}", "return"
        kl.set_y_formatter(KLAxis(*limits))
        ids = [value for item in series for value in (*item.updates[:1], *item.updates[-1:])]
        xs = (float(min(ids)), float(max(ids))) if ids else (0.0, 1.0)
        heights = {
            kl: (0.0, max(kl_range(item)[1] for item in limits)),
            returns: headroom(value for item in series for value in item.returns),
        }
        for plot, ys in heights.items():
            plot.clear()
            plot.set_x_formatter(WholeAxis())
            if plot.id not in self._held:
                plot.frame_data(xs, ys)
        if ids:
            self._draw_limits(kl, limits, xs)
            self._draw_curves(kl, returns, heights)
        more = f"\nand {self._left_out} more runs: mark fewer" if self._left_out else ""
        legend = legend_lines(series, grouped=self._grouped) or "no update yet"
        self.query_one("#history-legend", Static).update(legend + more)

    def _style(self, role: str) -> str:
        return rich_colour(self.app.theme_variables[role])

    def _draw_limits(self, kl: HistoryPlot, limits: Sequence[KLLimits], xs: tuple[float, float]) -> None:
        for item in limits:
            kl.rule(item.warning, xs, self._style("role-warn"))
            kl.rule(item.critical, xs, self._style("role-crit"))

    def _draw_curves(
        self, kl: HistoryPlot, returns: HistoryPlot, heights: Mapping[HistoryPlot, tuple[float, float]]
    ) -> None:
        top = heights[kl][1]
        if self._grouped:
            found = groups(self.series)
            self._draw_bands(kl, [_kl_band(members) for members in found], top=top)
            self._draw_bands(returns, [_return_band(members) for members in found])
            return
        for place, item in enumerate(self.series):
            if len(self.series) == 1:
                for plot, ys in heights.items():
                    for x in item.resumes:
                        plot.resume(x, ys, self._style("role-info"))
                kl.stops(item.stops, 0.0, self._style("role-stop"))
            measured = [pair for pair in zip(item.updates, item.kl, strict=True) if not math.isnan(pair[1])]
            broken = [(x, math.nan) for x in item.broken]
            points = sorted([*measured, *broken], key=itemgetter(0))
            self._draw_line(kl, place, points, top=top)
            kl.marks(points, top=top, crit=self._style("role-crit"), bad=self._style("role-bad"))
            self._draw_line(returns, place, list(zip(item.return_updates, item.returns, strict=True)))

    def _colour(self, place: int) -> str:
        return "default" if self.app.theme == MONO.name else _COLOURS[place % len(_COLOURS)]

    def _draw_line(
        self, plot: HistoryPlot, place: int, points: Sequence[tuple[float, float]], *, top: float = math.inf
    ) -> None:
        """Draw a run's line, with its letter at the end, so that lines can be distinguished without colours."""
        finite = [(x, y) for x, y in points if math.isfinite(y)]
        if not finite:
            return
        style = self._colour(place)
        plot.curve(points, style, top=top)
        x, y = finite[-1]
        if len(self.series) > 1:
            plot.scatter([x], [min(y, top)], marker=_LETTERS[place], marker_style=f"bold {style}")

    def _draw_bands(self, plot: HistoryPlot, found: Sequence[Band | None], *, top: float = math.inf) -> None:
        for place, band in enumerate(found):
            if band is None:
                continue
            if band.seeds > 1 and len(band.updates) > 1:
                for edge in (band.low, band.high):
                    plot.curve(list(zip(band.updates, edge, strict=True)), f"dim {self._colour(place)}", top=top)
            self._draw_line(plot, place, list(zip(band.updates, band.mean, strict=True)), top=top)
