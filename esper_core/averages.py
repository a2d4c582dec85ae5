"""Means and deviations of any finite numbers: neither a sum nor a square is beyond what a float holds.

Values are divided by a power of two before they are added, which is exact, and multiplied by it afterwards.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["deviation", "mean", "weighted_mean"]


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean of one value or more, each finite."""
    parts, power = _parts(values)
    return _back(math.fsum(parts) / len(parts), power)


def weighted_mean(values: Sequence[float], weights: Sequence[float]) -> float:
    """The mean of finite values by weights that are not negative and not all 0."""
    parts, power = _parts(values)
    total = math.fsum(weights)
    return _back(math.fsum(part * weight for part, weight in zip(parts, weights, strict=True)) / total, power)


def deviation(values: Sequence[float], *, freedom: int = 0) -> float:
    """The standard deviation of finite values; ``freedom`` 1 for that of a sample. Inf where it is beyond a float."""
    parts, power = _parts(values)
    middle = math.fsum(parts) / len(parts)
    return _back(math.sqrt(math.fsum((part - middle) ** 2 for part in parts) / (len(parts) - freedom)), power)


def _parts(values: Sequence[float]) -> tuple[list[float], int]:
    power = max(math.frexp(value)[1] for value in values)
    return [math.ldexp(value, -power) for value in values], power


def _back(value: float, power: int) -> float:
    try:
        return math.ldexp(value, power)
    except OverflowError:
        return math.copysign(math.inf, value)
