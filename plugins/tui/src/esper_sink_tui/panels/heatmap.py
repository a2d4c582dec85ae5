"""Heads over updates as a map of shades: which head drifted when."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from esper_core.health import classify_kl
from esper_core.reading.glyphs import LEVELS, NON_FINITE, SHADES
from esper_core.reading.rows import limit_text
from esper_core.terminal import one_line
from esper_sink_tui.lines import fit_all, line, pad

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper_core.health import KLLimits
    from esper_core.reading.curves import HeadColumn
    from esper_core.reading.glyphs import Role
    from esper_sink_tui.lines import Line, Span

__all__ = ["heat_lines", "heat_room"]

_NAME: Final = 12
"""Columns of a head's name: with those beside it the map begins below the first column of the plot above."""
_TALLEST: Final = 3
"""The largest number of rows of a head."""


def heat_room(width: int) -> int:
    """The columns of a map that is ``width`` wide."""
    return max(width - _NAME - 3, 1)


def heat_lines(
    columns: Sequence[HeadColumn], limits: KLLimits, size: tuple[int, int], *, marked: int | None = None
) -> list[Line]:
    """Rows of each head, one column a stretch of updates, ids and a key below.

    Args:
        columns: at most :func:`heat_room` of them.
        limits: of the run.
        size: columns and rows.
        marked: a column to mark.
    """
    width, height = size
    names = list(dict.fromkeys(head.name for item in columns for head in item.heads))
    if not names:
        return fit_all([line(("no head was measured in the updates that were read", "dim"))], width, height)
    rows = max(height - 3, 1)
    shown = names if len(names) <= rows else names[: max(rows - 1, 1)]
    tall = min(max(rows // len(names), 1), _TALLEST)
    lines = [_row(name, columns, limits, named=not again) for name in shown for again in range(tall)]
    if len(names) > len(shown) and height > 4:
        lines.append(line((f"{'':{_NAME}} and {len(names) - len(shown)} more heads", "dim")))
    axis = "".join("┴" if at == marked else "─" for at in range(len(columns)))
    lines.append(line((f"{'':{_NAME}} └{axis}", "frame")))
    lines.append(line((f"{'':{_NAME}}  {_ids(columns)}", "dim")))
    lines.append(_key(limits))
    return fit_all(lines, width, height)


def _ids(columns: Sequence[HeadColumn]) -> str:
    """Ids below the cells that they begin at, as many as have room."""
    text, last = "", 0
    for at, item in enumerate(columns):
        begins = item.heads and item.first != last
        last = item.first
        shown = str(item.first)
        if begins and (not text or len(text) + 6 <= at <= len(columns) - len(shown)):
            text = text.ljust(at) + shown
    return text


def _row(name: str, columns: Sequence[HeadColumn], limits: KLLimits, *, named: bool) -> Line:
    cells = []
    for item in columns:
        found = next((head.kl for head in item.heads if head.name == name), None)
        cells.append(_cell(math.nan if found is None and item.broken else found, limits))
    return line((f"{pad(one_line(name) if named else '', _NAME)} ", ""), ("│", "frame"), *cells)


def _cell(kl: float | None, limits: KLLimits) -> Span:
    if kl is None:
        return " ", ""
    if not math.isfinite(kl):
        return NON_FINITE, "bad"
    role: Role = LEVELS[classify_kl(kl, limits)].role
    if kl >= limits.critical:
        return SHADES[3], role
    if kl >= limits.warning:
        return SHADES[2], role
    return SHADES[kl >= limits.warning / 2], role


def _key(limits: KLLimits) -> Line:
    """What the shades mean, in the colours that they have."""
    warning, critical = limit_text(limits.warning), limit_text(limits.critical)
    return line(
        (f"{'':{_NAME}}  ", ""),
        (SHADES[0], "ok"),
        (" calm  ", "dim"),
        (SHADES[1], "ok"),
        (" half of warn  ", "dim"),
        (SHADES[2], "warn"),
        (f" ≥ {warning}  ", "dim"),
        (SHADES[3], "crit"),
        (f" ≥ {critical}  ", "dim"),
        (NON_FINITE, "bad"),
        (" NaN/Inf  blank: idle", "dim"),
    )
