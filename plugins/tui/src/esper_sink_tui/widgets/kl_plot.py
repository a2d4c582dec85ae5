"""KLPlot: KL by update over a fixed range, with the warning, critical and stop lines."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from textual.reactive import reactive
from textual_hires_canvas import HiResMode
from textual_plot import NumericAxisFormatter, PlotWidget

from esper_core.reading.numbers import plain
from esper_core.reading.rows import kl_range
from esper_sink_tui.panels.plot import plot_title
from esper_sink_tui.theme import rich_colour

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.binding import BindingType

    from esper_core.events import PPOUpdatePayload
    from esper_core.health import KLLimits
    from esper_core.reading.model import ScreenModel
    from esper_sink_tui.layout import Cell

__all__ = ["KLAxis", "KLPlot", "NarrowPlot", "WholeAxis"]


class KLAxis(NumericAxisFormatter):
    """Formats the axis: marks the limits by name instead of round numbers.

    Args:
        limits: of the runs on show.
        stop: the stop threshold in force, nats; None when early stopping is off or on the other KL.
    """

    def __init__(self, *limits: KLLimits, stop: float | None = None) -> None:
        self._names = {item.warning: "warn" for item in limits} | {item.critical: "crit" for item in limits}
        self._top = max(kl_range(item)[1] for item in limits)
        if stop is not None and stop not in self._names:
            self._names[stop] = "stop"

    def get_ticks(self, min_: float, max_: float, max_ticks: int = 8) -> list[float]:
        """0, the limits, the stop and the top."""
        del max_ticks
        return [tick for tick in sorted({0.0, *self._names, self._top}) if min_ <= tick <= max_]

    def get_labels_for_ticks(self, ticks: Sequence[float]) -> list[str]:
        """The label of a tick: name and value of a limit."""
        return [f"{self._names.get(tick, '')} {_nats(tick)}".strip() for tick in ticks]


def _nats(tick: float) -> str:
    """Four decimals, or two figures of a value that they would not show."""
    text = plain(tick, 4)
    return text.removeprefix("0") if math.isclose(float(text), tick, rel_tol=0.05) else f"{tick:.2g}"


class WholeAxis(NumericAxisFormatter):
    """Update ids: whole numbers."""

    def get_labels_for_ticks(self, ticks: Sequence[float]) -> list[str]:
        """Without decimals."""
        return [f"{tick:.0f}" for tick in ticks]


class NarrowPlot(PlotWidget, can_focus=True):
    """A plot with small margins. They are set before mounting: a later change would not resize the canvas."""

    margin_top = reactive(0)
    margin_bottom = reactive(1)
    margin_left = reactive(12)


class KLPlot(NarrowPlot, can_focus=True, inherit_bindings=False):
    """The plot of the main screen: the last 120 updates. Arrows step through updates, so panning is by mouse."""

    BINDINGS: ClassVar[list[BindingType]] = []
    DEFAULT_CSS = """
    KLPlot {
        position: absolute;
        border: solid $role-frame;
        border-title-color: $role-title;
        border-title-style: bold;
        border-subtitle-color: $role-dim;
        padding: 0;
    }
    KLPlot:focus { border: solid $role-cursor; }
    KLPlot > .plot--axis { color: $role-frame; }
    KLPlot > .plot--tick { color: $role-dim; text-style: none; }
    """

    def __init__(self) -> None:
        super().__init__(id="plot-panel", allow_pan_and_zoom=False)
        self._drawn: tuple[object, ...] = ()

    def place(self, cell: Cell) -> None:
        """Set the widget's position and size."""
        self.styles.offset = (cell.x, cell.y)
        self.styles.width = cell.width
        self.styles.height = cell.height

    def show(self, model: ScreenModel, cell: Cell) -> bool:
        """Draw the model's recent updates; False when they are the ones already drawn."""
        recent = model.snapshot.recent
        last = recent[-1] if recent else None
        colours = {name: rich_colour(value) for name, value in self.app.theme_variables.items()}
        limits = model.snapshot.tamiyo.limits
        lo, top = kl_range(limits)
        key = (id(last), len(recent), limits, self.app.theme, cell)
        if key == self._drawn:
            return False
        self._drawn = key
        self.border_title = plot_title(model) if recent else f"{limits.name.upper()} BY UPDATE"
        self.clear()
        # The base class resets its limits when it is mounted, so they are set with the data.
        self.set_ylimits(lo, top)
        self.set_x_formatter(WholeAxis())
        stop = last.stop_threshold if last is not None and last.stop_on == limits.on else None
        self.set_y_formatter(KLAxis(limits, stop=stop))
        if not recent:
            return True
        first, final = recent[0].update_id, max(recent[-1].update_id, recent[0].update_id + 1)
        self.set_xlimits(first, final)
        for value, role in ((limits.warning, "role-warn"), (limits.critical, "role-crit")):
            self.plot([first, final], [value, value], line_style=colours[role], hires_mode=HiResMode.BRAILLE)
        if stop is not None and stop not in {limits.warning, limits.critical}:
            self.plot([first, final], [stop, stop], line_style=colours["role-stop"], hires_mode=HiResMode.BRAILLE)
        xs, ys = _line(recent, limits)
        if len(xs) > 1:
            self.plot(xs, ys, line_style=colours["foreground"], hires_mode=HiResMode.BRAILLE)
        elif xs:
            self.scatter(xs, ys, marker_style=colours["foreground"], hires_mode=HiResMode.BRAILLE)
        stops = [item.update_id for item in recent if item.early_stop is not None]
        if stops:
            self.scatter(stops, [lo] * len(stops), marker="▴", marker_style=colours["role-stop"])
        return True


def _line(recent: Sequence[PPOUpdatePayload], limits: KLLimits) -> tuple[list[int], list[float]]:
    """The measured values; those above the range are drawn at its upper edge, and the banner shows the number."""
    top = kl_range(limits)[1]
    measured = ((item.update_id, item.judged_kl(limits.on)) for item in recent)
    points = [(number, min(kl, top)) for number, kl in measured if kl is not None and math.isfinite(kl)]
    return [x for x, _ in points], [y for _, y in points]
