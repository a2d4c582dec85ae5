"""KL and any metric over whole runs: the history of one, and several overlaid, alone or grouped by experiment."""

from __future__ import annotations

import time
from bisect import bisect_left
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Final

from textual.binding import Binding
from textual.containers import Vertical
from textual.screen import Screen
from textual.widgets import Footer, Static

from esper_core.health import DEFAULT_KL_LIMITS
from esper_core.reading.curves import RETURN, SMOOTHING, UNITS, places, plottable
from esper_core.reading.glyphs import to_ascii
from esper_core.reading.seriesreader import SeriesReader
from esper_core.terminal import one_line
from esper_sink_tui.keys import PLOT_KEYS, shown
from esper_sink_tui.screens.drawing import COLOURS, COLOURS_ON_LIGHT, Drawing, View
from esper_sink_tui.screens.legend import cursor_lines, legend_lines, rows_of
from esper_sink_tui.screens.pick import PickScreen
from esper_sink_tui.theme import MONO, rich_colour
from esper_sink_tui.widgets.axes import SCALES
from esper_sink_tui.widgets.heat_map import HeatMap
from esper_sink_tui.widgets.history_plot import HistoryPlot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import ComposeResult
    from textual.events import Click
    from textual_plot import PlotWidget

    from esper_core.reading.series import Series
    from esper_sink_tui.watched import Watched

__all__ = ["PlotsScreen"]

_MOST: Final = 8
_LOOK_S: Final = 1.0
"""Seconds between two looks whether a run has gone on."""
_REST: Final = 10.0
"""Reading takes at most one part in so many of the time."""
_X_NAMES: Final = {"updates": "by update", "steps": "by environment step", "time": "by time since the first update"}


