"""The number as text."""

from __future__ import annotations

import math
from typing import Final

from esper_core.health.limits import DEFAULT_KL_LIMITS, KLLimits

__all__ = ["format_kl"]


_LARGE: Final = 1e6
"""From here on three figures: decimals would fill the line, and a number that is cut reads as another one."""


def format_kl(kl: float | None, *, digits: int = 4, limits: KLLimits = DEFAULT_KL_LIMITS) -> str:
    """A KL as people read it.

    ``digits`` decimals; ``<0.0001`` for a positive value below half of that; more digits when rounding would show the
    other side of a limit (0.014996 reads ``0.014996``), or 0 for what is not; ``1.00e+06`` from a million on; ``—`` for
    None; the word ``non-finite``.

    Args:
        kl: nats.
        digits: decimals: 4 in lines, lists, events and plots; 3 in Sanctum's banner and health panel (TELE-111).
        limits: of the run.
    """
    if kl is None:
        return "—"
    if not math.isfinite(kl):
        return "non-finite"
    if abs(kl) >= _LARGE and abs(kl) > 2 * limits.critical:
        return f"{kl:.2e}"
    smallest = 10.0**-digits
    sides = (limits.warning, limits.critical)
    if 0 < kl < smallest / 2 and all(kl < limit for limit in sides) and smallest <= min(sides):
        return f"<{smallest:.{digits}f}"
    for more in range(digits, 17):
        text = f"{kl:.{more}f}"
        shown = float(text)
        if shown == 0 and kl > 0:
            continue  # below a limit so small that no fixed number of decimals shows it
        if all((shown >= limit) == (kl >= limit) for limit in sides):
            return text.removeprefix("-") if shown == 0 else text
    return repr(kl)
