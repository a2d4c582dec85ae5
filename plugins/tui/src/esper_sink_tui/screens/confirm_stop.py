"""The confirmation before a training is stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.binding import BindingType

__all__ = ["ConfirmStop"]


class ConfirmStop(ModalScreen[bool]):
    """Asks for confirmation; any key but ``y`` means no.

    Args:
        subject: names the training.
    """

    BINDINGS: ClassVar[list[BindingType]] = [("y", "answer(True)", "stop it"), ("n,escape,q", "answer(False)", "no")]
    DEFAULT_CSS = """
    ConfirmStop { align: center middle; }
    ConfirmStop > Vertical {
        width: 64; max-width: 96%; min-width: 16; height: auto;
        border: round $role-warn; padding: 1 2; background: $surface;
    }
    """

    def __init__(self, subject: str) -> None:
        super().__init__()
        self._subject = subject

    def compose(self) -> ComposeResult:
        """Question and answers."""
        with Vertical():
            yield Static(f"Stop the training of {self._subject}?", markup=False)
            yield Static(
                "It ends at its next step, writes checkpoint and summary, and can be resumed.\n\n"
                "  y  stop the training\n  n  no, go on",
                markup=False,
            )

    def action_answer(self, yes: bool) -> None:
        """Close with the answer."""
        self.dismiss(yes)
