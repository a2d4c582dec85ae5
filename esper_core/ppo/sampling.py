"""Sampling all heads at once, with the conditioning head first where one head decides what the others may do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from esper_core.ppo.heads import HeadLayout
    from esper_core.ppo.task import BoolArray

__all__ = ["Noise", "condition", "noise"]


@dataclass(frozen=True, slots=True)
class Noise:
    """What actions of n environments are drawn with, in one step or, with a dimension before the others, in several.

    Attributes:
        gumbel: standard Gumbel noise float32 (n, heads that choose, width); None where no head does.
        normal: standard normal noise float32 (n, Gaussian heads); None without such heads.
    """

    gumbel: NDArray[np.float32] | None = None
    normal: NDArray[np.float32] | None = None

    def __getitem__(self, step: int) -> Noise:
        """That of one of several steps."""
        return Noise(
            None if self.gumbel is None else self.gumbel[step], None if self.normal is None else self.normal[step]
        )


def noise(layout: HeadLayout, steps: int, n_envs: int, generator: torch.Generator) -> Noise:
    """Noise for several steps, drawn at once."""
    choosing, dense = len(layout.choosing), len(layout.dense)
    gumbel = _gumbel((steps, n_envs, choosing, layout.width), generator).numpy() if choosing else None
    return Noise(gumbel, torch.randn(steps, n_envs, dense, generator=generator).numpy() if dense else None)


def _gumbel(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard Gumbel noise, float32: the choice with the largest log-probability plus noise is a sample."""
    drawn = torch.empty(shape).exponential_(generator=generator)
    # An exponential draw of 0 would be infinite noise, which not even an illegal choice could lose against.
    return drawn.clamp_(min=torch.finfo(torch.float32).tiny).log_().neg_()


def condition(
    layout: HeadLayout,
    head: int,
    *,
    scores: NDArray[np.float32],
    legal: BoolArray | None,
    conditional: BoolArray,
) -> tuple[NDArray[np.int64], BoolArray]:
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
    rows = layout.padded_mask(conditional)
    own = rows[:, :, head, :size].diagonal(axis1=1, axis2=2) if legal is None else legal[:, head, :size]
    choice: NDArray[np.int64] = np.where(own, scores[:, :size], -np.inf).argmax(-1)
    chosen: BoolArray = rows[np.arange(len(choice)), choice]
    if legal is not None:
        chosen &= legal
    chosen[:, head] = False
    chosen[:, head, :size] = own
    return choice, chosen
