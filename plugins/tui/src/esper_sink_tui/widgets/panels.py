"""The text panels as widgets; :mod:`esper_sink_tui.layout` defines position and text by their names."""

from __future__ import annotations

from typing import ClassVar

from esper_sink_tui.widgets.text_panel import TextPanel

__all__ = [
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
    "ThroughputPanel",
]


class StatusBanner(TextPanel, can_focus=False):
    """Verdict, why, what next, early stop."""

    panel: ClassVar[str] = "banner"


class HealthStatusPanel(TextPanel, can_focus=True):
    """The policy's numbers with limits and states."""

    panel: ClassVar[str] = "health"


class PlotPanel(TextPanel, can_focus=True):
    """KL and return by update."""

    panel: ClassVar[str] = "plot"


class HeadsPanel(TextPanel, can_focus=True):
    """The heads' share of the KL, or their entropy."""

    panel: ClassVar[str] = "heads"


class ThroughputPanel(TextPanel, can_focus=True):
    """Speed, progress and time to go."""

    panel: ClassVar[str] = "throughput"


class RunsPanel(TextPanel, can_focus=True):
    """The list of runs around the selected one."""

    panel: ClassVar[str] = "runs"


class SinksPanel(TextPanel, can_focus=True):
    """The sinks' queues, losses and lag."""

    panel: ClassVar[str] = "sinks"


class DivergencesPanel(TextPanel, can_focus=True):
    """What the library also calls KL; shown in runs that have it."""

    panel: ClassVar[str] = "divergences"


class EventsPanel(TextPanel, can_focus=True):
    """The newest events."""

    panel: ClassVar[str] = "events"


class StripPanel(TextPanel, can_focus=False):
    """Throughput, sinks and runs in two lines, for the compact layout."""

    panel: ClassVar[str] = "strip"


class OneLine(TextPanel, can_focus=False):
    """The banner of a terminal too small for anything else."""

    panel: ClassVar[str] = "line"
