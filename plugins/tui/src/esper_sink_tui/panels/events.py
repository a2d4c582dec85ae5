"""The event log as text, newest first, so that the newest line is always in the same place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from esper_core.reading.glyphs import NON_FINITE, STOP
from esper_core.reading.numbers import clock
from esper_core.terminal import one_line
from esper_sink_tui.lines import fit_all, frame, line, pad

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper_core.reading.glyphs import Role
    from esper_core.reading.model import EventFilter, ScreenModel
    from esper_core.reading.snapshot import EventEntry, EventTone
    from esper_sink_tui.lines import Line

__all__ = ["event_line", "events_panel", "shown_events"]

_FRAMED: Final = 4

_TONES: Final[dict[EventTone, tuple[str, str, Role]]] = {
    "info": ("·", "info", "dim"),
    "good": ("●", "calm", "ok"),
    "warning": ("▲", "warn", "warn"),
    "critical": ("✖", "crit", "crit"),
    "non_finite": (NON_FINITE, "NaN", "bad"),
    "stop": (STOP, "stop", "stop"),
}


def shown_events(entries: Sequence[EventEntry], keep: EventFilter) -> list[EventEntry]:
    """The entries a filter keeps, newest first."""
    return [entry for entry in reversed(entries) if keep == "all" or entry.tone != "info"]


def event_line(entry: EventEntry) -> Line:
    """One entry: time, sign, word, source, update and text."""
    glyph, word, role = _TONES[entry.tone]
    number = str(entry.update_id) if entry.update_id is not None else ""
    return line(
        (f"{clock(entry.time_ns)} ", "dim"),
        (f"{glyph} {pad(word, 5)}", role),
        (f"{pad(one_line(entry.source), 11)}{pad(number, 7, 'right')}  ", "dim"),
        one_line(entry.text),
    )


def events_panel(model: ScreenModel, width: int, height: int, *, skipped: int = 0, zoomed: bool = False) -> list[Line]:
    """The newest events that fit, or older ones.

    Args:
        model: of the screen.
        width: cells.
        height: cells.
        skipped: newest events that are scrolled out of sight.
        zoomed: whether the panel has the screen for itself.
    """
    entries = shown_events(model.snapshot.events, model.event_filter)[skipped:]
    if height < _FRAMED:
        return fit_all([event_line(entry) for entry in entries[:height]], width, height)
    body = [event_line(entry) for entry in entries[: height - 2]]
    if not body:
        body = [line(("nothing yet" if model.event_filter == "all" else "nothing notable yet", "dim"))]
    title = "EVENTS" if model.event_filter == "all" else "EVENTS, NOTABLE ONLY"
    if skipped:
        title += f", {skipped} NEWER"
    below = len(entries) - (height - 2)
    hint = "l level  enter back" if zoomed else "l level  enter all"
    if below > 0:
        hint += f", {below} older"
    return frame(title, hint, body, width, height)
