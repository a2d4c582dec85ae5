"""Whole-run series for history and comparison: read once, reduced to what a screen can show."""

from __future__ import annotations

import math
import sys
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

from esper_core.averages import deviation, mean
from esper_core.health import DEFAULT_KL_LIMITS, KLLimits

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from esper_core.events import PolicyEvaluated, PPOUpdatePayload, TelemetryEvent

    Update = TelemetryEvent[PPOUpdatePayload]

__all__ = ["Band", "Extremes", "Series", "bands", "extremes", "headroom", "peaks"]


@dataclass(frozen=True, slots=True)
class Series:
    """One run's KL and return over its updates.

    Attributes:
        label: the run's.
        group: its experiment's.
        updates: update ids of the KL.
        kl: the judged one, nats; NaN where not measured. Where points were joined, the largest of each group.
        return_updates: update ids of the returns, fewer than of the KL in a long run.
        returns: mean return of the last 100 episodes, or of the rollout.
        limits: of the run: they say which KL it is.
        joined: updates that one point of the KL stands for.
        broken: update ids whose KL was NaN or Inf.
        resumes: update ids with which a later attempt began.
        stops: update ids that stopped early, of the updates whose return was read and of the newest ones.
        last: id and judged KL of the newest update, nats; None as KL where it was not measured.
        read: the updates that were read whole, ascending: all of a short run, every so many of a long one.
        evaluations: ascending by update.
    """

    label: str
    group: str
    updates: tuple[int, ...]
    kl: tuple[float, ...]
    return_updates: tuple[int, ...]
    returns: tuple[float, ...]
    joined: int = 1
    limits: KLLimits = DEFAULT_KL_LIMITS
    broken: tuple[int, ...] = ()
    resumes: tuple[int, ...] = ()
    stops: tuple[int, ...] = ()
    last: tuple[int, float | None] | None = None
    read: tuple[Update, ...] = ()
    evaluations: tuple[PolicyEvaluated, ...] = ()


@dataclass(frozen=True, slots=True)
class Band:
    """Several seeds of one experiment: mean, and the standard deviation around it, at shared update ids."""

    label: str
    seeds: int
    updates: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def _largest(values: Sequence[float]) -> int:
    """Place of the first largest one; NaN is less than any."""
    if any(map(math.isnan, values)):
        return max(range(len(values)), key=lambda place: -math.inf if math.isnan(values[place]) else values[place])
    return values.index(max(values))


def peaks(xs: Sequence[int], ys: Sequence[float], points: int) -> tuple[list[int], list[float], int]:
    """Join neighbours so that about ``points`` remain: the largest of each group, since a peak must not be lost."""
    width = max(math.ceil(len(xs) / max(points, 1)), 1)
    if width == 1:
        return list(xs), list(ys), 1
    out_x: list[int] = []
    out_y: list[float] = []
    for start in range(0, len(xs), width):
        group = ys[start : start + width]
        best = _largest(group)
        out_x.append(xs[start + best])
        out_y.append(group[best])
    return out_x, out_y, width


def headroom(values: Iterable[float]) -> tuple[float, float]:
    """Ends of an axis on which every finite value lies inside, 5 % of their range from the edge; 0 to 1 for none."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return 0.0, 1.0
    low, high = min(finite), max(finite)
    # In halves, so that no difference overflows.
    room = 0.1 * (high / 2 - low / 2) or 0.05 * max(abs(high), 1.0)
    largest = sys.float_info.max
    return max(low - room, -largest), min(high + room, largest)


@dataclass(frozen=True, slots=True)
class Extremes:
    """Neighbouring updates as one.

    Attributes:
        first: update id of the first of them.
        last: update id of the last.
        low: (update id, value) of the smallest value; NaN where none was measured.
        high: likewise of the largest.
    """

    first: int
    last: int
    low: tuple[int, float]
    high: tuple[int, float]

    @property
    def points(self) -> tuple[tuple[int, float], ...]:
        """The two in the order of their updates, or the one that is both."""
        return (self.low,) if self.low[0] == self.high[0] else tuple(sorted((self.low, self.high)))


def extremes(xs: Sequence[int], ys: Sequence[float], groups: int) -> list[Extremes]:
    """Join neighbours so that at most ``groups`` remain, each with its smallest and its largest value."""
    width = max(math.ceil(len(xs) / max(groups, 1)), 1)
    found = []
    for start in range(0, len(xs), width):
        places = range(start, min(start + width, len(xs)))
        known = [place for place in places if not math.isnan(ys[place])] or [start]
        low, high = min(known, key=ys.__getitem__), max(known, key=ys.__getitem__)
        found.append(Extremes(xs[start], xs[places[-1]], (xs[low], ys[low]), (xs[high], ys[high])))
    return found


def bands(runs: Iterable[tuple[str, Sequence[float], Sequence[float]]], *, points: int = 100) -> list[Band]:
    """Seeds of one group as mean and standard deviation, on a grid that every seed of the group reaches.

    Args:
        runs: (group, places along the x axis, values) of each run.
        points: of the grid.
    """
    groups: dict[str, list[tuple[list[float], list[float]]]] = {}
    for label, xs, ys in runs:
        finite = [(x, y) for x, y in zip(xs, ys, strict=True) if math.isfinite(y)]
        if finite:
            groups.setdefault(label, []).append(([x for x, _ in finite], [y for _, y in finite]))
    found = []
    for label, members in groups.items():
        first = max(xs[0] for xs, _ in members)
        last = min(xs[-1] for xs, _ in members)
        if last < first:
            continue
        count = min(points, int(last - first) + 1)
        grid = [first + (last - first) * place / max(count - 1, 1) for place in range(count)]
        columns = [[_at(xs, ys, x) for xs, ys in members] for x in grid]
        middles = [mean(column) for column in columns]
        spread = [deviation(column) for column in columns]
        found.append(
            Band(
                label=label,
                seeds=len(members),
                updates=tuple(grid),
                mean=tuple(middles),
                low=tuple(middle - width for middle, width in zip(middles, spread, strict=True)),
                high=tuple(middle + width for middle, width in zip(middles, spread, strict=True)),
            )
        )
    return found


def _at(xs: Sequence[float], ys: Sequence[float], x: float) -> float:
    """Linear between the neighbours."""
    place = bisect_left(xs, x)
    if place >= len(xs):
        return ys[-1]
    if xs[place] == x or place == 0:
        return ys[place]
    share = (x - xs[place - 1]) / (xs[place] - xs[place - 1])
    return ys[place - 1] * (1 - share) + ys[place] * share
