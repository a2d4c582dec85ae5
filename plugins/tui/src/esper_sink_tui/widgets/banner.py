"""The verdict and what to do about it."""

from __future__ import annotations

from typing import ClassVar

from esper_sink_tui.widgets.text_panel import TextPanel

__all__ = ["StatusBanner"]


class StatusBanner(TextPanel, can_focus=False):
    """Four lines: verdict, why, what next, early stop. Text: :mod:`esper_sink_tui.panels.banner`."""

    panel: ClassVar[str] = "banner"
