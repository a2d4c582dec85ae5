"""The other numbers of one update as text: what the zoomed health panel shows below its rows."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Final

from esper_core.events import PPOUpdatePayload
from esper_core.reading.numbers import MISSING
from esper_core.reading.rows import METRICS
from esper_core.terminal import one_line
from esper_sink_tui.lines import line, pad

if TYPE_CHECKING:
    from esper_core.reading.tamiyo import TamiyoState
    from esper_sink_tui.lines import Line, Span

__all__ = ["detail_lines"]

_ELSEWHERE: Final = frozenset({"heads", "early_stop", "divergences", "health", "update_id"})
_NAME: Final = 21
_VALUE: Final = 14
_COLUMN: Final = _NAME + _VALUE + 3


def detail_lines(payload: PPOUpdatePayload, state: TamiyoState, width: int) -> list[Line]:
    """Field names and unrounded values, in as many columns as fit, read downwards; the rows' own are left out.

    A value that is longer than its column has a line of its own below.
    """
    elsewhere = _ELSEWHERE | {item.field(state) for item in METRICS}
    cells = [
        (item.name, _text(getattr(payload, item.name)))
        for item in fields(PPOUpdatePayload)
        if item.name not in elsewhere
    ]
    long = [cell for cell in cells if len(cell[1]) > _VALUE]
    cells = [cell for cell in cells if len(cell[1]) <= _VALUE]
    columns = max(width // _COLUMN, 1)
    rows = -(-len(cells) // columns)
    found = []
    for row in range(rows):
        parts: list[tuple[str, str]] = cells[row::rows]
        spans: list[tuple[Span, Span]] = [
            ((pad(name, _NAME), "dim"), (pad(text, _VALUE, "right") + "   ", "")) for name, text in parts
        ]
        found.append(line(*(span for pair in spans for span in pair)))
    found.extend(line((pad(name, _NAME), "dim"), text) for name, text in long)
    return found


def _text(value: object) -> str:
    """A value as Python prints it, floats with six significant digits."""
    if value is None or value == "":
        return MISSING
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, tuple):
        return " ".join(f"{item:.2g}" for item in value) or MISSING
    return one_line(str(value))
