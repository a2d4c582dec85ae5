"""The rule that ends an update."""

from __future__ import annotations

import math
from typing import Any

import pytest

from esper_core.kl import STOP_FACTOR, KLStats, StopMonitor, stop_threshold


def kl(value: float, heads: int = 1) -> KLStats:
    return KLStats((value * 100.0,) * heads, (100.0,) * heads, 100.0)


@pytest.mark.parametrize(("planned", "window"), [(1, 1), (16, 1), (31, 1), (32, 2), (64, 4), (128, 8), (320, 8)])
def test_window_follows_the_plan(planned: int, window: int) -> None:
    assert StopMonitor(target_kl=0.02, on="weighted", rule="pooled", planned=planned).window == window


def test_pooled_rule_looks_at_the_whole_window() -> None:
    monitor = StopMonitor(target_kl=0.02, on="weighted", rule="pooled", planned=64)
    for value in (0.02, 0.02, 0.02, 0.05):
        monitor.add(kl(value))
    assert monitor.before_step() is None
    monitor.add(kl(0.05))
    assert monitor.before_step() == pytest.approx(0.035)


def test_limit_itself_is_still_allowed() -> None:
    monitor = StopMonitor(target_kl=0.02, on="weighted", rule="minibatch", planned=1)
    monitor.add(KLStats((0.03,), (1.0,), 1.0))
    assert monitor.before_step() is None


def test_joint_limit_is_stricter_with_many_heads() -> None:
    for on, stops in (("weighted", False), ("joint", True)):
        monitor = StopMonitor(target_kl=0.02, on=on, rule="minibatch", planned=1)  # type: ignore[arg-type]
        monitor.add(kl(0.02, heads=5))
        assert (monitor.before_step() is not None) is stops


def test_epoch_rule_waits_for_the_end_of_the_epoch() -> None:
    monitor = StopMonitor(target_kl=0.02, on="weighted", rule="epoch", planned=64)
    monitor.add(kl(0.5))
    assert monitor.before_step() is None
    assert monitor.after_epoch() == pytest.approx(0.5)


@pytest.mark.parametrize("rule", ["pooled", "minibatch", "epoch"])
def test_the_joint_rule_is_judged_at_the_same_moments_on_the_same_minibatches(rule: Any) -> None:
    """A shadow of the weighted rule says what a monitor on the joint KL decides."""
    values = (0.004, 0.02, 0.001, 0.029, 0.013)
    shadow, joint = (StopMonitor(target_kl=0.02, on=on, rule=rule, planned=64) for on in ("weighted", "joint"))
    assert shadow.joint_would_stop is None
    stopped = False
    for value in values:
        for monitor in (shadow, joint):
            monitor.add(kl(value, heads=2))
        decisions = (joint.before_step(), joint.after_epoch())
        assert (shadow.before_step(), shadow.after_epoch()) == (None, None)
        stopped = stopped or decisions != (None, None)
        assert shadow.joint_would_stop is stopped
    assert stopped


def test_zero_target_switches_stopping_off() -> None:
    monitor = StopMonitor(target_kl=0.0, on="weighted", rule="pooled", planned=64)
    monitor.add(kl(5.0))
    assert monitor.threshold is None
    assert monitor.joint_would_stop is None
    assert monitor.before_step() is None


def test_nan_does_not_slip_through() -> None:
    monitor = StopMonitor(target_kl=0.02, on="weighted", rule="minibatch", planned=1)
    monitor.add(KLStats((math.nan,), (1.0,), 1.0))
    assert monitor.before_step() is not None


def test_the_threshold_is_the_factor_times_the_target() -> None:
    assert stop_threshold(0.02) == STOP_FACTOR * 0.02
    assert stop_threshold(0.0) is None
    assert StopMonitor(target_kl=0.02, on="weighted", rule="pooled", planned=64).threshold == stop_threshold(0.02)
