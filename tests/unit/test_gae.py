"""Advantages, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from esper_core.ppo.gae import generalised_advantages

pytestmark = pytest.mark.numeric


def column(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)[:, None]


def flags(*values: int) -> np.ndarray:
    return np.array(values, dtype=bool)[:, None]


def test_hand_worked_case_with_termination_and_truncation() -> None:
    """gamma = 0.5, lambda = 0.5, so gamma * lambda = 0.25.

    t=0 goes on:     delta = 1 + 0.5 * 2   - 1   = 1
    t=1 terminates:  delta = 2 + 0         - 2   = 0      (V after it, 99, does not count)
    t=2 goes on:     delta = 3 + 0.5 * 4   - 3   = 2
    t=3 is cut:      delta = 1 + 0.5 * 6   - 4   = 0      (6 is V of the final observation)
    t=4 goes on:     delta = 0 + 0.5 * 8   - 5   = -1
    A4 = -1; A3 = 0; A2 = 2 + 0.25 * 0 = 2; A1 = 0; A0 = 1 + 0.25 * 0 = 1
    """
    advantages = generalised_advantages(
        column(1, 2, 3, 1, 0),
        column(1, 2, 3, 4, 5),
        column(2, 99, 4, 6, 8),
        flags(0, 1, 0, 0, 0),
        flags(0, 0, 0, 1, 0),
        gamma=0.5,
        lam=0.5,
    )
    assert advantages[:, 0].tolist() == [1, 0, 2, 0, -1]


def test_hand_worked_recursion() -> None:
    """Deltas 1, 1, 1 with gamma * lambda = 0.5: A2 = 1, A1 = 1.5, A0 = 1.75."""
    zeros = column(0, 0, 0)
    none = flags(0, 0, 0)
    advantages = generalised_advantages(column(1, 1, 1), zeros, zeros, none, none, gamma=1.0, lam=0.5)
    assert advantages[:, 0].tolist() == [1.75, 1.5, 1.0]


def test_truncation_bootstraps_where_termination_does_not() -> None:
    def of(terminated: int, truncated: int) -> float:
        return float(
            generalised_advantages(
                column(1), column(0), column(10), flags(terminated), flags(truncated), gamma=0.9, lam=1.0
            )[0, 0]
        )

    assert of(terminated=1, truncated=0) == 1.0
    assert of(terminated=0, truncated=1) == pytest.approx(10.0)
    assert of(terminated=1, truncated=1) == 1.0


def test_environments_do_not_leak_into_each_other() -> None:
    rewards = np.array([[1.0, 10.0], [1.0, 10.0]])
    zeros, none = np.zeros((2, 2)), np.zeros((2, 2), dtype=bool)
    advantages = generalised_advantages(rewards, zeros, zeros, none, none, gamma=1.0, lam=1.0)
    assert advantages.tolist() == [[2, 20], [1, 10]]


def test_value_after_a_terminal_step_may_be_anything() -> None:
    advantages = generalised_advantages(column(1), column(0), column(math.nan), flags(1), flags(0), gamma=0.9, lam=0.9)
    assert advantages[0, 0] == 1.0
