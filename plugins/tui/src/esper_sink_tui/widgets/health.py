"""The policy's numbers with limits and states."""

from __future__ import annotations

from typing import ClassVar

from esper_sink_tui.widgets.text_panel import TextPanel

__all__ = ["HealthStatusPanel"]


class HealthStatusPanel(TextPanel, can_focus=True):
    """One row a metric. Text: :mod:`esper_sink_tui.panels.health`."""

    panel: ClassVar[str] = "health"
