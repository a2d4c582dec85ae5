"""The KL's sums from tensors of any device, for all heads at once. Same functions as :mod:`esper_core.kl.numpy`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from esper_core.kl.stats import LOG_RATIO_LIMIT

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["exact_categorical_sums", "exact_gaussian_sums", "k3_and_clipped_sums", "k3_sums", "outlier_sums"]


def k3_sums(log_ratio: Tensor, active: Tensor) -> Tensor:
    """Numerators of the KL, estimated from samples.

    Args:
        log_ratio: float32 or better (B, heads), log new - log old, nats. Values of inactive decisions may be anything.
        active: bool (B, heads), the decisions that count.

    Returns:
        float64 (heads). A NaN stays NaN in its head's numerator.
    """
    # Selecting before exp, not multiplying after: 0 * nan and 0 * inf are nan.
    r, change = _limited(torch.where(active, log_ratio, 0.0))
    return (change - r).sum(0, dtype=torch.float64)


def k3_and_clipped_sums(log_ratio: Tensor, clip_range: float | Tensor) -> Tensor:
    """Numerators of the KL, and how many ratios are outside the clip range: two sums of one pass.

    Args:
        log_ratio: float32 or better (B, C), nats, 0 where nothing was decided.
        clip_range: positive, a number or a tensor of one; a ratio that is further than this from 1 counts.

    Returns:
        float64 (2 C): the numerators of every column, then the counts.
    """
    r, change = _limited(log_ratio)
    return torch.cat((change - r, change.abs() > clip_range), dim=1).sum(0, dtype=torch.float64)


def _limited(log_ratio: Tensor) -> tuple[Tensor, Tensor]:
    """The log-ratio r within its limit, and exp(r) - 1: k3 is their difference.

    expm1(r) - r keeps its sign where exp(r) - 1 - r cancels to negative values (nearly half of them at r ~ 1e-4).
    """
    r = log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return r, torch.expm1(r)


def outlier_sums(log_ratio: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
    """Active log-ratios clamped to +-20, and active ones that are NaN or Inf: int64 (). Counted, never hidden."""
    r = torch.where(active, log_ratio, 0.0)
    finite = r.isfinite()
    return (finite & (r.abs() > LOG_RATIO_LIMIT)).sum(), (~finite).sum()


def exact_categorical_sums(log_old: Tensor, log_new: Tensor, active: Tensor) -> Tensor:
    """Numerators of the categorical KL itself, summed over all choices instead of estimated from samples.

    Args:
        log_old: float (B, heads, width), the old policy's log-probabilities; illegal choices hold a large
            negative number, -inf included.
        log_new: likewise, of the new policy.
        active: bool (B, heads).

    Returns:
        float64 (heads): the sums over active decisions.
    """
    p = log_old.exp()
    # A choice that the old policy never takes adds nothing: 0 * (-inf - -inf) would be nan. A NaN is not 0 and stays.
    kl = torch.where(p == 0, 0.0, p * (log_old - log_new)).sum(-1)
    return _summed(kl, active)


def exact_gaussian_sums(mean_old: Tensor, std_old: Tensor, mean_new: Tensor, std_new: Tensor, active: Tensor) -> Tensor:
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
    scale = std_new.double()
    # The terms in s0 and s1 are expm1(x) - x of x = 2 log(s0/s1), halved: nothing cancels when the two agree.
    x = 2.0 * ((std_old.double() - scale) / scale).log1p()
    kl = 0.5 * (torch.expm1(x) - x) + 0.5 * ((mean_old.double() - mean_new.double()) / scale).square()
    return _summed(kl, active)


def _summed(kl: Tensor, active: Tensor) -> Tensor:
    # A sum of rounded products can fall below 0 by an ulp where both policies agree.
    return torch.where(active, kl.clamp_min(0.0), 0.0).sum(0, dtype=torch.float64)
