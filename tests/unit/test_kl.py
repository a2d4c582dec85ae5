"""The KL's sums: both kernels, held to the same properties, to float64 and to torch's own distributions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from esper_core.kl import LOG_RATIO_LIMIT, KLStats
from esper_core.kl import numpy as numpy_kernels
from esper_core.kl import torch as torch_kernels

if TYPE_CHECKING:
    from types import ModuleType

pytestmark = pytest.mark.numeric


@dataclass(frozen=True)
class Kernels:
    """One of the two modules, taking and giving NumPy arrays."""

    module: ModuleType

    def __getattr__(self, name: str) -> Any:
        def call(*given: np.ndarray) -> Any:
            ours = [torch.from_numpy(item) for item in given] if self.module is torch_kernels else given
            found = getattr(self.module, name)(*ours)
            return tuple(map(int, found)) if isinstance(found, tuple) else np.asarray(found)

        return call


@pytest.fixture(params=[numpy_kernels, torch_kernels], ids=["numpy", "torch"])
def kernels(request: pytest.FixtureRequest) -> Kernels:
    return Kernels(request.param)


BOTH = (Kernels(numpy_kernels), Kernels(torch_kernels))
SHAPES = arrays.array_shapes(min_dims=2, max_dims=2, max_side=6)
bounded = settings(max_examples=100)


@st.composite
def decisions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Log-ratios of anything, NaN and Inf among them, and which are active."""
    shape = draw(SHAPES)
    ratios = draw(arrays.arrays(np.float32, shape, elements=st.floats(width=32)))
    return ratios, draw(arrays.arrays(np.bool_, shape))


@st.composite
def gaussians(draw: st.DrawFn) -> tuple[np.ndarray, ...]:
    """Means and standard deviations of two policies, and which dimensions are active."""
    shape = draw(SHAPES)
    means, stds = st.floats(-10, 10), st.floats(0.05, 20)
    moments = [draw(arrays.arrays(np.float64, shape, elements=kind)) for kind in (means, stds, means, stds)]
    return (*moments, draw(arrays.arrays(np.bool_, shape)))


