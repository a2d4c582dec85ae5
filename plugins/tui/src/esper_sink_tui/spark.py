"""Sparklines over a fixed range, so that the same height means the same value on every screen. Pure.

With a range from the data (as most sparklines have) a KL of 0.0001 and a critical KL look the same.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from esper_core.reading.glyphs import MISSING, NON_FINITE, SPARK, STOP

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["glyph", "marks", "spark"]


def glyph(value: float | None, lo: float, hi: float) -> str:
    """One sign: eighths of the range, a dot for missing, a cross for NaN and Inf. Values beyond it are clamped."""
    if value is None:
        return MISSING
    if not math.isfinite(value):
        return NON_FINITE
    if not hi > lo:
        return SPARK[0]
    eighth = int((value - lo) / (hi - lo) * len(SPARK)) if lo < value < hi else (0 if value <= lo else len(SPARK) - 1)
    return SPARK[min(max(eighth, 0), len(SPARK) - 1)]


def spark(values: Iterable[float | None], lo: float, hi: float, width: int = 10) -> str:
    """The last ``width`` values, right-aligned in exactly ``width`` cells; blank where there is no update yet."""
    shown = list(values)[-width:] if width > 0 else []
    return "".join(glyph(value, lo, hi) for value in shown).rjust(width)


def marks(flags: Iterable[bool], width: int = 10) -> str:
    """A mark below each True value, for a sparkline of the same width."""
    shown = list(flags)[-width:] if width > 0 else []
    return "".join(STOP if flag else " " for flag in shown).rjust(width)
