"""The screen with the end of a run's ``trainer.log``, which follows what is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from textual.containers import VerticalScroll

from esper_core.reading.logtail import log_tail
from esper_core.terminal import one_line
from esper_sink_tui.screens.page import Page

if TYPE_CHECKING:
    from textual.binding import BindingType

    from esper_core.runs import RunDir

__all__ = ["LogScreen"]

_LOOK_S: Final = 0.5


class LogScreen(Page):
    """The last lines of a log. It follows while its end is on the screen; scrolling up stops that, ``end`` resumes it.

    Args:
        run: whose log it is.
        ascii_only: draw with ASCII signs.
    """

    BINDINGS: ClassVar[list[BindingType]] = [("escape,q,o", "dismiss", "close")]
    DEFAULT_CSS = """
    LogScreen > VerticalScroll { height: 94%; }
    """

    def __init__(self, run: RunDir, *, ascii_only: bool = False) -> None:
        super().__init__(f"{one_line(str(run.log_path))} (escape closes, end follows)", ascii_only=ascii_only)
        self._run = run

    def on_mount(self) -> None:
        """Show the end, and look for more."""
        self.look(first=True)
        self.set_interval(_LOOK_S, self.look)

    def look(self, *, first: bool = False) -> None:
        """Read the end of the log again; stay at the end when that is what is shown."""
        box = self.query_one(VerticalScroll)
        follows = first or box.is_vertical_scroll_end
        self.show(log_tail(self._run))
        if follows:
            box.scroll_end(animate=False)
