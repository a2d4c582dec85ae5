"""KL and return over whole runs: the history of one, and several overlaid, alone or grouped by experiment."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Final

from textual.containers import Vertical
from textual.screen import Screen
from textual.widgets import Footer, Static
from textual_hires_canvas import HiResMode
from textual_plot import PlotWidget

from esper_core.health import DEFAULT_KL_LIMITS, format_kl
from esper_core.reading.numbers import plain
from esper_core.reading.rows import kl_range
from esper_core.reading.series import Band, Series, bands, read_series
from esper_core.terminal import one_line
from esper_sink_tui.theme import MONO, rich_colour
from esper_sink_tui.widgets.kl_plot import KLAxis, NarrowPlot, WholeAxis

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import ComposeResult
    from textual.binding import BindingType

    from esper_core.health import KLOn
    from esper_sink_tui.watch import Watched

__all__ = ["PlotsScreen", "groups", "legend_lines"]

_COLOURS: Final = ("#56b4e9", "#e69f00", "#cc79a7", "#f0e442", "#8fc7ec", "#d55e00", "#b8c4d0", "#9e7bb5")
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
_MOST: Final = 8


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
        kl = next((value for value in reversed(item.kl) if not math.isnan(value)), None)
        value = next((value for value in reversed(item.returns) if not math.isnan(value)), None)
        joined = f"  each point the largest of {item.joined}" if item.joined > 1 else ""
        update = item.updates[-1] if item.updates else 0
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
    """Two plots and a legend. The mouse wheel zooms, dragging moves.

    Args:
        runs: one run for its history, several to compare them.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape,q,h,v", "dismiss", "back"),
        ("g", "group", "group by experiment"),
    ]
    DEFAULT_CSS = """
    PlotsScreen PlotWidget {
        height: 1fr; border: solid $role-frame; border-title-style: bold; border-title-color: $role-title;
    }
    PlotsScreen PlotWidget > .plot--axis { color: $role-frame; }
    PlotsScreen PlotWidget > .plot--tick { color: $role-dim; text-style: none; }
    PlotsScreen Static { height: auto; max-height: 8; padding: 0 1; }
    """

    def __init__(self, runs: Sequence[Watched], *, grouped: bool = False) -> None:
        super().__init__()
        self._runs = list(runs)[:_MOST]
        self._left_out = max(len(runs) - _MOST, 0)
        self._grouped = grouped
        self.series: list[Series] = []

    def compose(self) -> ComposeResult:
        """KL above, return below, then the legend."""
        with Vertical():
            yield NarrowPlot(id="history-kl")
            yield NarrowPlot(id="history-return")
            yield Static("reading the whole journal ...", id="history-legend", markup=False)
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Read in the background."""
        self.action_reload()

    def action_reload(self) -> None:
        """Read the runs' journals again."""
        self.run_worker(self._read, thread=True, exclusive=True)

    def _read(self) -> None:
        series = [read_series(item.source, item.snapshot, group=item.group) for item in self._runs]
        self.app.call_from_thread(self._draw, series)

    def action_group(self) -> None:
        """One line a run, or mean and band of each experiment."""
        self._grouped = not self._grouped
        self._draw(self.series)

    def _draw(self, series: list[Series]) -> None:
        if not self.is_mounted:
            return
        self.series = series
        kl, returns = self.query_one("#history-kl", PlotWidget), self.query_one("#history-return", PlotWidget)
        word = "experiments" if self._grouped else "runs" if len(series) > 1 else series[0].label if series else ""
        limits = tuple(dict.fromkeys(item.limits for item in series)) or (DEFAULT_KL_LIMITS,)
        name = " and ".join(dict.fromkeys(item.name for item in limits))
        kl.border_title, returns.border_title = f"{name}, {one_line(word)}", "return"
        top = max(kl_range(item)[1] for item in limits)
        for plot in (kl, returns):
            plot.clear()
            plot.set_x_formatter(WholeAxis())
        kl.set_ylimits(0.0, top)
        kl.set_y_formatter(KLAxis(*limits))
        ends = [value for item in series for value in (*item.updates[:1], *item.updates[-1:])]
        if ends:
            for plot in (kl, returns):
                plot.set_xlimits(min(ends), max(ends) + 1)
            colours = self.app.theme_variables
            sides = [pair for item in limits for pair in ((item.warning, "role-warn"), (item.critical, "role-crit"))]
            for value, role in sides:
                style = rich_colour(colours[role])
                kl.plot([min(ends), max(ends) + 1], [value, value], line_style=style, hires_mode=HiResMode.BRAILLE)
        if self._grouped:
            found = groups(series)
            self._draw_bands(kl, [_kl_band(members) for members in found], top=top)
            self._draw_bands(returns, [_return_band(members) for members in found])
        else:
            for place, item in enumerate(series):
                self._draw_line(kl, place, item.updates, [min(value, top) for value in item.kl])
                self._draw_line(returns, place, item.return_updates, list(item.returns))
        more = f"\nand {self._left_out} more runs: mark fewer" if self._left_out else ""
        legend = legend_lines(series, grouped=self._grouped) or "no update yet"
        self.query_one("#history-legend", Static).update(legend + more)

    def _colour(self, place: int) -> str:
        return "default" if self.app.theme == MONO.name else _COLOURS[place % len(_COLOURS)]

    def _draw_line(self, plot: PlotWidget, place: int, xs: Sequence[float], ys: Sequence[float]) -> None:
        """Draw a run's line, with its letter at the end, so that lines can be distinguished without colours."""
        points = [(x, y) for x, y in zip(xs, ys, strict=True) if math.isfinite(y)]
        if not points:
            return
        style = self._colour(place)
        if len(points) > 1:
            plot.plot([x for x, _ in points], [y for _, y in points], line_style=style, hires_mode=HiResMode.BRAILLE)
        plot.scatter([points[-1][0]], [points[-1][1]], marker=_LETTERS[place], marker_style=f"bold {style}")

    def _draw_bands(self, plot: PlotWidget, found: Sequence[Band | None], *, top: float = math.inf) -> None:
        for place, band in enumerate(found):
            if band is None:
                continue
            dim = f"dim {self._colour(place)}"
            for edge in (band.low, band.high):
                if band.seeds > 1 and len(band.updates) > 1:
                    capped = [min(value, top) for value in edge]
                    plot.plot(band.updates, capped, line_style=dim, hires_mode=HiResMode.BRAILLE)
            self._draw_line(plot, place, band.updates, [min(value, top) for value in band.mean])
