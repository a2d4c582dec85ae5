"""The loss of PPO (Schulman et al. 2017, arXiv:1707.06347, equations 7 and 9), over the heads that had an effect."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from esper_core.config.schema import PPOConfig
    from esper_core.ppo.minibatches import Minibatch
    from esper_core.ppo.policy import MultiHeadPolicy

__all__ = ["Loss", "Weights", "ppo_loss", "squared_errors"]


class Weights(NamedTuple):
    """What the sums over a minibatch are multiplied by: numbers, or tensors of one each, float32 ().

    Attributes:
        surrogate: one over the unforced steps.
        squared_error: half of ``ppo.value_coef`` over the samples.
        entropy: the entropy coefficient in force over the unforced steps.
    """

    surrogate: float | Tensor
    squared_error: float | Tensor
    entropy: float | Tensor

    @classmethod
    def of(cls, minibatch: Minibatch, config: PPOConfig, *, entropy_coef: float) -> Weights:
        """Those that make means of the sums; ``entropy_coef`` is the one in force."""
        steps = max(minibatch.steps, 1.0)
        return cls(1.0 / steps, 0.5 * config.value_coef / minibatch.samples, entropy_coef / steps)


class Loss(NamedTuple):
    """A loss and what it is made of, with gradient: this rank's summands.

    Attributes:
        total: float32 (), what is minimised.
        surrogate: float32 (), the clipped surrogate's sum over steps.
        squared_error: float32 (), of the values, summed over samples; see :func:`squared_errors`.
        log_ratio: float32 (B, heads), nats, 0 where a head did not decide.
        joint: float32 (B,), their sums.
    """

    total: Tensor
    surrogate: Tensor
    squared_error: Tensor
    log_ratio: Tensor
    joint: Tensor


def ppo_loss(policy: MultiHeadPolicy, minibatch: Minibatch, config: PPOConfig, weights: Weights) -> Loss:
    """Clipped surrogate, squared error of the value and entropy bonus of one minibatch.

    The compiled step is traced from this function: every number that changes between minibatches comes in ``weights``
    or as a tensor.
    """
    heads = policy.heads
    distribution, values = policy.distribution(minibatch.observations, minibatch.legal)
    taken = heads.log_prob(distribution, minibatch.actions)
    log_ratio = torch.where(minibatch.active, taken - minibatch.log_prob, 0.0)

    # The joint ratio r multiplies the heads that had an effect, and no others.
    joint = log_ratio.sum(-1)
    # min(r A, clip(r, 1 - e, 1 + e) A): the ratio is bounded on the side to which its advantage drives it.
    bounded = joint.exp().clamp(minibatch.ratio_least, minibatch.ratio_most)
    surrogate = torch.dot(bounded, minibatch.advantages)
    squared_error = squared_errors(values, minibatch, config)
    # -E[surrogate] + c_v E[(V - R)^2] / 2 - c_e E[entropy], with each sum scaled once.
    total = squared_error * weights.squared_error - surrogate * weights.surrogate
    if config.entropy_coef:
        entropy = torch.where(minibatch.active, heads.entropy(distribution), 0.0).sum()
        total = total - entropy * weights.entropy
    return Loss(total, surrogate, squared_error, log_ratio, joint)


def squared_errors(values: Tensor, minibatch: Minibatch, config: PPOConfig) -> Tensor:
    """Sum of the squared errors of value estimates, float32 ().

    With ``ppo.value_clip_range`` an estimate counts as no further from the old one than that. The rule ``larger`` takes
    the larger of both errors (PPO2 of OpenAI's baselines, CleanRL, rsl_rl), ``clipped`` the clipped one alone
    (Stable-Baselines3).

    Args:
        values: float32 (B,), with gradient.
        minibatch: holds the old estimates and the returns.
        config: the ``[ppo]`` table.
    """
    reach = config.value_clip_range
    if not reach:
        return nn.functional.mse_loss(values, minibatch.returns, reduction="sum")
    held = minibatch.values + (values - minibatch.values).clamp(-reach, reach)
    clipped = (held - minibatch.returns).square()
    if config.value_clip_rule == "clipped":
        return clipped.sum()
    return torch.maximum((values - minibatch.returns).square(), clipped).sum()
