"""The screen on which the user chooses a metric to plot: typing narrows the list."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.binding import Binding
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from esper_core.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import ComposeResult
    from textual.binding import BindingType

__all__ = ["PickScreen"]


class PickScreen(ModalScreen[str]):
    """Dismisses with the chosen name, or an empty string.

    Args:
        names: to choose from.
        chosen: the one in force.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape", "none", "close"),
        Binding("down", "move(1)", "next", priority=True),
        Binding("up", "move(-1)", "previous", priority=True),
    ]
    DEFAULT_CSS = """
    PickScreen { align: center middle; }
    PickScreen > Vertical {
        width: 60; max-width: 96%; min-width: 16; height: 90%; max-height: 24;
        border: round $role-cursor; padding: 0 1; background: $surface;
    }
    PickScreen Input { height: 3; }
    PickScreen OptionList { height: 1fr; border: none; min-width: 12; }
    """

    def __init__(self, names: Sequence[str], chosen: str) -> None:
        super().__init__()
        self._names = list(names)
        self._chosen = chosen

    def compose(self) -> ComposeResult:
        """A search and the list."""
        with Vertical() as box:
            box.border_title = "Plot which metric? (enter chooses, escape closes)"
            yield Input(placeholder="type a part of its name")
            yield OptionList(*self._options(""))

    def on_mount(self) -> None:
        """Begin at the metric in force."""
        found = self.query_one(OptionList)
        found.highlighted = self._names.index(self._chosen) if self._chosen in self._names else 0
        self.query_one(Input).focus()

    def _options(self, part: str) -> list[Option]:
        return [Option(one_line(name), id=str(at)) for at, name in enumerate(self._names) if part in name.casefold()]

    @on(Input.Changed)
    def _narrow(self, event: Input.Changed) -> None:
        found = self.query_one(OptionList)
        found.clear_options()
        found.add_options(self._options(event.value.strip().casefold()))
        found.highlighted = 0 if found.option_count else None

    @on(Input.Submitted)
    def _take(self) -> None:
        found = self.query_one(OptionList)
        if found.highlighted is not None:
            self._dismiss_with(found.get_option_at_index(found.highlighted))

    @on(OptionList.OptionSelected)
    def _clicked(self, event: OptionList.OptionSelected) -> None:
        self._dismiss_with(event.option)

    def _dismiss_with(self, option: Option) -> None:
        self.dismiss(self._names[int(option.id or 0)])

    def action_move(self, offset: int) -> None:
        """Move in the list while typing goes on."""
        found = self.query_one(OptionList)
        if offset > 0:
            found.action_cursor_down()
        else:
            found.action_cursor_up()

    def action_none(self) -> None:
        """Close without a choice."""
        self.dismiss("")
