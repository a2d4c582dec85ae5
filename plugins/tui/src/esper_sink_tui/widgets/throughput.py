"""Speed, progress and time to go."""

from __future__ import annotations

from typing import ClassVar

from esper_sink_tui.widgets.text_panel import TextPanel

__all__ = ["ThroughputPanel"]


class ThroughputPanel(TextPanel, can_focus=True):
    """Text: :mod:`esper_sink_tui.panels.throughput`."""

    panel: ClassVar[str] = "throughput"
