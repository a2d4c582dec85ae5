"""HeatMap: the heads' KL over a whole run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_core.reading.curves import head_columns
from esper_sink_tui.panels.heatmap import heat_lines, heat_room
from esper_sink_tui.widgets.text_panel import TextPanel

if TYPE_CHECKING:
    from esper_core.reading.series import Series

__all__ = ["HeatMap"]


class HeatMap(TextPanel):
    """A map of one run, as wide and high as its place."""

    DEFAULT_CSS = """
    HeatMap {
        position: relative; height: 1fr; width: 1fr;
        border: solid $role-frame; border-title-style: bold; border-title-color: $role-title;
    }
    """

    def draw(self, run: Series | None, *, cursor: int | None = None) -> None:
        """Draw a run's heads; nothing for None."""
        width, height = self.size
        if run is None or width < 1 or height < 1:
            return
        columns = head_columns(run, heat_room(width))
        self.show_lines(heat_lines(columns, run.limits, (width, height), cursor=cursor))
