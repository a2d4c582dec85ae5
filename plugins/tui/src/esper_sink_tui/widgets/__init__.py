"""Sanctum's widgets: they draw the lines of the pure panels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from esper_sink_tui.widgets.panels import (
    DivergencesPanel,
    EventsPanel,
    HeadsPanel,
    HealthStatusPanel,
    OneLine,
    PlotPanel,
    RunsPanel,
    SinksPanel,
    StatusBanner,
    StripPanel,
    ThroughputPanel,
)
from esper_sink_tui.widgets.text_panel import TextPanel

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "PANEL_WIDGETS",
    "DivergencesPanel",
    "EventsPanel",
    "HeadsPanel",
    "HealthStatusPanel",
    "OneLine",
    "PlotPanel",
    "RunsPanel",
    "SinksPanel",
    "StatusBanner",
    "StripPanel",
    "TextPanel",
    "ThroughputPanel",
]

PANEL_WIDGETS: Final[Mapping[str, type[TextPanel]]] = {
    kind.panel: kind
    for kind in (
        StatusBanner,
        HealthStatusPanel,
        PlotPanel,
        HeadsPanel,
        ThroughputPanel,
        RunsPanel,
        SinksPanel,
        DivergencesPanel,
        EventsPanel,
        StripPanel,
        OneLine,
    )
}
"""The text widgets by their names in :mod:`esper_sink_tui.layout`, in the order of the tab key."""
