"""How values lie along the axes of a plot of whole runs: limits or round numbers, logarithms, steps and time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from textual_plot import AxisFormatter, NumericAxisFormatter

from esper_core.reading.numbers import duration, plain, rate
from esper_core.reading.rows import kl_range
from esper_core.reading.series import headroom

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from esper_core.health import KLLimits
    from esper_core.reading.curves import Unit

__all__ = ["SCALES", "KLAxis", "LogAxis", "Scale", "StepsAxis", "TimeAxis", "Upright", "WholeAxis", "across"]

Scale: TypeAlias = Literal["limits", "automatic", "log"]
"""Of the y axis: the fixed range of the KL around its limits, the range of the values, or their logarithms."""
SCALES: Final[tuple[Scale, ...]] = ("limits", "automatic", "log")
_TICKS: Final = 6
_STEPS_S: Final = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)
"""Round lengths of time, seconds."""


class KLAxis(NumericAxisFormatter):
    """Formats the axis: marks the limits by name instead of round numbers.

    Args:
        limits: of the runs on show.
    """

    def __init__(self, *limits: KLLimits) -> None:
        self._names = {item.warning: "warn" for item in limits} | {item.critical: "crit" for item in limits}
        self._top = max(kl_range(item)[1] for item in limits)

    def get_ticks(self, min_: float, max_: float, max_ticks: int = 8) -> list[float]:
        """0, the limits and the top; while zoomed beyond these, round numbers."""
        ticks = [tick for tick in sorted({0.0, *self._names, self._top}) if min_ <= tick <= max_]
        return ticks if len(ticks) > 1 else super().get_ticks(min_, max_, max_ticks)

    def get_labels_for_ticks(self, ticks: Sequence[float]) -> list[str]:
        """The label of a tick: name and value of a limit."""
        return [f"{self._names.get(tick, '')} {_nats(tick)}".strip() for tick in ticks]


def _nats(tick: float) -> str:
    """Four decimals, or two figures of a value that they would not show."""
    text = plain(tick, 4)
    return text.removeprefix("0") if math.isclose(float(text), tick, rel_tol=0.05) else f"{tick:.2g}"


class WholeAxis(NumericAxisFormatter):
    """Update ids: whole numbers, each once."""

    def get_ticks(self, min_: float, max_: float, max_ticks: int = 8) -> list[float]:
        """At most six whole numbers at round distances."""
        del max_ticks
        least = max((max_ - min_) / _TICKS, 1.0)
        power = 10.0 ** math.floor(math.log10(least))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least)
        first = math.ceil(min_ / step)
        return [place * step for place in range(first, math.floor(max_ / step) + 1)]

    def get_labels_for_ticks(self, ticks: Sequence[float]) -> list[str]:
        """Without decimals."""
        return [f"{tick:.0f}" for tick in ticks]


class StepsAxis(WholeAxis):
    """Environment steps in three figures."""

    def get_labels_for_ticks(self, ticks: Sequence[float]) -> list[str]:
        """``50.0k`` for 50,000."""
        return [f"{tick:.0f}" if tick < 10_000 else rate(tick) for tick in ticks]


class TimeAxis(NumericAxisFormatter):
    """Seconds as lengths of time."""

    def get_ticks(self, min_: float, max_: float, max_ticks: int = 8) -> list[float]:
        """At most six, at round distances."""
        del max_ticks
        least = max((max_ - min_) / _TICKS, 1.0)
        step = next((item for item in _STEPS_S if item >= least), math.ceil(least / 86400) * 86400)
        return [float(place * step) for place in range(math.ceil(min_ / step), math.floor(max_ / step) + 1)]

    def get_labels_for_ticks(self, ticks: Sequence[float]) -> list[str]:
        """``5 min``; 0 without a unit."""
        return [duration(tick) if tick >= 1 else "0" for tick in ticks]


class LogAxis(AxisFormatter):
    """Places are decimal logarithms, labels the numbers themselves."""

    def get_ticks(self, min_: float, max_: float, max_ticks: int = 8) -> list[float]:
        """Powers of ten, 2 and 5 times these where there are few; the ends of a range that has neither."""
        first, last = math.floor(min_), math.ceil(max_)
        apart = max(math.ceil((last - first) / max_ticks), 1)
        factors = (1, 2, 5) if last - first <= 2 else (1,)
        ticks = [power + math.log10(factor) for power in range(first, last + 1, apart) for factor in factors]
        inside = [tick for tick in ticks if min_ <= tick <= max_]
        return inside if len(inside) > 1 else [min_ + (max_ - min_) * share for share in (0.1, 0.5, 0.9)]

    def get_labels_for_ticks(self, ticks: Sequence[float]) -> list[str]:
        """Two figures."""
        return [f"{10.0**tick:.2g}" if abs(tick) < 300 else f"1e{tick:.0f}" for tick in ticks]


def across(unit: Unit) -> AxisFormatter:
    """The formatter of an x axis."""
    return {"updates": WholeAxis, "steps": StepsAxis, "time": TimeAxis}[unit]()


class Upright:
    """Where values lie along a y axis.

    Args:
        scale: of the axis.
        values: every value that is drawn.
        fixed: the range of the scale ``limits``; None where there are none, which is drawn as ``automatic``.
    """

    def __init__(self, scale: Scale, values: Iterable[float], *, fixed: tuple[float, float] | None = None) -> None:
        finite = [value for value in values if math.isfinite(value)]
        self.log = scale == "log"
        self._least = min((value for value in finite if value > 0), default=1.0)
        self.below = sum(value <= 0 for value in finite) if self.log else 0
        """Values without a logarithm: they are drawn at the lower edge."""
        if self.log:
            self.bounds = headroom(self.of(value) for value in finite)
        else:
            self.bounds = fixed if scale == "limits" and fixed is not None else headroom(finite)
        self.capped = scale == "limits" and fixed is not None

    def of(self, value: float) -> float:
        """The place of a value; NaN stays NaN."""
        return math.log10(max(value, self._least)) if self.log and math.isfinite(value) else value

    def inside(self, value: float) -> bool:
        """Whether a line at a value would be seen."""
        return (value > 0 or not self.log) and self.bounds[0] <= self.of(value) <= self.bounds[1]
