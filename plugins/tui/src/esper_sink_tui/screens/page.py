"""What the screens of scrolling text share: a frame, keys to scroll and to close."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from esper_core.reading.glyphs import to_ascii

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.binding import BindingType

__all__ = ["Page"]


class Page(ModalScreen[None]):
    """A text in a frame. Arrows, page keys, home, end and the wheel scroll it.

    Args:
        title: of the frame.
        text: of as many lines as it has; fit for a terminal.
        ascii_only: draw with ASCII signs.
    """

    BINDINGS: ClassVar[list[BindingType]] = [("escape,q", "dismiss", "close")]
    DEFAULT_CSS = """
    Page { align: center middle; }
    Page > VerticalScroll {
        width: 98%; max-width: 160; min-width: 16; height: auto; max-height: 94%;
        border: round $role-cursor; border-title-style: bold; padding: 0 1; background: $surface;
    }
    Page Static { width: 1fr; }
    """

    def __init__(self, title: str, text: str = "", *, ascii_only: bool = False) -> None:
        super().__init__()
        self._title = title
        self._text = text
        self._ascii = ascii_only

    def compose(self) -> ComposeResult:
        """One scrolling text."""
        with VerticalScroll() as box:
            box.border_title = self._drawn(self._title)
            yield Static(self._drawn(self._text), markup=False)

    def show(self, text: str) -> None:
        """Replace the text."""
        if text != self._text:
            self._text = text
            self.query_one(Static).update(self._drawn(text))

    def _drawn(self, text: str) -> str:
        return "\n".join(to_ascii(item) for item in text.split("\n")) if self._ascii else text
