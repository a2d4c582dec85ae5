"""The number as text."""

from __future__ import annotations

import math
from typing import Final

from esper_core.health.limits import TUIThresholds

__all__ = ["format_kl"]

_KL_LIMITS: Final = (TUIThresholds.KL_WARNING, TUIThresholds.KL_CRITICAL)


def format_kl(kl: float | None) -> str:
    """A KL as people read it.

    4 decimals; ``<0.0001`` for a positive value below half of that; more digits when rounding would show the
    other side of a threshold (0.014996 reads ``0.014996``); ``—`` for None; the word ``non-finite``.
    """
    if kl is None:
        return "—"
    if not math.isfinite(kl):
        return "non-finite"
    if 0 < kl < 0.00005:
        return "<0.0001"
    for digits in range(4, 17):
        text = f"{kl:.{digits}f}"
        shown = float(text)
        if all((shown >= limit) == (kl >= limit) for limit in _KL_LIMITS):
            return "0.0000" if text == "-0.0000" else text
    return repr(kl)
