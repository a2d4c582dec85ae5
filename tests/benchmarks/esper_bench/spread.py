"""Quartiles of a few rounds."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Spread", "ratios", "spread"]


class Spread(NamedTuple):
    """Lower quartile, median and upper quartile."""

    low: float
    middle: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Quartiles by linear interpolation between the values (the least and the largest are the 0 and 100 % points).

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("no rounds")
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    return Spread(*statistics.quantiles(values, n=4, method="inclusive"))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Esper's cost over the peer's, round by round: what slows a whole round cancels out. Below 1 Esper is cheaper."""
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]
