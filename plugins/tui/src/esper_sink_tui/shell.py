"""Shell: what every part of the app shares: the watched runs, the model on the screen, the panels' places."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.app import App

from esper_sink_tui.panels import PANELS
from esper_sink_tui.widgets import TextPanel

if TYPE_CHECKING:
    from esper_core.reading.model import ScreenModel
    from esper_sink_tui.layout import Cell
    from esper_sink_tui.watch import Watch

__all__ = ["Shell"]


class Shell(App[None]):
    """The app without its keys.

    Args:
        watch: the runs.
        ascii_only: draw with ASCII signs and without the plot widget.
    """

    def __init__(self, watch: Watch, *, ascii_only: bool = False) -> None:
        super().__init__()
        self.watch_runs = watch
        self.ascii_only = ascii_only
        self.set_class(ascii_only, "-ascii")
        self.model: ScreenModel = watch.model()
        self._cells: dict[str, Cell] = {}

    def draw(self) -> None:
        """Take the current model."""
        self.model = self.watch_runs.model()

    def _focused_name(self) -> str:
        """The panel in focus; the health panel when none is."""
        focused = self.focused
        if isinstance(focused, TextPanel) and focused.panel in PANELS:
            return focused.panel
        return "health"