@st.composite
def categoricals(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-probabilities (B, heads, width) of two policies with the same illegal choices, and the active decisions."""
    shape = (*draw(SHAPES), draw(st.integers(1, 5)))
    logits = [draw(arrays.arrays(np.float64, shape, elements=st.floats(-8, 8))) for _ in range(2)]
    legal = draw(arrays.arrays(np.bool_, shape))
    legal[..., 0] = True
    old, new = (torch.log_softmax(torch.from_numpy(np.where(legal, item, -1e9)), -1).numpy() for item in logits)
    return old, new, draw(arrays.arrays(np.bool_, shape[:2]))


def stats_of(kernels: Kernels, log_ratio: np.ndarray, active: np.ndarray) -> KLStats:
    numerators = kernels.k3_sums(log_ratio, active).tolist()
    return KLStats(tuple(numerators), tuple(active.sum(0, dtype=float).tolist()), float(active.any(1).sum()))


# --- properties of every kernel -----------------------------------------------------------------------


@pytest.mark.parametrize("kernels", BOTH, ids=["numpy", "torch"])
@given(given=decisions())
@bounded
def test_k3_is_the_float64_sum_of_each_heads_active_decisions(
    kernels: Kernels, given: tuple[np.ndarray, np.ndarray]
) -> None:
    ratios, active = given
    sums = kernels.k3_sums(ratios, active)
    assert sums.dtype == np.float64
    for head in range(ratios.shape[1]):
        taken = [max(-LOG_RATIO_LIMIT, min(LOG_RATIO_LIMIT, float(r))) for r in ratios[active[:, head], head]]
        if any(math.isnan(float(r)) for r in ratios[active[:, head], head]):
            assert math.isnan(sums[head]), "a NaN stays visible in its own head"
        else:
            assert sums[head] >= 0
            assert sums[head] == pytest.approx(math.fsum(math.expm1(r) - r for r in taken), rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("kernels", BOTH, ids=["numpy", "torch"])
@given(given=decisions())
@bounded
def test_outliers_are_counted_where_they_are_active(kernels: Kernels, given: tuple[np.ndarray, np.ndarray]) -> None:
    ratios, active = given
    taken = [float(r) for r in ratios[active]]
    clamped = sum(math.isfinite(r) and abs(r) > LOG_RATIO_LIMIT for r in taken)
    assert kernels.outlier_sums(ratios, active) == (clamped, sum(not math.isfinite(r) for r in taken))


@pytest.mark.parametrize("kernels", BOTH, ids=["numpy", "torch"])
@given(given=decisions(), data=st.data())
@bounded
def test_sums_add_up_over_any_split(
    kernels: Kernels, given: tuple[np.ndarray, np.ndarray], data: st.DataObject
) -> None:
    ratios, active = given
    cut = data.draw(st.integers(0, len(ratios)))
    parts = kernels.k3_sums(ratios[:cut], active[:cut]) + kernels.k3_sums(ratios[cut:], active[cut:])
    np.testing.assert_allclose(kernels.k3_sums(ratios, active), parts, rtol=1e-9)


@pytest.mark.parametrize("kernels", BOTH, ids=["numpy", "torch"])
@given(given=categoricals())
@bounded
def test_exact_categorical_sums_equal_torch_distributions(kernels: Kernels, given: tuple[np.ndarray, ...]) -> None:
    old, new, active = given
    expected = kl_divergence(*(Categorical(logits=torch.from_numpy(item)) for item in (old, new))).numpy()
    sums = kernels.exact_categorical_sums(old, new, active)
    assert (sums >= 0).all()
    np.testing.assert_allclose(sums, np.where(active, expected, 0.0).sum(0), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("kernels", BOTH, ids=["numpy", "torch"])
@given(given=gaussians())
@bounded
def test_exact_gaussian_sums_equal_torch_distributions(kernels: Kernels, given: tuple[np.ndarray, ...]) -> None:
    *moments, active = given
    m0, s0, m1, s1 = (torch.from_numpy(item) for item in moments)
    expected = kl_divergence(Normal(m0, s0), Normal(m1, s1)).numpy()
    sums = kernels.exact_gaussian_sums(*moments, active)
    assert (sums >= 0).all()
    np.testing.assert_allclose(sums, np.where(active, expected, 0.0).sum(0), rtol=1e-7, atol=1e-9)
    whole = kl_divergence(Independent(Normal(m0, s0), 1), Independent(Normal(m1, s1), 1)).sum()
    everywhere = kernels.exact_gaussian_sums(*moments, np.ones_like(active))
    assert everywhere.sum() == pytest.approx(float(whole), rel=1e-7, abs=1e-9), "the heads sum to the joint KL"


# --- what goes wrong easily ---------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [1e-1, 1e-2, 1e-3, 1e-4, 1e-5])
def test_small_log_ratios_keep_their_digits_in_float32(kernels: Kernels, sigma: float) -> None:
    r = (sigma * np.random.default_rng(0).standard_normal((20_000, 1))).astype(np.float32)
    exact = (np.expm1(r.astype(np.float64)) - r.astype(np.float64)).sum()
    assert kernels.k3_sums(r, np.ones_like(r, dtype=bool))[0] == pytest.approx(exact, rel=1e-4)


def test_masked_values_cannot_poison_the_sums(kernels: Kernels) -> None:
    r = np.array([[0.1, math.nan], [0.2, math.inf], [0.3, -math.inf]], dtype=np.float32)
    active = np.array([[True, False]] * 3)
    sums = kernels.k3_sums(r, active)
    assert sums[1] == 0
    assert np.isfinite(sums).all()
    assert kernels.outlier_sums(r, active) == (0, 0)
    odd = np.array([[1.0, math.nan], [1.0, 0.0], [1.0, math.inf]])
    assert kernels.exact_gaussian_sums(odd, odd, odd, odd, active).tolist() == [0.0, 0.0]
    assert kernels.exact_categorical_sums(r[:, :, None], r[:, :, None], active)[1] == 0


def test_log_ratios_are_clamped_at_twenty(kernels: Kernels) -> None:
    expected = math.expm1(20.0) - 20.0
    assert kernels.k3_sums(np.array([[1000.0]]), np.array([[True]]))[0] == pytest.approx(expected, rel=1e-6)


def test_an_illegal_choice_may_hold_minus_infinity(kernels: Kernels) -> None:
    """-inf is what other libraries write; 0 * (-inf - -inf) would be NaN."""
    old, new = np.log([[[0.5, 0.5]]]), np.log([[[0.9, 0.1]]])
    padded = [np.concatenate([item, np.full((1, 1, 1), -math.inf)], axis=-1) for item in (old, new)]
    expected = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    assert kernels.exact_categorical_sums(*padded, np.array([[True]]))[0] == pytest.approx(expected, rel=1e-12)


def test_a_nan_stays_visible_in_the_exact_sums(kernels: Kernels) -> None:
    on = np.array([[True, True]])
    logs = np.log(np.full((1, 2, 2), 0.5))
    broken = logs.copy()
    broken[0, 1, 0] = math.nan
    for pair in ((broken, logs), (logs, broken)):
        found = kernels.exact_categorical_sums(*pair, on)
        assert (found[0], math.isnan(found[1])) == (0.0, True)
    one, bad = np.ones((1, 2)), np.array([[1.0, math.nan]])
    for index in range(4):
        moments = [bad if index == place else one for place in range(4)]
        found = kernels.exact_gaussian_sums(*moments, on)
        assert (found[0], math.isnan(found[1])) == (0.0, True)


def test_exact_sums_are_not_negative_for_equal_policies(kernels: Kernels) -> None:
    rng = np.random.default_rng(0)
    old = torch.log_softmax(torch.from_numpy(rng.standard_normal((1000, 2, 7)).astype(np.float32)), -1).numpy()
    on = np.ones((1000, 2), dtype=bool)
    assert (kernels.exact_categorical_sums(old, old + np.float32(1e-8), on) >= 0).all()
    mean, std = rng.standard_normal((1000, 2)), rng.uniform(0.1, 2.0, (1000, 2))
    assert (kernels.exact_gaussian_sums(mean, std, mean, std * (1 + 1e-15), on) >= 0).all()


def test_a_small_step_of_a_gaussian_keeps_its_digits(kernels: Kernels) -> None:
    """log(s1/s0) + s0^2/(2 s1^2) - 1/2 as it is written cancels to noise here."""
    one, on = np.ones((1, 1)), np.array([[True]])
    for step in (1e-3, 1e-5, 1e-7):
        # KL of a scale that grows by d is d^2 - (5/3) d^3 + ...
        expected = step**2 * (1 - 5 / 3 * step)
        found = kernels.exact_gaussian_sums(one, one, one, one * (1 + step), on)[0]
        assert found == pytest.approx(expected, rel=1e-5)


def test_both_kernels_agree_on_a_large_batch() -> None:
    rng = np.random.default_rng(1)
    r, on = (0.3 * rng.standard_normal((5000, 5))).astype(np.float32), rng.random((5000, 5)) < 0.6
    ours, theirs = (kernels.k3_sums(r, on) for kernels in BOTH)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_bfloat16_inputs_are_measured_after_the_cast_up() -> None:
    old = torch.full((1000, 1), -1.25, dtype=torch.bfloat16)
    new = old.float() + 0.01
    sums = torch_kernels.k3_sums(new - old, torch.ones(1000, 1, dtype=torch.bool))
    assert float(sums[0]) / 1000 == pytest.approx(math.expm1(0.01) - 0.01, rel=1e-3)


# --- statistics ---------------------------------------------------------------------------------------


def test_pooled_minibatches_equal_one_batch(kernels: Kernels) -> None:
    rng = np.random.default_rng(1)
    r = 0.3 * rng.standard_normal((1000, 5))
    active = rng.random((1000, 5)) < [1.0, 0.5, 0.2, 0.05, 0.0]
    whole = stats_of(kernels, r, active)
    pooled = KLStats.pooled(stats_of(kernels, r[part], active[part]) for part in np.array_split(np.arange(1000), 7))
    assert pooled is not None
    assert pooled.weighted == pytest.approx(whole.weighted, rel=1e-12)
    assert pooled.joint == pytest.approx(whole.joint, rel=1e-12)
    assert pooled.by_head[:4] == pytest.approx(whole.by_head[:4], rel=1e-12)
    assert pooled.by_head[4] is None


def test_head_without_valid_steps_has_no_kl_and_does_not_dilute(kernels: Kernels) -> None:
    stats = stats_of(kernels, np.full((10, 2), 0.2), np.array([[True, False]] * 10))
    one = math.expm1(0.2) - 0.2
    assert list(stats.by_head) == [pytest.approx(one), None]
    assert stats.weighted == pytest.approx(one)
    assert stats.weights == (1.0, 0.0)
    assert list(stats.shares) == [pytest.approx(1.0), 0.0]


def test_no_decision_at_all_is_not_a_zero(kernels: Kernels) -> None:
    stats = stats_of(kernels, np.zeros((4, 3)), np.zeros((4, 3), dtype=bool))
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


def test_weighted_equals_joint_for_one_head_that_is_always_active(kernels: Kernels) -> None:
    ratios = np.random.default_rng(0).standard_normal((50, 1))
    stats = stats_of(kernels, ratios, np.ones((50, 1), dtype=bool))
    assert stats.weighted == stats.joint
