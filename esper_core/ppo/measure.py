"""Measurements on the device: few sums, one transfer each, and everything else is arithmetic on the host."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import torch

from esper_core.ppo.kl import KLStats, exact_sums, k3_sums, outlier_sums
from esper_core.ppo.report import FinalPass, MinibatchReport, RolloutReport

if TYPE_CHECKING:
    from torch import Tensor

    from esper_core.ppo.policy import MultiHeadPolicy
    from esper_core.ppo.reducer import Reducer
    from esper_core.ppo.rollout import Batch

__all__ = ["all_log_probs", "measure", "prepare", "report_minibatch"]

CHUNK: Final = 16384
"""Samples judged at once in a pass over a whole rollout: bounds its memory."""


def prepare(batch: Batch, *, normalise: bool, reducer: Reducer) -> tuple[Batch, RolloutReport]:
    """Describe a rollout, and normalise its advantages over the unforced steps of all ranks.

    Over the rollout and not over each minibatch: a head that is active on few steps would otherwise see a mean
    that is not 0, and a minibatch of one sample has no deviation at all.
    """
    unforced = batch.unforced.double()
    advantages, returns = batch.advantages.double(), batch.returns.double()
    residuals = returns - batch.values.double()
    sums = torch.cat((batch.counts(), torch.stack(((advantages * unforced).sum(), returns.sum(), residuals.sum()))))
    steps, samples, advantage_sum, return_sum, residual_sum = reducer.sum(sums).tolist()
    mean = advantage_sum / max(steps, 1.0)
    squares = torch.stack(
        (
            ((advantages - mean).square() * unforced).sum(),
            (returns - return_sum / samples).square().sum(),
            (residuals - residual_sum / samples).square().sum(),
        )
    )
    advantage_var, return_var, residual_var = reducer.sum(squares).tolist()
    std = math.sqrt(advantage_var / max(steps, 1.0))
    varies = return_var > 1e-12 * samples
    report = RolloutReport(
        steps=int(steps),
        steps_forced=int(samples - steps),
        advantage_mean=mean if steps else None,
        advantage_std=std if steps else None,
        explained_variance=1.0 - residual_var / return_var if varies else None,
    )
    if normalise:
        advantages = (advantages - mean) / (std + 1e-8)
    # A forced step teaches the policy nothing: without an advantage it drops out of the surrogate.
    return batch.with_advantages((advantages * unforced).float()), report


def report_minibatch(
    *,
    log_ratio: Tensor,
    active: Tensor,
    counts: Tensor,
    clipped: Tensor,
    losses: tuple[Tensor, Tensor],
    grad_norm: Tensor,
    interrupted: bool,
    reducer: Reducer,
) -> MinibatchReport:
    """What one minibatch showed: sums reduced over ranks, then one transfer.

    Args:
        log_ratio: float (B, heads), nats, without gradient.
        active: bool (B, heads).
        counts: float64 (2), unforced steps and samples, already reduced.
        clipped: bool (B), joint ratio outside the clip range.
        losses: policy and value loss, this rank's summands of the mean over all ranks.
        grad_norm: of the reduced gradients.
        interrupted: whether this rank was asked to stop; one rank asked stops all.
        reducer: joins the ranks.
    """
    heads = active.shape[1]
    local = torch.stack((*losses, clipped.sum().float(), log_ratio.new_tensor(float(interrupted))))
    reduced = reducer.sum(torch.cat((k3_sums(log_ratio, active), local)))
    numbers = torch.cat((reduced, counts, grad_norm.unsqueeze(0))).tolist()
    policy_loss, value_loss, moved, asked, steps, _, norm = numbers[2 * heads :]
    return MinibatchReport(
        kl=KLStats(tuple(numbers[:heads]), tuple(numbers[heads : 2 * heads]), steps),
        policy_loss=policy_loss,
        value_loss=value_loss,
        clip_fraction=moved / steps if steps else None,
        grad_norm=norm,
        interrupted=asked > 0,
    )


@torch.no_grad()
def all_log_probs(policy: MultiHeadPolicy, batch: Batch) -> Tensor:
    """Log-probabilities of every choice under the policy as it is: float32 (N, heads, width)."""
    parts = batch.split(math.ceil(len(batch) / CHUNK))
    return torch.cat([policy.evaluate(part.observations, part.actions, part.legal).log_probs for part in parts])


@torch.no_grad()
def measure(
    policy: MultiHeadPolicy,
    batch: Batch,
    *,
    old_log_probs: Tensor | None,
    clip_range: float,
    reducer: Reducer,
) -> FinalPass:
    """The reported numbers: one pass over the whole rollout under the policy as it now is.

    Args:
        policy: after the last optimizer step.
        batch: the whole rollout.
        old_log_probs: float32 (N, heads, width) of the policy before the update, for the exact KL; None for k3.
        clip_range: beyond which a head's ratio counts as clipped.
        reducer: joins the ranks.
    """
    totals, extremes, start = [], [], 0
    for part in batch.split(math.ceil(len(batch) / CHUNK)):
        old = None if old_log_probs is None else old_log_probs[start : start + len(part)]
        sums, ratio_max = _part_sums(policy, part, old, clip_range)
        totals.append(sums)
        extremes.append(ratio_max)
        start += len(part)
    total = reducer.sum(torch.stack(totals).sum(0))
    extreme = reducer.max(torch.stack(extremes).amax(0, keepdim=True))
    numbers = torch.cat((total, extreme)).tolist()
    heads = policy.layout.count
    rows = [tuple(numbers[index * heads : (index + 1) * heads]) for index in range(6)]
    steps, clamped, non_finite, ratio_max_seen = numbers[6 * heads :]
    return FinalPass(
        kl=KLStats(rows[0], rows[1], steps),
        entropy=rows[2],
        entropy_normalised=rows[3],
        choices=rows[4],
        clipped=rows[5],
        ratio_max=ratio_max_seen if steps else None,
        clamped=int(clamped),
        non_finite=int(non_finite),
    )


def _part_sums(policy: MultiHeadPolicy, part: Batch, old: Tensor | None, clip_range: float) -> tuple[Tensor, Tensor]:
    """Float64 (6 * heads + 3) sums over some samples, and their largest joint ratio."""
    now = policy.evaluate(part.observations, part.actions, part.legal)
    log_ratio = now.log_prob - part.log_prob
    sums = k3_sums(log_ratio, part.active)
    if old is not None:
        sums[: policy.layout.count] = exact_sums(old, now.log_probs, part.active)
    legal = policy.layout.valid.to(part.active.device) if part.legal is None else part.legal
    choices = legal.sum(-1)
    several = part.active & (choices > 1)
    entropies = torch.stack(
        (
            torch.where(part.active, now.entropy, 0.0),
            torch.where(several, now.entropy / choices.clamp_min(2).log(), 0.0),
            several,
            part.active & ((log_ratio.exp() - 1.0).abs() > clip_range),
        )
    )
    steps = part.unforced.sum(dtype=torch.float64).unsqueeze(0)
    packed = (sums, entropies.sum(1, dtype=torch.float64).flatten(), steps, outlier_sums(log_ratio, part.active))
    return torch.cat(packed), torch.where(part.active, log_ratio, 0.0).sum(-1).exp().amax().double()
