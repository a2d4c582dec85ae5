"""TuiSink: owns the terminal while training runs in a child process."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from esper_core.hooks import hookimpl
from esper_sink_tui.config import TuiConfig

if TYPE_CHECKING:
    from esper_core.hooks import ChildRun

__all__ = ["TuiSink"]


class TuiSink:
    """Reads the journal that the trainer writes; receives no events itself.

    Args:
        config: ``[sink.tui]``.
    """

    Config = TuiConfig
    requires: ClassVar[tuple[str, ...]] = ("journal",)

    def __init__(self, config: TuiConfig | None = None) -> None:
        self.config = config if config is not None else TuiConfig()

    @hookimpl
    def esper_foreground(self, child: ChildRun) -> bool | None:
        """Show the child's run until the user leaves. Without a terminal print lines until the training ends."""
        from esper_sink_tui.foreground import show_child  # noqa: PLC0415  # loads Textual only when a screen opens

        return show_child(child, self.config)
