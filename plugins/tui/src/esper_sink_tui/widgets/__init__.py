"""Sanctum's widgets, one a file: places for the lines that the pure panels make, and the plot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from esper_sink_tui.widgets.banner import StatusBanner
from esper_sink_tui.widgets.events import EventsPanel
from esper_sink_tui.widgets.heads import HeadsPanel
from esper_sink_tui.widgets.health import HealthStatusPanel
from esper_sink_tui.widgets.one_line import OneLine
from esper_sink_tui.widgets.runs import RunsPanel
from esper_sink_tui.widgets.sinks import SinksPanel
from esper_sink_tui.widgets.strip import StripPanel
from esper_sink_tui.widgets.text_panel import TextPanel
from esper_sink_tui.widgets.throughput import ThroughputPanel

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "PANEL_WIDGETS",
    "EventsPanel",
    "HeadsPanel",
    "HealthStatusPanel",
    "OneLine",
    "RunsPanel",
    "SinksPanel",
    "StatusBanner",
    "StripPanel",
    "TextPanel",
    "ThroughputPanel",
]

PANEL_WIDGETS: Final[Mapping[str, type[TextPanel]]] = {
    "banner": StatusBanner,
    "health": HealthStatusPanel,
    "heads": HeadsPanel,
    "throughput": ThroughputPanel,
    "runs": RunsPanel,
    "sinks": SinksPanel,
    "events": EventsPanel,
    "strip": StripPanel,
    "line": OneLine,
}
"""By the names of :mod:`esper_sink_tui.layout`; the plot is a widget of another kind, imported when first shown."""
