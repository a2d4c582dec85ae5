"""The list of runs around the one on show."""

from __future__ import annotations

from typing import ClassVar

from esper_sink_tui.widgets.text_panel import TextPanel

__all__ = ["RunsPanel"]


class RunsPanel(TextPanel, can_focus=True):
    """Text: :mod:`esper_sink_tui.panels.runs`."""

    panel: ClassVar[str] = "runs"
