"""The screen with the changes of the verdict since the viewer opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from esper_core.reading.glyphs import VERDICTS, to_ascii
from esper_core.reading.numbers import clock
from esper_core.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable

    from textual.app import ComposeResult
    from textual.binding import BindingType

    from esper_core.reading.alerts import Alert

__all__ = ["AlertsScreen", "alert_lines"]


def alert_lines(history: Iterable[Alert]) -> str:
    """The changes as text, newest first."""
    lines = []
    for item in reversed(list(history)):
        sign = VERDICTS[item.now]
        came = f" (was {item.before.value})" if item.before is not None else ""
        where = f"{clock(item.time_ns)}  {sign.glyph} {item.now.value}{came}"
        lines.append(f"{where}  {one_line(item.run)} update {item.update_id}\n          {one_line(item.reason)}")
    return "\n".join(lines) or "the verdict has not changed since the viewer opened"


class AlertsScreen(ModalScreen[None]):
    """A scrolling list."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape,q,a", "dismiss", "close")]
    DEFAULT_CSS = """
    AlertsScreen { align: center middle; }
    AlertsScreen > VerticalScroll {
        width: 96; max-width: 96%; height: auto; max-height: 90%;
        border: round $role-cursor; padding: 1 2; background: $surface;
    }
    """

    def __init__(self, history: Iterable[Alert], *, ascii_only: bool = False) -> None:
        super().__init__()
        self._text = alert_lines(history)
        if ascii_only:
            self._text = "\n".join(to_ascii(item) for item in self._text.split("\n"))

    def compose(self) -> ComposeResult:
        """One scrolling text."""
        with VerticalScroll() as box:
            box.border_title = "Changes of the verdict (escape closes)"
            yield Static(self._text, markup=False)
