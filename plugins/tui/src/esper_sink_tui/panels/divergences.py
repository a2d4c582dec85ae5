"""What the run's library also calls KL, as text: two lines each, values and what they compare. Never a level."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_core.health import format_kl
from esper_core.reading.divergences import compared, newest_divergences
from esper_core.reading.glyphs import FOLLOW
from esper_core.terminal import one_line
from esper_sink_tui.lines import frame, line

if TYPE_CHECKING:
    from esper_core.reading.divergences import SeenDivergence
    from esper_core.reading.model import ScreenModel
    from esper_core.reading.snapshot import SanctumSnapshot
    from esper_sink_tui.lines import Line

__all__ = ["divergence_lines", "divergences_panel"]


def divergences_panel(model: ScreenModel, width: int, height: int, *, zoomed: bool = False) -> list[Line]:
    """The newest of each divergence; those that do not fit are counted in the title."""
    body = divergence_lines(model.snapshot)
    room = max(height - 2, 0) // 2 * 2
    hidden = max(len(body) - room, 0) // 2
    hint = f"{hidden} more{'' if zoomed else ': z zooms'}" if hidden else "never a level"
    if not body:
        body = [line(("the run has told of none", "dim"))]
    return frame("OTHER DIVERGENCES", hint, body, width, height)


def divergence_lines(snapshot: SanctumSnapshot) -> list[Line]:
    """Two lines a divergence: name and values, and what it compares with what."""
    return [item for seen in newest_divergences(snapshot) for item in _pair(seen, snapshot)]


def _pair(seen: SeenDivergence, snapshot: SanctumSnapshot) -> tuple[Line, Line]:
    found, last = seen.divergence, snapshot.last
    decision, step = ("token", "sequence") if last is not None and last.granularity == "token" else ("decision", "step")
    values = f"{format_kl(found.per_decision)} per {decision}  {format_kl(found.per_step)} per {step}"
    late = f", of update {seen.update_id}" if seen.update_id != snapshot.updates else ""
    return (
        line((one_line(found.name), ""), f"  {values}"),
        line((f"{FOLLOW} {one_line(compared(found))}{late}", "dim")),
    )
