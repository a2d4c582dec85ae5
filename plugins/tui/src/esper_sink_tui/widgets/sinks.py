"""The sinks' queues, losses and lag."""

from __future__ import annotations

from typing import ClassVar

from esper_sink_tui.widgets.text_panel import TextPanel

__all__ = ["SinksPanel"]


class SinksPanel(TextPanel, can_focus=True):
    """Text: :mod:`esper_sink_tui.panels.sinks`."""

    panel: ClassVar[str] = "sinks"
