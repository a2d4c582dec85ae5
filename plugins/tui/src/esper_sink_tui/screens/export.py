"""The screen on which the user chooses what to export."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from esper_core.reading.rows import METRICS

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.binding import BindingType

__all__ = ["ExportScreen"]


class ExportScreen(ModalScreen[str]):
    """Dismisses with ``svg``, ``all``, a metric's key, or an empty string."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape,q,e", "none", "close")]
    DEFAULT_CSS = """
    ExportScreen { align: center middle; }
    ExportScreen > Vertical {
        width: 60; max-width: 96%; min-width: 16; height: auto; max-height: 90%;
        border: round $role-cursor; padding: 1 2; background: $surface;
    }
    ExportScreen OptionList { height: auto; border: none; min-width: 12; }
    """

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._folder = folder

    def compose(self) -> ComposeResult:
        """The choices."""
        with Vertical() as box:
            box.border_title = "Export"
            yield Static(f"into {self._folder}", markup=False)
            yield OptionList(
                Option("screen as SVG", id="svg"),
                Option("every number of every update as CSV", id="all"),
                *(Option(f"{item.label} as CSV", id=item.key) for item in METRICS),
            )

    @on(OptionList.OptionSelected)
    def _chosen(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(event.option.id or "")

    def action_none(self) -> None:
        """Close without exporting."""
        self.dismiss("")
