"""TuiSink: owns the terminal while training runs in a child process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from msgspec import Meta, Struct

from esper_core.hooks import hookimpl

if TYPE_CHECKING:
    from esper_core.hooks import ChildRun

__all__ = ["TuiConfig", "TuiSink"]


class TuiConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[sink.tui]``."""

    theme: Annotated[str, Meta(description="esper, esper-light, esper-mono, or one of Textual's")] = "esper"
    ascii: Annotated[bool, Meta(description="draw with ASCII signs")] = False
    bell: Annotated[bool, Meta(description="ring when the verdict gets worse")] = False
    interval_s: Annotated[float, Meta(description="seconds between lines without a terminal", gt=0)] = 10.0


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
        """Show the child's run until the user leaves. Without a terminal: lines until the training ends."""
        from esper_sink_tui.foreground import show_child  # noqa: PLC0415  # loads Textual only when a screen opens

        return show_child(child, self.config)
