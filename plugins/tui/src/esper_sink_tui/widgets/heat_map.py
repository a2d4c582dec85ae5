"""HeatMap: the heads' KL over a whole run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_core.reading.curves import head_columns
from esper_sink_tui.panels.heatmap import heat_lines, heat_room
from esper_sink_tui.widgets.text_panel import TextPanel

if TYPE_CHECKING:
    from collections.abc import Callable

    from esper_core.reading.series import Series
    from esper_sink_tui.widgets.history_plot import HistoryPlot

__all__ = ["HeatMap"]


class HeatMap(TextPanel):
    """A map of one run, as wide and high as its place."""

    DEFAULT_CSS = """
    HeatMap {
        position: relative; height: 1fr; width: 1fr;
        border: solid $role-frame; border-title-style: bold; border-title-color: $role-title;
    }
    """

    def draw(
        self, run: Series | None, *, above: HistoryPlot, place: Callable[[int], float], cursor: int | None
    ) -> None:
        """Draw a run's heads, each column below that of the plot above; nothing for None.

        Args:
            run: the run.
            above: the plot.
            place: where an update lies on its x axis.
            cursor: the update to mark.
        """
        width, height = self.size
        if run is None or width < 1 or height < 1:
            return

        def column_of(update_id: int) -> int:
            return above.column_of(place(update_id))

        columns = head_columns(run, heat_room(width), column_of)
        marked = column_of(cursor) if cursor is not None else None
        self.show_lines(heat_lines(columns, run.limits, (width, height), marked=marked))
