"""Panels as text: each is a pure function of (model, width, height) that fills exactly that many cells.

The app draws them in widgets, ``--once`` prints them, copying a panel copies them, and goldens compare them.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from esper_sink_tui.panels.banner import banner, banner_line
from esper_sink_tui.panels.divergences import divergences_panel
from esper_sink_tui.panels.events import events_panel
from esper_sink_tui.panels.heads import heads_panel
from esper_sink_tui.panels.health import health_panel
from esper_sink_tui.panels.plot import plot_panel
from esper_sink_tui.panels.runs import runs_panel
from esper_sink_tui.panels.sinks import sinks_panel
from esper_sink_tui.panels.throughput import throughput_panel

if TYPE_CHECKING:
    from collections.abc import Callable

    from esper_core.reading.model import ScreenModel
    from esper_sink_tui.lines import Line

__all__ = ["PANELS", "ZOOMED", "banner", "banner_line"]

PANELS: Final[dict[str, Callable[[ScreenModel, int, int], list[Line]]]] = {
    "banner": banner,
    "health": health_panel,
    "plot": plot_panel,
    "heads": heads_panel,
    "throughput": throughput_panel,
    "runs": runs_panel,
    "sinks": sinks_panel,
    "divergences": divergences_panel,
    "events": events_panel,
}
"""The panels by the name that keys, zoom and copy use."""
ZOOMED: Final[dict[str, Callable[[ScreenModel, int, int], list[Line]]]] = {
    "health": partial(health_panel, zoomed=True),
    "heads": partial(heads_panel, zoomed=True),
    "divergences": partial(divergences_panel, zoomed=True),
    "events": partial(events_panel, zoomed=True),
}
"""Those that say something else while they are zoomed: what ``z`` does then."""
