"""The banner of a terminal too small for anything else."""

from __future__ import annotations

from typing import ClassVar

from esper_sink_tui.widgets.text_panel import TextPanel

__all__ = ["OneLine"]


class OneLine(TextPanel, can_focus=False):
    """Text: :func:`esper_sink_tui.panels.banner.one_line`."""

    panel: ClassVar[str] = "line"
