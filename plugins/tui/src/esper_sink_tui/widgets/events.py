"""The newest events."""

from __future__ import annotations

from typing import ClassVar

from esper_sink_tui.widgets.text_panel import TextPanel

__all__ = ["EventsPanel"]


class EventsPanel(TextPanel, can_focus=True):
    """Text: :mod:`esper_sink_tui.panels.events`."""

    panel: ClassVar[str] = "events"
