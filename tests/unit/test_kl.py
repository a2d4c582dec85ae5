"""The KL's sufficient statistics and the rule that stops an update."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical, kl_divergence

from esper_core.ppo.kl import KLStats, StopMonitor, exact_sums, k3_sums, outlier_sums

ON = torch.tensor([[True]])


def stats_of(log_ratio: torch.Tensor, active: torch.Tensor) -> KLStats:
    heads = active.shape[1]
    sums = k3_sums(log_ratio, active).tolist()
    return KLStats(tuple(sums[:heads]), tuple(sums[heads:]), float(active.any(1).sum()))


@given(st.floats(-1e4, 1e4, width=32, allow_nan=False))
@settings(max_examples=300, deadline=None)
def test_estimator_is_never_negative(log_ratio: float) -> None:
    assert k3_sums(torch.tensor([[log_ratio]]), ON)[0] >= 0


@pytest.mark.parametrize("sigma", [1e-1, 1e-2, 1e-3, 1e-4, 1e-5])
def test_small_log_ratios_keep_their_digits_in_float32(sigma: float) -> None:
    r = sigma * torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0))
    exact = (torch.expm1(r.double()) - r.double()).sum()
    assert float(k3_sums(r, torch.ones_like(r, dtype=torch.bool))[0]) == pytest.approx(float(exact), rel=1e-4)


def test_masked_values_cannot_poison_the_sums() -> None:
    r = torch.tensor([[0.1, math.nan], [0.2, math.inf], [0.3, -math.inf]])
    active = torch.tensor([[True, False]] * 3)
    sums = k3_sums(r, active)
    assert sums[1] == 0
    assert sums[2:].tolist() == [3, 0]
    assert torch.isfinite(sums).all()
    assert outlier_sums(r, active).tolist() == [0, 0]


def test_active_nan_stays_visible_and_extremes_are_counted() -> None:
    r = torch.tensor([[math.nan, 25.0], [0.0, -30.0], [0.0, math.inf]])
    active = torch.ones(3, 2, dtype=torch.bool)
    sums = k3_sums(r, active)
    assert torch.isnan(sums[0])
    assert torch.isfinite(sums[1])
    assert outlier_sums(r, active).tolist() == [2, 2]


def test_log_ratios_are_clamped_at_twenty() -> None:
    expected = math.expm1(20.0) - 20.0
    assert float(k3_sums(torch.tensor([[1000.0]]), ON)[0]) == pytest.approx(expected, rel=1e-6)


def test_bfloat16_inputs_are_measured_after_the_cast_up() -> None:
    old = torch.full((1000, 1), -1.25, dtype=torch.bfloat16)
    new = old.float() + 0.01
    sums = k3_sums(new - old, torch.ones(1000, 1, dtype=torch.bool))
    assert float(sums[0]) / 1000 == pytest.approx(math.expm1(0.01) - 0.01, rel=1e-3)


def test_pooled_minibatches_equal_one_batch() -> None:
    generator = torch.Generator().manual_seed(1)
    r = 0.3 * torch.randn(1000, 5, generator=generator)
    active = torch.rand(1000, 5, generator=generator) < torch.tensor([1.0, 0.5, 0.2, 0.05, 0.0])
    whole = stats_of(r, active)
    pooled = KLStats.pooled(stats_of(r[part], active[part]) for part in torch.arange(1000).tensor_split(7))
    assert pooled is not None
    assert pooled.weighted == pytest.approx(whole.weighted, rel=1e-12)
    assert pooled.joint == pytest.approx(whole.joint, rel=1e-12)
    assert pooled.by_head[:4] == pytest.approx(whole.by_head[:4], rel=1e-12)
    assert pooled.by_head[4] is None


def test_head_without_valid_steps_has_no_kl_and_does_not_dilute() -> None:
    r = torch.full((10, 2), 0.2)
    active = torch.tensor([[True, False]] * 10)
    stats = stats_of(r, active)
    one = math.expm1(0.2) - 0.2
    assert stats.by_head == (pytest.approx(one), None)
    assert stats.weighted == pytest.approx(one)
    assert stats.weights == (1.0, 0.0)
    assert stats.shares == (pytest.approx(1.0), 0.0)


def test_no_decision_at_all_is_not_a_zero() -> None:
    stats = stats_of(torch.zeros(4, 3), torch.zeros(4, 3, dtype=torch.bool))
    assert stats.weighted is None
    assert stats.joint is None
    assert stats.by_head == (None, None, None)
    assert stats.weights == (None, None, None)
    assert stats.shares == (None, None, None)


def test_weighted_is_the_records_formula() -> None:
    """Sum(w_h KL_h) / Sum(w_h) with w_h = n_h / T."""
    stats = KLStats(numerators=(0.5, 0.1, 0.0), decisions=(10.0, 4.0, 0.0), steps=20.0)
    weights = [10 / 20, 4 / 20]
    by_head = [0.05, 0.025]
    expected = sum(w * kl for w, kl in zip(weights, by_head, strict=True)) / sum(weights)
    assert stats.weighted == pytest.approx(expected)
    assert stats.joint == pytest.approx(0.6 / 20)


def test_weighted_equals_joint_for_one_head_that_is_always_active() -> None:
    stats = stats_of(torch.randn(50, 1), torch.ones(50, 1, dtype=torch.bool))
    assert stats.weighted == stats.joint


def test_exact_sums_equal_torch_distributions() -> None:
    generator = torch.Generator().manual_seed(2)
    old, new = (torch.log_softmax(torch.randn(64, 3, 5, generator=generator), -1) for _ in range(2))
    active = torch.rand(64, 3, generator=generator) < 0.6
    expected = torch.where(active, kl_divergence(Categorical(logits=old), Categorical(logits=new)), 0.0).sum(0)
    torch.testing.assert_close(exact_sums(old, new, active), expected.double(), rtol=1e-5, atol=1e-6)


def test_exact_sums_are_not_negative_for_equal_policies() -> None:
    old = torch.log_softmax(torch.randn(1000, 2, 7), -1)
    assert (exact_sums(old, old + 1e-8, torch.ones(1000, 2, dtype=torch.bool)) >= 0).all()


# --- stopping ---------------------------------------------------------------------------------------


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


def test_zero_target_switches_stopping_off() -> None:
    monitor = StopMonitor(target_kl=0.0, on="weighted", rule="pooled", planned=64)
    monitor.add(kl(5.0))
    assert monitor.threshold is None
    assert monitor.before_step() is None


def test_nan_does_not_slip_through() -> None:
    monitor = StopMonitor(target_kl=0.02, on="weighted", rule="minibatch", planned=1)
    monitor.add(KLStats((math.nan,), (1.0,), 1.0))
    assert monitor.before_step() is not None
