"""The heads' part in the KL, or their entropy."""

from __future__ import annotations

from typing import ClassVar

from esper_sink_tui.widgets.text_panel import TextPanel

__all__ = ["HeadsPanel"]


class HeadsPanel(TextPanel, can_focus=True):
    """One row a head. Text: :mod:`esper_sink_tui.panels.heads`."""

    panel: ClassVar[str] = "heads"
