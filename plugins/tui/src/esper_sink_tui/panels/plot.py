"""KL by update as text: for ``--once``, for ASCII terminals, and as what copying the plot copies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from esper_core.health import format_kl
from esper_core.reading.rows import kl_range
from esper_sink_tui.lines import frame, line
from esper_sink_tui.spark import columns

if TYPE_CHECKING:
    from esper_core.reading.model import ScreenModel
    from esper_sink_tui.lines import Line

__all__ = ["plot_panel", "plot_title"]

_AXIS: Final = 6


def plot_title(model: ScreenModel) -> str:
    """What the plot shows."""
    return f"{model.snapshot.tamiyo.limits.name.upper()} BY UPDATE, LAST {len(model.snapshot.recent)}"


def plot_panel(model: ScreenModel, width: int, height: int) -> list[Line]:
    """Columns over the fixed range, with the rows of the two limits named on the axis."""
    room, rows = width - 4 - _AXIS - 1, height - 3
    recent = model.snapshot.recent
    if rows < 1 or room < 1 or not recent:
        return frame("KL BY UPDATE", "h history", [line(("no update yet", "dim"))], width, height)
    limits = model.snapshot.tamiyo.limits
    lo, hi = kl_range(limits)
    drawn = columns([item.judged_kl(limits.on) for item in recent], lo, hi, room, rows)
    names = {_row_of(limits.warning, hi, rows): "warn", _row_of(limits.critical, hi, rows): "crit"}
    body = []
    for index, text in enumerate(drawn):
        top = (rows - index) / rows * hi
        label = names.get(index, f".{round(top * 1000):03d}" if rows <= 12 or index % 2 == 0 else "")
        body.append(
            line((f"{label:>{_AXIS - 1}} ", "warn" if label in {"warn", "crit"} else "dim"), ("│", "frame"), text)
        )
    shown = recent[-room:]
    last = format_kl(recent[-1].judged_kl(limits.on), limits=limits)
    foot = f"update {shown[0].update_id} to {shown[-1].update_id}, last {last}"
    body.append(line((f"{'':{_AXIS}} {foot}", "dim")))
    return frame(plot_title(model), "h history", body, width, height)


def _row_of(value: float, top: float, rows: int) -> int:
    """The row from the top that a value lies in, of a plot from 0 to ``top``."""
    return rows - 1 - min(int(value / top * rows), rows - 1)
