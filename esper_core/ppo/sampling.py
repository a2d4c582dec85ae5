"""Sampling all heads at once, with the conditioning head first where one head decides what the others may do."""

from __future__ import annotations

from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from esper_core.ppo.heads import HeadLayout

__all__ = ["Noise", "condition", "noise"]


@dataclass(frozen=True, slots=True)
class Noise:
    """What actions of n environments are drawn with, in one step or, with a dimension before the others, in several.

    Attributes:
        gumbel: standard Gumbel noise float32 (n, heads that choose, width); None where no head does.
        normal: standard normal noise float32 (n, Gaussian heads); None without such heads.
    """

    gumbel: Tensor | None = None
    normal: Tensor | None = None

    def __getitem__(self, step: int) -> Noise:
        """That of one of several steps."""
        return self._each(itemgetter(step))

    def to(self, device: torch.device) -> Noise:
        """The noise on another device."""
        return self._each(lambda drawn: drawn.to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Noise:
        return Noise(
            None if self.gumbel is None else change(self.gumbel), None if self.normal is None else change(self.normal)
        )


def noise(layout: HeadLayout, steps: int, n_envs: int, generator: torch.Generator) -> Noise:
    """Noise for several steps, drawn at once."""
    choosing, dense = len(layout.choosing), len(layout.dense)
    gumbel = _gumbel((steps, n_envs, choosing, layout.width), generator) if choosing else None
    return Noise(gumbel, torch.randn(steps, n_envs, dense, generator=generator) if dense else None)


def _gumbel(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard Gumbel noise, float32: the choice with the largest log-probability plus noise is a sample."""
    drawn = torch.empty(shape).exponential_(generator=generator)
    # An exponential draw of 0 would be infinite noise, which not even an illegal choice could lose against.
    return drawn.clamp_(min=torch.finfo(torch.float32).tiny).log_().neg_()


def condition(
    layout: HeadLayout, head: int, *, scores: Tensor, legal: Tensor | None, conditional: Tensor
) -> tuple[Tensor, Tensor]:
    """Sample the conditioning head, and say what its choice leaves to every head.

    Args:
        layout: the heads.
        head: the conditioning head's column.
        scores: float (n, width), its logits plus noise.
        legal: bool (n, heads, width), or None when the environment gave no mask beside the conditional one: then a
            choice is legal when its own row allows it.
        conditional: bool (n, choices of the head, sum of head sizes).

    Returns:
        The choices int64 (n) of the conditioning head, and the mask bool (n, heads, width) of every head given
        them. The conditioning head keeps the mask it was sampled under: its log-probability is over all it had.
    """
    size = layout.sizes[head]
    rows = layout.pad(conditional)
    own = rows[:, :, head, :size].diagonal(dim1=1, dim2=2) if legal is None else legal[:, head, :size]
    choice = torch.where(own, scores[:, :size], -torch.inf).argmax(-1)
    chosen = rows[torch.arange(len(choice), device=choice.device), choice]
    if legal is not None:
        chosen = chosen & legal
    chosen[:, head] = False
    chosen[:, head, :size] = own
    return choice, chosen
