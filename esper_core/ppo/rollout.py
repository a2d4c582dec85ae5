"""Rollouts: what the old policy did, as flat tensors ready for minibatches."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from esper_core.ppo.episodes import EpisodeSummary

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from esper_core.ppo.heads import HeadLayout

__all__ = ["Batch", "Rollout", "active_decisions"]


def active_decisions(layout: HeadLayout, causal: Tensor, legal: Tensor | None) -> tuple[Tensor, Tensor]:
    """Which decisions count, and which steps were decisions at all.

    A step is forced when every causally active head had exactly one legal choice: whatever the policy thinks, it
    would have acted the same. Forced steps, and a step on which no head is active, count in no denominator.

    Args:
        layout: the heads.
        causal: bool (N, heads).
        legal: bool (N, heads, width) in force when sampling, or None.

    Returns:
        ``active`` bool (N, heads), the causal mask on unforced steps, and ``unforced`` bool (N,).
    """
    choices = (layout.valid.to(causal.device) if legal is None else legal).sum(-1)
    unforced = (causal & (choices > 1)).any(-1)
    return causal & unforced.unsqueeze(-1), unforced


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples of the old policy; every field has the same first dimension N, in any order.

    Attributes:
        observations: float32 (N, inputs).
        actions: int64 (N, heads).
        log_prob: float32 (N, heads), of the actions under the policy that took them, nats.
        legal: bool (N, heads, width) in force when sampling; None when every choice was legal.
        active: bool (N, heads), the causal mask on unforced steps.
        unforced: bool (N,).
        advantages: float32 (N,).
        returns: float32 (N,), advantages plus values before any normalisation.
        values: float32 (N,), the old value estimates.
    """

    observations: Tensor
    actions: Tensor
    log_prob: Tensor
    legal: Tensor | None
    active: Tensor
    unforced: Tensor
    advantages: Tensor
    returns: Tensor
    values: Tensor

    def __len__(self) -> int:
        return len(self.advantages)

    def counts(self) -> Tensor:
        """float64 (2): unforced steps, and samples: the denominators of the losses."""
        return torch.stack((self.unforced.sum(), self.unforced.new_tensor(len(self), dtype=torch.int64))).double()

    def take(self, index: Tensor) -> Batch:
        """The samples at ``index``: one gather per field."""
        return Batch(
            observations=self.observations[index],
            actions=self.actions[index],
            log_prob=self.log_prob[index],
            legal=self.legal[index] if self.legal is not None else None,
            active=self.active[index],
            unforced=self.unforced[index],
            advantages=self.advantages[index],
            returns=self.returns[index],
            values=self.values[index],
        )

    def split(self, parts: int) -> Iterator[Batch]:
        """Views of nearly equal size, in order."""
        size, longer = divmod(len(self), parts)
        start = 0
        for part in range(parts):
            end = start + size + (part < longer)
            chosen = slice(start, end)
            yield Batch(
                observations=self.observations[chosen],
                actions=self.actions[chosen],
                log_prob=self.log_prob[chosen],
                legal=self.legal[chosen] if self.legal is not None else None,
                active=self.active[chosen],
                unforced=self.unforced[chosen],
                advantages=self.advantages[chosen],
                returns=self.returns[chosen],
                values=self.values[chosen],
            )
            start = end

    def shuffled(self, parts: int, generator: torch.Generator) -> Iterator[Batch]:
        """Minibatches of one epoch: one permutation, one gather, then views."""
        order = torch.randperm(len(self), generator=generator)
        return self.take(order.to(self.observations.device)).split(parts)

    def to(self, device: torch.device) -> Batch:
        """The batch on another device."""
        if self.observations.device == device:
            return self
        return Batch(
            observations=self.observations.to(device),
            actions=self.actions.to(device),
            log_prob=self.log_prob.to(device),
            legal=self.legal.to(device) if self.legal is not None else None,
            active=self.active.to(device),
            unforced=self.unforced.to(device),
            advantages=self.advantages.to(device),
            returns=self.returns.to(device),
            values=self.values.to(device),
        )

    def with_advantages(self, advantages: Tensor) -> Batch:
        """The same samples with other advantages."""
        return replace(self, advantages=advantages)


@dataclass(frozen=True, slots=True)
class Rollout:
    """One update's worth of experience.

    Attributes:
        batch: the samples, on the CPU.
        env_steps: environment steps taken in the run when the update begins.
        episodes: episodes that finished meanwhile.
    """

    batch: Batch
    env_steps: int = 0
    episodes: EpisodeSummary = field(default_factory=EpisodeSummary)
