"""The text panels as widgets; :mod:`esper_sink_tui.layout` defines position and text by their names."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding

from esper_sink_tui.panels.events import events_panel, shown_events
from esper_sink_tui.widgets.text_panel import TextPanel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.binding import BindingType

    from esper_core.reading.model import ScreenModel
    from esper_core.reading.snapshot import EventEntry
    from esper_sink_tui.layout import Cell
    from esper_sink_tui.lines import Line

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
    """The events, newest first; keys and the wheel scroll to older ones."""

    panel: ClassVar[str] = "events"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "scroll_events(-1)", "newer", show=False),
        Binding("down", "scroll_events(1)", "older", show=False),
        Binding("pageup", "scroll_pages(-1)", "a page newer", show=False),
        Binding("pagedown", "scroll_pages(1)", "a page older", show=False),
    ]

    def __init__(self, *, ascii_only: bool = False) -> None:
        super().__init__(ascii_only=ascii_only)
        self._skipped = 0
        self._newest: EventEntry | None = None
        self._shown: tuple[ScreenModel, Cell] | None = None

    def lines(self, model: ScreenModel, cell: Cell) -> Sequence[Line]:
        """The events; a scrolled log stays at its events while new ones come."""
        entries = shown_events(model.snapshot.events, model.event_filter)
        if self._skipped and self._newest in entries:
            self._skipped += entries.index(self._newest)
        self._newest = entries[0] if entries else None
        self._shown = (model, cell)
        self._skipped = max(min(self._skipped, len(entries) - max(cell.height - 2, 1)), 0)
        return events_panel(model, cell.width, cell.height, skipped=self._skipped, zoomed=cell.zoomed)

    def action_scroll_events(self, by: int) -> None:
        """Scroll by so many events, to older ones when positive."""
        self._skipped = max(self._skipped + by, 0)
        if self._shown is not None:
            self.show(*self._shown)

    def action_scroll_pages(self, by: int) -> None:
        """Scroll by what the panel shows."""
        self.action_scroll_events(by * max(self.size.height - 3, 1))

    def on_mouse_scroll_down(self) -> None:
        """Scroll to older events."""
        self.action_scroll_events(3)

    def on_mouse_scroll_up(self) -> None:
        """Scroll to newer events."""
        self.action_scroll_events(-3)


class StripPanel(TextPanel, can_focus=False):
    """Throughput, sinks and runs in two lines, for the compact layout."""

    panel: ClassVar[str] = "strip"


class OneLine(TextPanel, can_focus=False):
    """The banner of a terminal too small for anything else."""

    panel: ClassVar[str] = "line"
