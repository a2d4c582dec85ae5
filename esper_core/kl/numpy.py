"""The KL's sums from NumPy arrays, for all heads at once. Same functions as :mod:`esper_core.kl.torch`."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from esper_core.kl.stats import LOG_RATIO_LIMIT

__all__ = ["exact_categorical_sums", "exact_gaussian_sums", "k3_sums", "outlier_sums"]

Floats: TypeAlias = NDArray[np.floating[Any]]
Mask: TypeAlias = NDArray[np.bool_]
Sums: TypeAlias = NDArray[np.float64]


def k3_sums(log_ratio: Floats, active: Mask) -> Sums:
    """Numerators of the KL, estimated from samples.

    Args:
        log_ratio: float32 or better (B, heads), log new - log old, nats. Values of inactive decisions may be anything.
        active: bool (B, heads), the decisions that count.

    Returns:
        float64 (heads). A NaN stays NaN in its head's numerator.
    """
    # Selecting before exp, not multiplying after: 0 * nan and 0 * inf are nan.
    r = np.where(active, log_ratio, 0.0).astype(np.float64).clip(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    # expm1(x) - x keeps its sign where exp(x) - 1 - x cancels.
    return _total(np.expm1(r) - r)


def outlier_sums(log_ratio: Floats, active: Mask) -> tuple[int, int]:
    """Active log-ratios clamped to +-20, and active ones that are NaN or Inf. Counted, never hidden."""
    r = np.where(active, log_ratio, 0.0)
    finite = np.isfinite(r)
    return int((finite & (np.abs(r) > LOG_RATIO_LIMIT)).sum()), int((~finite).sum())


def exact_categorical_sums(log_old: Floats, log_new: Floats, active: Mask) -> Sums:
    """Numerators of the categorical KL itself, summed over all choices instead of estimated from samples.

    Args:
        log_old: float (B, heads, width), the old policy's log-probabilities; illegal choices hold a large
            negative number, -inf included.
        log_new: likewise, of the new policy.
        active: bool (B, heads).

    Returns:
        float64 (heads): the sums over active decisions.
    """
    old, new = log_old.astype(np.float64), log_new.astype(np.float64)
    p = np.exp(old)
    with np.errstate(invalid="ignore"):
        # A choice that the old policy never takes adds nothing: 0 * (-inf - -inf) would be nan. A NaN is not 0, stays.
        kl = np.where(p == 0, 0.0, p * (old - new)).sum(-1)
    return _summed(kl, active)


def exact_gaussian_sums(mean_old: Floats, std_old: Floats, mean_new: Floats, std_new: Floats, active: Mask) -> Sums:
    """Numerators of the KL between diagonal Gaussians, one head a dimension.

    Per dimension ``log(s1/s0) + (s0^2 + (m0-m1)^2) / (2 s1^2) - 1/2``; the heads sum to the joint KL.

    Args:
        mean_old: float (B, heads), the old policy's means.
        std_old: float (B, heads), its standard deviations.
        mean_new: likewise, of the new policy.
        std_new: likewise.
        active: bool (B, heads).

    Returns:
        float64 (heads): the sums over active decisions.
    """
    scale = std_new.astype(np.float64)
    # Values of inactive decisions may be anything, and what is not finite stays so for the caller to see.
    with np.errstate(all="ignore"):
        # The terms in s0 and s1 are expm1(x) - x of x = 2 log(s0/s1), halved: nothing cancels when the two agree.
        x = 2.0 * np.log1p((std_old.astype(np.float64) - scale) / scale)
        distance = (mean_old.astype(np.float64) - mean_new.astype(np.float64)) / scale
        kl = 0.5 * (np.expm1(x) - x) + 0.5 * np.square(distance)
    return _summed(kl, active)


def _summed(kl: Sums, active: Mask) -> Sums:
    # A sum of rounded products can fall below 0 by an ulp where both policies agree.
    return _total(np.where(active, np.maximum(kl, 0.0), 0.0))


def _total(values: Sums) -> Sums:
    total: Sums = values.sum(0, dtype=np.float64)
    return total
