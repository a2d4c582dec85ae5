"""Measurements on the device: few sums, one transfer each, and everything else is arithmetic on the host.

Sums and what is made of them are joined by name. Names in ``shown``, ``by_head`` and ``measured`` are the payload's
own fields, so one line here reports a new one.
"""

from __future__ import annotations

import math
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Final

import torch

from esper_core.kl import KLStats
from esper_core.kl.torch import k3_and_clipped_sums, k3_sums, outlier_sums
from esper_core.ppo.distributions import Distribution
from esper_core.ppo.sums import HostSums, Sums
from esper_core.updates import FinalPass, Mean, Measured, MinibatchSeen

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor

    from esper_core.ppo.minibatches import Minibatch
    from esper_core.ppo.policy import MultiHeadPolicy
    from esper_core.ppo.reducer import Reducer
    from esper_core.ppo.rollout import Batch
    from esper_core.ppo.surrogate import Loss

__all__ = ["distribution_of", "measure", "minibatch_sums", "prepare", "see_minibatch", "seen_of"]

CHUNK: Final = 16384
"""Samples judged at once in a pass over a whole rollout: bounds its memory."""


def prepare(batch: Batch, *, normalise: bool, reducer: Reducer) -> tuple[Batch, dict[str, Measured]]:
    """Describe a rollout, and normalise its advantages over the unforced steps of all ranks.

    Over the rollout and not over each minibatch: a head that is active on few steps would otherwise see a mean
    that is not 0, and a minibatch of one sample has no deviation at all. A rollout of one unforced step has none
    either: its advantage stays as it is, since less its own mean it would be 0 and teach nothing.

    Returns:
        The batch with the advantages that the loss takes, and the payload's fields that the rollout shows.
    """
    unforced = batch.unforced.double()
    advantages, returns = batch.advantages.double(), batch.returns.double()
    residuals = returns - batch.values.double()
    sums = {
        **batch.counts(),
        "advantage": (advantages * unforced).sum(),
        "return": returns.sum(),
        "residual": residuals.sum(),
    }
    total = Sums.of(sums).over_ranks(reducer).to_host()
    steps, samples = total.one("steps"), total.one("samples")
    mean = total.one("advantage") / max(steps, 1.0)
    squares = {
        "advantage": ((advantages - mean).square() * unforced).sum(),
        "return": (returns - total.one("return") / samples).square().sum(),
        "residual": (residuals - total.one("residual") / samples).square().sum(),
    }
    spread = Sums.of(squares).over_ranks(reducer).to_host()
    std = math.sqrt(spread.one("advantage") / max(steps, 1.0))
    varies = spread.one("return") > 1e-12 * samples
    shown: dict[str, Measured] = {
        "steps": int(steps),
        "steps_forced": int(samples - steps),
        "advantage_mean": mean if steps else None,
        "advantage_std": std if steps else None,
        "explained_variance": 1.0 - spread.one("residual") / spread.one("return") if varies else None,
    }
    if normalise and steps > 1:
        advantages = (advantages - mean) / (std + 1e-8)
    # A forced step teaches the policy nothing: without an advantage it drops out of the surrogate.
    return batch.with_advantages((advantages * unforced).float()), shown


@torch.no_grad()
def see_minibatch(
    loss: Loss, minibatch: Minibatch, grad_norm: Tensor, *, interrupted: bool, clip_range: float, reducer: Reducer
) -> tuple[MinibatchSeen, bool]:
    """What one minibatch showed: sums reduced over ranks in one vector, then one transfer.

    Args:
        loss: of the minibatch.
        minibatch: its denominators are known already.
        grad_norm: of the gradient of all ranks.
        interrupted: whether this rank was asked to stop; one rank asked stops all.
        clip_range: beyond which a ratio, the joint one or a head's own, counts as clipped.
        reducer: joins the ranks.

    Returns:
        The minibatch, and whether any rank was asked to stop.
    """
    asked = grad_norm.new_ones(()) if interrupted else torch.zeros_like(grad_norm)
    *numbers, norms, stopped = reducer.sum(minibatch_sums(loss, clip_range, grad_norm, asked)).tolist()
    # Each rank has the norm of the whole gradient.
    return seen_of(numbers, norms / reducer.world_size, minibatch), stopped > 0


def minibatch_sums(loss: Loss, clip_range: float | Tensor, *more: Tensor) -> Tensor:
    """What :func:`seen_of` is made from, on the device.

    Args:
        loss: of the minibatch; detached.
        clip_range: beyond which a ratio counts as clipped; float32 () where it is a tensor.
        more: float32 (), to come with it.

    Returns:
        float64 (2 heads + 4 + more): numerators of the KL of each head and of the joint ratio, clipped ratios of each
        head and joint ones, sum of the surrogate, sum of the values' squared errors, and ``more``.
    """
    sums = k3_and_clipped_sums(torch.cat((loss.log_ratio, loss.joint.unsqueeze(1)), dim=1), clip_range)
    return torch.cat((sums, torch.stack((loss.surrogate, loss.squared_error, *more))))


