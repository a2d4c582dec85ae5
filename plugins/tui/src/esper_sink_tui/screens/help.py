"""Help: keys and signs, made from the table that the bindings are made from."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from esper_core.reading.glyphs import to_ascii
from esper_sink_tui.keys import help_text

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.binding import BindingType

__all__ = ["HelpScreen"]


class HelpScreen(ModalScreen[None]):
    """Keys and signs."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape,q,question_mark", "dismiss", "close")]
    DEFAULT_CSS = """
    HelpScreen { align: center middle; }
    HelpScreen > VerticalScroll {
        width: 84; max-width: 96%; min-width: 16; height: auto; max-height: 92%;
        border: round $role-cursor; border-title-style: bold; padding: 1 2; background: $surface;
    }
    """

    def __init__(self, *, ascii_only: bool = False) -> None:
        super().__init__()
        self._ascii = ascii_only

    def compose(self) -> ComposeResult:
        """One scrolling text."""
        text = help_text()
        if self._ascii:
            text = "\n".join(to_ascii(item) for item in text.split("\n"))
        with VerticalScroll() as box:
            box.border_title = "Sanctum: keys and signs (escape closes)"
            yield Static(text, markup=False)
