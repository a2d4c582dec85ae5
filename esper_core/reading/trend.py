"""Where a number is going: the direction of the number, never a judgement. The one trend rule.

The mean of the last three values is compared with the mean of those before them. A change counts when it exceeds a
tenth of the earlier mean and the dead band of the number (0.001 for the KL). Against the update before alone, which
console lines once did, an arrow follows the noise of one rollout. Values that lie, on
average, further than half their mean from it have no direction while the change is less than that distance: they jump,
and neither rising nor steady would be true of them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, TypeAlias

from esper_core.averages import mean
from esper_core.reading.glyphs import ARROWS

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Trend", "arrow", "trend"]

Trend: TypeAlias = Literal["rising", "falling", "steady", ""]
_NEWEST = 3
_LEAST = 5


def trend(values: Iterable[float | None], *, dead_band: float = 0.001) -> Trend:
    """The mean of the last three values against the mean of those before.

    Args:
        values: oldest first; missing and non-finite ones are left out.
        dead_band: the least absolute change that counts; a tenth of the earlier mean counts too, whichever is more.

    Returns:
        ``rising``, ``falling``, ``steady``, or an empty string: below five values, when the newest is none, and for
        values that jump without a direction.
    """
    known = list(values)
    finite = [value for value in known if value is not None and math.isfinite(value)]
    if len(finite) < _LEAST or known[-1] is not finite[-1]:
        return ""
    earlier, newest = finite[:-_NEWEST], finite[-_NEWEST:]
    before = mean(earlier)
    change = mean(newest) - before
    middle = mean(finite)
    spread = mean([abs(value - middle) for value in finite])
    if abs(change) <= spread and spread > max(dead_band, abs(middle) / 2):
        return ""
    if abs(change) <= max(dead_band, abs(before) * 0.1):
        return "steady"
    return "rising" if change > 0 else "falling"


def arrow(values: Iterable[float | None], *, dead_band: float = 0.001) -> str:
    """The trend as one sign, blank below five values."""
    return ARROWS[trend(values, dead_band=dead_band)]