def seen_of(numbers: list[float], grad_norm: float, minibatch: Minibatch) -> MinibatchSeen:
    """What a minibatch showed, from :func:`minibatch_sums` of all ranks and the norm of their gradient."""
    heads = len(minibatch.decisions)
    surrogate, squared_error = numbers[-2:]
    clipped = numbers[heads + 1 : 2 * heads + 1]
    shown = {
        "policy_loss": -surrogate / max(minibatch.steps, 1.0),
        "value_loss": 0.5 * squared_error / minibatch.samples,
        "grad_norm": grad_norm,
    }
    return MinibatchSeen(
        KLStats(tuple(numbers[:heads]), minibatch.decisions, minibatch.steps),
        shown,
        pooled={"clip_fraction": Mean(numbers[2 * heads + 1], minibatch.steps)},
        by_head={"clip_fraction": tuple(map(Mean, clipped, minibatch.decisions))},
    )


@torch.no_grad()
def distribution_of(policy: MultiHeadPolicy, batch: Batch) -> Distribution:
    """What each head draws from under the policy as it is, at all N samples."""
    return Distribution.joined([policy.distribution(part.observations, part.legal)[0] for part in _chunks(batch)])


@torch.no_grad()
def measure(
    policy: MultiHeadPolicy,
    batch: Batch,
    *,
    old: Distribution | None,
    reducer: Reducer,
) -> FinalPass:
    """The reported numbers: one pass over the whole rollout under the policy as it now is.

    Args:
        policy: after the last optimizer step.
        batch: the whole rollout.
        old: of the policy before the update, at every sample, for the exact KL; None for k3.
        reducer: joins the ranks.
    """
    sums: list[Sums] = []
    extremes: list[Sums] = []
    start = 0
    for part in _chunks(batch):
        added, largest = _final_sums(policy, part, None if old is None else old.rows(slice(start, start + len(part))))
        sums.append(added)
        extremes.append(largest)
        start += len(part)
    total, most = reduce(add, sums).over_ranks(reducer), reduce(Sums.most, extremes).most_of_ranks(reducer)
    seen = Sums.joined(total, most).to_host()
    steps, counted = seen.one("steps"), seen.group("head_count")
    return FinalPass(
        kl=_kl_stats(seen),
        by_head={name: tuple(map(Mean, sums, counted[name])) for name, sums in seen.group("head_sum").items()},
        measured={
            **{name: Mean(value, steps) for name, (value,) in seen.group("step_sum").items()},
            **{name: int(value) for name, (value,) in seen.group("count").items()},
            **{name: value if steps else None for name, (value,) in seen.group("most").items()},
        },
        non_finite=int(seen.one("non_finite")),
    )


def _final_sums(policy: MultiHeadPolicy, part: Batch, old: Distribution | None) -> tuple[Sums, Sums]:
    """Sums over some samples, and their extremes. A new number of the final pass is one line in one of four tables."""
    now = policy.evaluate(part.observations, part.actions, part.legal)
    active = part.active
    log_ratio = now.log_prob - part.log_prob
    joint_ratio = torch.where(active, log_ratio, 0.0).sum(-1).exp()
    clamped, non_finite = outlier_sums(log_ratio, active)
    legal = policy.layout.valid.to(active.device) if part.legal is None else part.legal
    choices = legal.sum(-1)
    # Field of HeadStats: values (B, heads), and the decisions that its mean is over. A density has no largest entropy:
    # the normalised one is not defined there.
    by_head = {
        "entropy": (now.entropy, active),
        "entropy_normalised": (now.entropy / choices.clamp_min(2).log(), active & (choices > 1)),
    }
    # Fields of the payload: values (B) whose mean is over unforced steps; counts (); largest values ().
    by_step: dict[str, Tensor] = {}
    counts = {"clamped": clamped}
    extremes = {"ratio_max": joint_ratio.amax() if len(part) else joint_ratio.new_zeros(())}

    kl = _kl_sums(log_ratio, active)
    if old is not None:
        kl["kl"] = policy.heads.exact_kl_sums(old, now.distribution, active)
    # Selected before they are summed: what an inactive head holds may be anything.
    selected = torch.stack([torch.where(where, values, 0.0) for values, where in by_head.values()])
    deciding = torch.stack([where for _, where in by_head.values()])
    sums = Sums.of(
        {
            **kl,
            "steps": part.unforced.sum(),
            "non_finite": non_finite,
            **_named("head_sum", by_head, selected.sum(1, dtype=torch.float64)),
            **_named("head_count", by_head, deciding.sum(1, dtype=torch.float64)),
            **_named(
                "step_sum",
                by_step,
                [torch.where(part.unforced, item, 0.0).sum(dtype=torch.float64) for item in by_step.values()],
            ),
            **_named("count", counts, counts.values()),
        }
    )
    return sums, Sums.of(_named("most", extremes, extremes.values()))


def _kl_sums(log_ratio: Tensor, active: Tensor) -> dict[str, Tensor]:
    """Numerators (k3) and decisions of every head, float64 (heads) each."""
    return {"kl": k3_sums(log_ratio, active), "decisions": active.sum(0, dtype=torch.float64)}


def _kl_stats(seen: HostSums) -> KLStats:
    return KLStats(seen.each("kl"), seen.each("decisions"), seen.one("steps"))


def _named(prefix: str, names: Iterable[str], values: Iterable[Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": value for name, value in zip(names, values, strict=True)}


def _chunks(batch: Batch) -> Iterator[Batch]:
    return batch.split(max(1, math.ceil(len(batch) / CHUNK)))  # a rank without samples takes part all the same
