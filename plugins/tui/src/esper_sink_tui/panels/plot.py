"""KL by update as text: for ``--once``, for ASCII terminals, and as what copying the plot copies."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from esper_core.health import format_kl
from esper_core.reading.rows import kl_range
from esper_sink_tui.lines import frame, line
from esper_sink_tui.spark import columns

if TYPE_CHECKING:
    from esper_core.health import KLLimits
    from esper_core.reading.model import ScreenModel
    from esper_sink_tui.lines import Line

__all__ = ["plot_panel", "plot_title"]

_LABEL: Final = 5
"""Columns of the axis's labels; more where a range needs longer ones."""


def plot_title(model: ScreenModel) -> str:
    """What the plot shows."""
    return f"{model.snapshot.tamiyo.limits.name.upper()} BY UPDATE, LAST {len(model.snapshot.recent)}"


def plot_panel(model: ScreenModel, width: int, height: int) -> list[Line]:
    """Columns over the fixed range, with the rows of the two limits named on the axis."""
    limits = model.snapshot.tamiyo.limits
    lo, hi = kl_range(limits)
    rows = height - 3
    labels = _labels(limits, hi, rows) if rows > 0 else []
    axis = max([_LABEL, *map(len, labels)]) + 1
    room = width - 4 - axis - 1
    recent = model.snapshot.recent
    if rows < 1 or room < 1 or not recent:
        missing = "no journal to draw it from" if model.life.journal.absent else "no update yet"
        return frame("KL BY UPDATE", "h history", [line((missing, "dim"))], width, height)
    drawn = columns([item.judged_kl(limits.on) for item in recent], lo, hi, room, rows)
    named = {_row_of(value, hi, rows) for value in (limits.warning, limits.critical)}
    body = []
    for index, (label, text) in enumerate(zip(labels, drawn, strict=True)):
        body.append(line((f"{label:>{axis - 1}} ", "warn" if index in named else "dim"), ("│", "frame"), text))
    shown = recent[-room:]
    last = format_kl(recent[-1].judged_kl(limits.on), limits=limits)
    foot = f"update {shown[0].update_id} to {shown[-1].update_id}, last {last}"
    body.append(line((f"{'':{axis}} {foot}", "dim")))
    return frame(plot_title(model), "h history", body, width, height)


def _row_of(value: float, top: float, rows: int) -> int:
    """The row from the top that a value lies in, of a plot from 0 to ``top``."""
    return rows - 1 - min(int(value / top * rows), rows - 1)


def _labels(limits: KLLimits, top: float, rows: int) -> list[str]:
    """What stands on the axis at each row, from above: names of limits, else the row's upper edge, nats."""
    every = 1 if rows <= 12 else 2
    names: dict[int, list[str]] = {}
    for value, name in ((limits.warning, "warn"), (limits.critical, "crit")):
        names.setdefault(_row_of(value, top, rows), []).append(name)
    # As fine as a quarter of the step between two labels, and two figures of the top.
    unit = min(top / rows * every / 4, 10.0 ** (math.floor(math.log10(top)) - 1))
    decimals = max(math.ceil(-math.log10(unit) - 1e-9), 0)
    return [
        "/".join(names[index])
        if index in names
        else _tick((rows - index) / rows * top, decimals)
        if index % every == 0
        else ""
        for index in range(rows)
    ]


def _tick(value: float, decimals: int) -> str:
    """A value on the axis: ``.045``, ``1.50``, ``2.3e-07``."""
    if decimals > 6 or value >= 1e6:
        return f"{value:.1e}"
    text = f"{value:.{decimals}f}"
    return text.removeprefix("0") if decimals else text
