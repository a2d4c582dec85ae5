"""Throughput, sinks and runs in two lines, for the compact layout."""

from __future__ import annotations

from typing import ClassVar

from esper_sink_tui.widgets.text_panel import TextPanel

__all__ = ["StripPanel"]


class StripPanel(TextPanel, can_focus=False):
    """Text: :func:`esper_sink_tui.layout.strip_lines`."""

    panel: ClassVar[str] = "strip"
