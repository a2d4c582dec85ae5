"""Curves of any metric over a whole run: what can be plotted, along which axis, smoothed, and its value at a place."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from esper_core.health import HealthLevel
from esper_core.reading.returns import return_to_show
from esper_core.reading.table import cell_type, heading, row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from esper_core.events import HeadStats, PPOUpdatePayload
    from esper_core.reading.series import Series, Update

__all__ = [
    "RETURN",
    "SMOOTHING",
    "UNITS",
    "Abscissa",
    "HeadColumn",
    "Moment",
    "Unit",
    "curve",
    "head_columns",
    "moment_at",
    "places",
    "plottable",
    "smoothed",
]

Unit: TypeAlias = Literal["updates", "steps", "time"]
"""What lies along the x axis: update ids, environment steps, or seconds since the first update."""
UNITS: Final[tuple[Unit, ...]] = ("updates", "steps", "time")
RETURN: Final = "return"
"""The metric that stands for the run's return: the mean of the last 100 episodes, else of the rollout."""
SMOOTHING: Final = (0.0, 0.6, 0.9, 0.97)
"""Weights of the past to choose from."""
_NO_METRICS: Final = frozenset({"attempt", "update_id"})


def plottable(runs: Iterable[Series]) -> list[str]:
    """Names of what can be plotted: the return, then every numeric column that holds a number in some update read.

    Columns are those of ``esper export``.
    """
    updates = [item for run in runs for item in run.read]
    numbers = [
        name
        for name in heading(item.payload for item in updates)
        if name not in _NO_METRICS and cell_type(name) in {int, float}
    ]
    rows = [row(item) for item in updates]
    return [RETURN, *(name for name in numbers if any(cells.get(name) is not None for cells in rows))]


def curve(run: Series, name: str) -> list[tuple[int, float]]:
    """(update id, value) of each update read; NaN where the value is none. What was not measured is left out."""
    return [(item.payload.update_id, value) for item in run.read if (value := _value(item, name)) is not None]


def _value(update: Update, name: str) -> float | None:
    if name == RETURN:
        return return_to_show(update.payload)
    found = row(update).get(name)
    return float(found) if isinstance(found, int | float) else None


class Abscissa:
    """Where the updates of a run lie along an axis: exact for those that were read, in between on a straight line.

    Args:
        run: the run.
        unit: of the axis.
    """

    def __init__(self, run: Series, unit: Unit) -> None:
        self._ids: list[int] = []
        self._xs: list[float] = []
        start = run.read[0].time_ns if run.read else 0
        for item in run.read if unit != "updates" else ():
            x = float(item.payload.env_steps) if unit == "steps" else (item.time_ns - start) / 1e9
            self._ids.append(item.payload.update_id)
            # A clock that was set back, or a resumed run that counts anew, does not turn the axis.
            self._xs.append(max(x, self._xs[-1]) if self._xs else x)

    def __call__(self, update_id: float) -> float:
        """The place of an update, in the axis's unit."""
        if not self._ids:
            return float(update_id)
        at = bisect_left(self._ids, update_id)
        if at >= len(self._ids):
            return self._xs[-1]
        if self._ids[at] == update_id or not at:
            return self._xs[at]
        share = (update_id - self._ids[at - 1]) / (self._ids[at] - self._ids[at - 1])
        return self._xs[at - 1] + share * (self._xs[at] - self._xs[at - 1])


def smoothed(values: Sequence[float], weight: float) -> list[float]:
    """An exponential mean of each value and those before, without the bias of its beginning, as TensorBoard draws it.

    What is no number stays what it is, and counts nowhere.

    Args:
        values: in their order.
        weight: of the past, from 0 (nothing is smoothed) to below 1.
    """
    found: list[float] = []
    mean, scale = 0.0, 0.0
    for value in values:
        if not math.isfinite(value):
            found.append(value)
            continue
        mean = weight * mean + (1 - weight) * value
        scale = weight * scale + (1 - weight)
        found.append(mean / scale)
    return found


@dataclass(frozen=True, slots=True)
class Moment:
    """A run at one update.

    Attributes:
        update_id: the update.
        kl: the judged one, nats; None where not measured.
        steps: environment steps; None before the first update that was read.
        seconds: since the first update.
        read: the newest update, up to this one, that was read whole; None when there is none.
    """

    update_id: int
    kl: float | None
    steps: float | None
    seconds: float | None
    read: PPOUpdatePayload | None


@dataclass(frozen=True, slots=True)
class HeadColumn:
    """A stretch of neighbouring updates.

    Attributes:
        first: its first update id.
        heads: of each head the stats with the largest KL in it; NaN is larger than any number.
        broken: whether the KL of one of its updates was not finite: heads without a number are lost there, not idle.
    """

    first: int
    heads: tuple[HeadStats, ...] = ()
    broken: bool = False


def places(run: Series) -> list[int]:
    """The updates that a cursor can stand on, ascending: every one that is drawn."""
    return sorted({*run.updates, *run.return_updates, *run.broken})


def moment_at(run: Series, update_id: int) -> Moment:
    """What is known of a run at an update that is drawn."""
    known = [item for item in run.read if item.payload.update_id <= update_id]
    newest = known[-1].payload if known else None
    at = bisect_left(run.updates, update_id)
    kl: float | None = None
    if update_id in run.broken:
        kl = math.nan
    elif newest is not None and newest.update_id == update_id:
        kl = newest.judged_kl(run.limits.on)
    elif at < len(run.updates) and run.updates[at] == update_id and not math.isnan(run.kl[at]):
        kl = run.kl[at]
    return Moment(
        update_id=update_id,
        kl=kl,
        steps=Abscissa(run, "steps")(update_id) if run.read else None,
        seconds=Abscissa(run, "time")(update_id) if run.read else None,
        read=newest,
    )


def head_columns(run: Series, columns: int, column_of: Callable[[int], int]) -> list[HeadColumn]:
    """The run in the columns of a map of its heads.

    An update that was read stands for those up to the next one; columns before the first one and behind the last one
    have no heads.

    Args:
        run: the run.
        columns: of the map.
        column_of: the column of an update, from 0, ascending with the updates; outside of the map for one that is not
            in it.
    """
    if not run.read:
        return []
    ids = [item.payload.update_id for item in run.read]
    ats = [column_of(item) for item in ids]
    found = []
    for column in range(columns):
        first, end = bisect_left(ats, column), bisect_left(ats, column + 1)
        part = run.read[first:end] or run.read[max(first - 1, 0) : first] if column <= ats[-1] else ()
        if part:
            found.append(_worst(part))
        else:
            found.append(HeadColumn(0 if column < ats[0] else ids[-1] + 1))
    return found


def _worst(part: Sequence[Update]) -> HeadColumn:
    worst: dict[str, HeadStats] = {}
    for head in (head for item in part for head in item.payload.heads):
        known = worst.get(head.name)
        if known is None or _badness(head) > _badness(known):
            worst[head.name] = head
    broken = any(item.payload.health is HealthLevel.NON_FINITE for item in part)
    return HeadColumn(part[0].payload.update_id, tuple(worst.values()), broken=broken)


def _badness(head: HeadStats) -> float:
    if head.kl is None:
        return -math.inf
    return head.kl if math.isfinite(head.kl) else math.inf
