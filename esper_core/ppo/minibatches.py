"""Minibatches of an epoch with the denominators of their means, which depend on no weight: one transfer an epoch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from esper_core.ppo.reducer import Reducer
    from esper_core.ppo.rollout import Batch

__all__ = ["Minibatch", "minibatches"]


class Minibatch(NamedTuple):
    """What a loss is made of: B samples, and over how many its means are.

    Attributes:
        observations: float32 (B, inputs).
        actions: (B, heads), see :class:`~esper_core.ppo.rollout.Batch`.
        log_prob: float32 (B, heads), under the policy that took them, nats.
        legal: bool (B, heads, width), or None when every choice was legal.
        active: bool (B, heads).
        advantages: float32 (B,), 0 on forced steps.
        ratio_least: float32 (B,), below which the surrogate is flat in the joint ratio; -inf where nowhere.
        ratio_most: float32 (B,), above which it is; inf likewise.
        returns: float32 (B,).
        values: float32 (B,), the old value estimates.
        decisions: active ones of each head, over all ranks.
        steps: unforced ones, over all ranks.
        samples: over all ranks.
    """

    observations: Tensor
    actions: Tensor
    log_prob: Tensor
    legal: Tensor | None
    active: Tensor
    advantages: Tensor
    ratio_least: Tensor
    ratio_most: Tensor
    returns: Tensor
    values: Tensor
    decisions: tuple[float, ...]
    steps: float
    samples: float


def minibatches(batch: Batch, parts: int, *, clip_range: float, reducer: Reducer) -> Iterator[Minibatch]:
    """Views of a batch, in its order and of nearly equal size.

    Args:
        batch: N samples.
        parts: how many minibatches.
        clip_range: of the joint ratio around 1.
        reducer: joins the ranks.
    """
    size, longer = divmod(len(batch), parts)
    sizes = [size + 1] * longer + [size] * (parts - longer)
    # A ratio is bounded on the side to which its advantage drives it, and on no other.
    gains = batch.advantages >= 0
    least = torch.full_like(batch.advantages, -math.inf).where(gains, 1.0 - clip_range)
    most = torch.full_like(batch.advantages, math.inf).where(~gains, 1.0 + clip_range)
    legal = [None] * parts if batch.legal is None else batch.legal.split_with_sizes(sizes)
    for observations, actions, log_prob, mask, active, advantages, lower, upper, returns, values, counts in zip(
        batch.observations.split_with_sizes(sizes),
        batch.actions.split_with_sizes(sizes),
        batch.log_prob.split_with_sizes(sizes),
        legal,
        batch.active.split_with_sizes(sizes),
        batch.advantages.split_with_sizes(sizes),
        least.split_with_sizes(sizes),
        most.split_with_sizes(sizes),
        batch.returns.split_with_sizes(sizes),
        batch.values.split_with_sizes(sizes),
        _denominators(batch, size, longer, parts, reducer),
        strict=True,
    ):
        *decisions, steps, samples = counts
        yield Minibatch(
            observations,
            actions,
            log_prob,
            mask,
            active,
            advantages,
            lower,
            upper,
            returns,
            values,
            tuple(decisions),
            steps,
            samples,
        )


def _denominators(batch: Batch, size: int, longer: int, parts: int, reducer: Reducer) -> list[list[float]]:
    """Of each minibatch: active decisions of each head, unforced steps, samples."""
    one = torch.ones_like(batch.unforced)
    marks = torch.cat((batch.active, batch.unforced.unsqueeze(1), one.unsqueeze(1)), dim=1)
    columns = marks.shape[1]
    first, rest = marks.split_with_sizes([longer * (size + 1), (parts - longer) * size])
    counts = (
        first.view(longer, size + 1, columns).sum(1, dtype=torch.float64),
        rest.view(parts - longer, size, columns).sum(1, dtype=torch.float64),
    )
    numbers: list[list[float]] = reducer.sum(torch.cat(counts)).tolist()
    return numbers
