"""Rollouts: what the old policy did, as flat tensors ready for minibatches."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import TYPE_CHECKING

import torch

from esper_core.updates import EpisodeSummary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from esper_core.ppo.heads import HeadLayout

__all__ = ["Batch", "Rollout", "active_decisions"]


def active_decisions(layout: HeadLayout, causal: Tensor, legal: Tensor | None) -> tuple[Tensor, Tensor]:
    """Which decisions count, and which steps were decisions at all.

    A decision needs an effect and a choice: a head with one legal choice, or whose bounds are one number, does the same
    whatever the policy thinks, and counting it would dilute every mean. A step on which no head decides is
    forced and counts in no denominator. This is the only place that says so.

    Args:
        layout: the heads.
        causal: bool (N, heads).
        legal: bool (N, heads, width) in force when sampling, so that of a conditioned head given the conditioning
            head's choice; None when every choice was legal.

    Returns:
        ``active`` bool (N, heads): causal, with more than one legal choice or a density; and ``unforced`` bool (N,):
        any of them.
    """
    active = causal & layout.open(legal, causal.device)
    return active, active.any(-1)


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples of the old policy; every field has the same first dimension N, in any order.

    Attributes:
        observations: float32 (N, inputs).
        actions: (N, heads) as they were sampled: int64, or float32 where any head is Gaussian (then before any clipping
            or squash).
        log_prob: float32 (N, heads), of the actions under the policy that took them, nats.
        legal: bool (N, heads, width) in force when sampling; None when every choice was legal.
        active: bool (N, heads), decisions with an effect and a choice; see ``active_decisions``.
        unforced: bool (N,), steps with at least one of them.
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

    def counts(self) -> dict[str, Tensor]:
        """The denominators of the losses, float64 (): unforced ``steps``, and ``samples``."""
        samples = self.advantages.new_full((), len(self), dtype=torch.float64)
        return {"steps": self.unforced.sum(dtype=torch.float64), "samples": samples}

    def take(self, index: Tensor) -> Batch:
        """The samples at ``index``: one gather per field; rows without gaps, as compiled code reads them."""
        return self._each(lambda values: values[index].contiguous())

    def split(self, parts: int) -> Iterator[Batch]:
        """Views of nearly equal size, in order."""
        size, longer = divmod(len(self), parts)
        start = 0
        for part in range(parts):
            end = start + size + (part < longer)
            yield self._each(itemgetter(slice(start, end)))
            start = end

    def shuffled(self, generator: torch.Generator) -> Batch:
        """The samples in an order drawn from the generator: one permutation, one gather a field."""
        order = torch.randperm(len(self), generator=generator)
        return self.take(order.to(self.observations.device))

    def to(self, device: torch.device) -> Batch:
        """The batch on another device."""
        return self._each(lambda values: values.to(device))

    def with_advantages(self, advantages: Tensor) -> Batch:
        """The same samples with other advantages."""
        return replace(self, advantages=advantages)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(
            change(self.observations),
            change(self.actions),
            change(self.log_prob),
            None if self.legal is None else change(self.legal),
            change(self.active),
            change(self.unforced),
            change(self.advantages),
            change(self.returns),
            change(self.values),
        )


@dataclass(frozen=True, slots=True)
class Rollout:
    """One update's worth of experience.

    Attributes:
        batch: the samples, on the CPU.
        env_steps: environment steps taken in the run when the update begins.
        episodes: episodes that finished meanwhile.
        raw: float32 (N, inputs), the batch's observations before they were normalised, for the statistics to take in
            after the update; None where nothing is normalised, or where they were taken in already.
    """

    batch: Batch
    env_steps: int = 0
    episodes: EpisodeSummary = field(default_factory=EpisodeSummary)
    raw: Tensor | None = None