class PlotsScreen(Screen[None]):
    """Two plots and a legend, read again while the runs go on. The mouse wheel zooms, dragging moves, a click points.

    Args:
        runs: one run for its history, several to compare them.
        ascii_only: draw with ASCII signs.
    """

    BINDINGS: ClassVar[list[Any]] = [
        # Before the plots' own keys: arrows move the cursor, not the plot.
        Binding(
            key.key,
            key.action,
            key.footer or key.text,
            show=bool(key.footer),
            key_display=shown(key),
            priority=not key.key.startswith("escape"),
        )
        for key in PLOT_KEYS
        if key.action
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

    def __init__(self, runs: Sequence[Watched], *, ascii_only: bool = False) -> None:
        super().__init__()
        self._runs = list(runs)[:_MOST]
        self._readers = [SeriesReader(item.source) for item in self._runs]
        self._left_out = max(len(runs) - _MOST, 0)
        self._ascii = ascii_only
        self._read_at: list[int] = []
        self._reading = False
        self._due = 0.0
        self._zoomed = False
        self._heads = False
        self._legend_rows: int | None = None
        self._drawing: Drawing | None = None
        self.view = View()
        self.cursor: int | None = None
        """The update of the first run that the cursor stands on."""
        self.series: list[Series] = []

    def compose(self) -> ComposeResult:
        """KL above, a metric or the map of the heads below, then the legend."""
        with Vertical():
            yield HistoryPlot("history-kl", ascii_only=self._ascii)
            yield HistoryPlot("history-return", ascii_only=self._ascii)
            yield HeatMap(ascii_only=self._ascii)
            yield Static("reading the whole journal ...", id="history-legend", markup=False)
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Read in the background, now and whenever a run has gone on."""
        self.query_one(HeatMap).display = False
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
        series = [
            reader.read(
                item.snapshot,
                group=item.group,
                heard=item.timeline.updates() if item.directory is None else (),
                evaluations=item.timeline.evaluations(),
            )
            for reader, item in zip(self._readers, self._runs, strict=True)
        ]
        self._due = time.monotonic() + _REST * (time.monotonic() - began)
        self._reading = False
        self.app.call_from_thread(self._draw, series)

    # --- drawing ------------------------------------------------------------------------------

    def _draw(self, series: list[Series]) -> None:
        if not self.is_mounted:
            return
        self.series = series
        self._drawing = Drawing(series, self.view, style=self._style, colours=self._colours())
        self._draw_kl(self._drawing)
        self._draw_below(self._drawing)
        self._point()

    def _colours(self) -> Sequence[str]:
        if self.app.theme == MONO.name:
            return ()
        return COLOURS if self.app.current_theme.dark else COLOURS_ON_LIGHT

    def _draw_kl(self, drawing: Drawing) -> None:
        series, kl = self.series, self.query_one("#history-kl", HistoryPlot)
        limits = tuple(dict.fromkeys(item.limits for item in series)) or (DEFAULT_KL_LIMITS,)
        missing = drawing.kl(kl, limits, framed=not self._zoomed)
        word = "experiments" if self.view.grouped else "runs" if len(series) > 1 else series[0].label if series else ""
        name = " and ".join(dict.fromkeys(item.name for item in limits))
        kl.border_title = self._drawn(f"{name}, {one_line(word)}{self._how(missing)}")

    def _draw_below(self, drawing: Drawing) -> None:
        """The metric below; nothing while the map is there."""
        if self._heads:
            return
        below = self.query_one("#history-return", HistoryPlot)
        missing = drawing.metric(below, framed=not self._zoomed)
        played = self.view.metric == RETURN and any(item.evaluations for item in self.series)
        title = f"{one_line(self.view.metric)}{' and evaluations ◆' if played else ''}{self._how(missing)}"
        below.border_title = self._drawn(title)

    def _how(self, missing: int) -> str:
        """What differs from a plain plot, for its title."""
        parts = [
            _X_NAMES[self.view.unit],
            *(["log"] if self.view.scale == "log" else ["automatic"] if self.view.scale == "automatic" else []),
            *([f"smoothed {self.view.weight:g}"] if self.view.weight else []),
            *([f"{missing} not above 0"] if missing else []),
        ]
        return f", {', '.join(parts)}"

    def _drawn(self, text: str) -> str:
        return "\n".join(to_ascii(item) for item in text.split("\n")) if self._ascii else text

    def _style(self, role: str) -> str:
        return rich_colour(self.app.theme_variables[role])

    def _point(self) -> None:
        """Draw the cursor and the numbers there; without one the newest numbers."""
        x = None if self.cursor is None or self._drawing is None else self._drawing.x_of(self.cursor)
        for plot in self.query(HistoryPlot):
            if plot.display:
                plot.point(x, self._style("role-cursor"))
                plot.settle()
        self._map()
        if self.cursor is None:
            text = legend_lines(self.series, grouped=self.view.grouped, name=self.view.metric) or "no update yet"
        else:
            text = cursor_lines(self.series, self.cursor, name=self.view.metric, heads=self._heads)
        more = f"\nand {self._left_out} more runs: mark fewer" if self._left_out else ""
        legend, text = self.query_one("#history-legend", Static), self._drawn(text + more)
        rows = rows_of(text, self.size.width - 2)
        # A new layout of the screen costs more than all that is drawn for a key.
        legend.update(text, layout=rows is None or rows != self._legend_rows)
        self._legend_rows = rows

    def _map(self) -> None:
        """Draw the heads below the stretch that the KL's plot shows."""
        if self._heads and self._drawing is not None and self.series:
            above = self.query_one("#history-kl", HistoryPlot)
            self.query_one(HeatMap).draw(self.series[0], above=above, place=self._drawing.x_of, cursor=self.cursor)

    def on_plot_widget_scale_changed(self, event: PlotWidget.ScaleChanged) -> None:
        """Keep a zoom while the run goes on; both plots show the same stretch."""
        self._zoomed = True
        for plot in self.query(HistoryPlot):
            if plot is not event.plot:
                plot.set_xlimits(event.x_min, event.x_max)
        self._map()

    def on_resize(self) -> None:
        """Draw the map anew; plots do so themselves."""
        if self._heads:
            self.call_after_refresh(self._point)

    # --- keys ---------------------------------------------------------------------------------

    def _put_off(self) -> None:
        """Put the next reading off: one that fell together with a key would draw everything twice before the answer."""
        self._due = max(self._due, time.monotonic() + _LOOK_S)

    def _look(self, view: View, *, whole: bool = False) -> None:
        self.view = view
        self._zoomed = self._zoomed and not whole
        self._put_off()
        self._draw(self.series)

    def action_group(self) -> None:
        """One line a run, or mean and band of each experiment."""
        self._look(replace(self.view, grouped=not self.view.grouped))

    def action_whole(self) -> None:
        """Show the whole runs again after a zoom, without a cursor."""
        self.cursor = None
        self._look(self.view, whole=True)

    def action_scale(self) -> None:
        """Use the next scale of the y axes."""
        self._look(replace(self.view, scale=_next(SCALES, self.view.scale)), whole=True)

    def action_unit(self) -> None:
        """Use the next unit of the x axis."""
        self._look(replace(self.view, unit=_next(UNITS, self.view.unit)), whole=True)

    def action_smooth(self) -> None:
        """Smooth more, or no longer."""
        self._look(replace(self.view, weight=_next(SMOOTHING, self.view.weight)))

    def action_heads(self) -> None:
        """Show the heads' KL as a map, of the first run, or the metric again."""
        self._put_off()
        self._heads = not self._heads
        heat, below = self.query_one(HeatMap), self.query_one("#history-return", HistoryPlot)
        heat.display, below.display = self._heads, not self._heads
        label = one_line(self.series[0].label) if self.series else ""
        limits = self.series[0].limits if self.series else DEFAULT_KL_LIMITS
        heat.border_title = self._drawn(f"KL of each head by update, {label}, limits of the {limits.name}")
        self.call_after_refresh(self._redraw_below)

    def _redraw_below(self) -> None:
        """Once the map or the metric has its place."""
        if self._drawing is not None and self.is_mounted:
            self._draw_below(self._drawing)
            self._point()

    def action_pick(self) -> None:
        """Choose the metric below the KL."""

        def chosen(name: str | None) -> None:
            if name:
                if self._heads:
                    self.action_heads()
                self._look(replace(self.view, metric=name), whole=True)

        self.app.push_screen(PickScreen(plottable(self.series), self.view.metric), chosen)

    def action_move(self, offset: int) -> None:
        """Move the cursor along the drawn updates of the first run; it begins at the last one."""
        known = places(self.series[0]) if self.series else []
        if not known:
            return
        at = len(known) - 1 if self.cursor is None else bisect_left(known, self.cursor) + offset
        self.cursor = known[min(max(at, 0), len(known) - 1)]
        self._point()

    def action_edge(self, first: bool) -> None:
        """Move the cursor to an end."""
        known = places(self.series[0]) if self.series else []
        if known:
            self.cursor = known[0 if first else -1]
            self._point()

    def on_click(self, event: Click) -> None:
        """Move the cursor to the update under the mouse."""
        plot = next((item for item in self.query(HistoryPlot) if item.region.contains_point(event.screen_offset)), None)
        if plot is None or not self.series or self._drawing is None:
            return
        x = plot.place_of(event.screen_x - plot.query_one("#plot").region.x)
        known = places(self.series[0])
        if known:
            drawing = self._drawing
            self.cursor = min(known, key=lambda update_id: abs(drawing.x_of(update_id) - x))
            self._point()


def _next(of: Sequence[Any], now: Any) -> Any:
    return of[(of.index(now) + 1) % len(of)]
