"""Means and deviations: equal to the plain ones where these exist, and finite where a plain sum or square is none."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from esper_core.averages import deviation, mean, weighted_mean
from esper_core.reading.trend import arrow, trend

LARGEST = 1.7976931348623157e308


def test_they_are_the_plain_ones_where_these_exist() -> None:
    rnd = random.Random(1)
    for _ in range(200):
        values = [rnd.uniform(-1, 1) * 10.0 ** rnd.randint(-250, 100) for _ in range(rnd.randint(2, 9))]
        weights = [rnd.randint(0, 9) for _ in values[1:]] + [1]
        assert mean(values) == math.fsum(values) / len(values)
        plain = math.fsum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)
        assert weighted_mean(values, weights) == pytest.approx(plain, rel=1e-14, abs=1e-300)
        assert deviation(values, freedom=1) == pytest.approx(statistics.stdev(values), rel=1e-12)


def test_numbers_as_large_as_floats_are_have_a_mean_and_a_deviation() -> None:
    assert mean([LARGEST] * 5) == pytest.approx(LARGEST, rel=1e-15)
    assert mean([LARGEST, -LARGEST]) == 0.0
    assert weighted_mean([1e308, 1e308], [10**15, 10**15]) == 1e308
    assert deviation([1e308, -1e308]) == 1e308
    assert deviation([LARGEST, -LARGEST], freedom=1) == math.inf
    assert mean([0.0, 0.0]) == deviation([0.0, 0.0]) == 0.0
    assert mean([5e-324]) == 5e-324


def test_the_trend_of_numbers_as_large_as_floats_are_is_a_trend() -> None:
    """A viewer draws whatever a run measured: an overflow here ended it."""
    assert trend([1e300, 1.7e308, 0.6, 0.0, 1e300, 0.0, 1.7e308]) in {"", "rising"}
    assert trend([-1.7e308, -1.7e308, 1.7e308, 1.7e308, 1.7e308]) in {"", "rising"}
    assert arrow([LARGEST] * 10) == arrow([1.0] * 10)
