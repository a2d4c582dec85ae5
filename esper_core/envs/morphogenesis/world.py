"""What differs from episode to episode, and must be seen to be acted on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from esper_core.envs.morphogenesis.blueprints import CHANNELS
from esper_core.envs.morphogenesis.data import LENGTH
from esper_core.envs.morphogenesis.host import SLOTS

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["RENT_RANGE", "SECOND_LESION", "World", "draw"]

RENT_RANGE: Final = (0.03, 0.4)
"""Lowest and highest rent rate: reward per epoch for as many parameters as a host has."""
SECOND_LESION: Final = (0.25, 0.5)
"""When the second lesion strikes, as a share of the episode: between these."""


@dataclass(frozen=True, eq=False)
class World:
    """One episode's conditions.

    Attributes:
        shuffled: the samples of every signal stand in one random order, so neighbours mean nothing.
        order: int64, (40,), that order.
        lesions: two blocks and the epoch at which each loses all channels but one.
        keeps: the channel that each lesion spares.
        rent: reward charged per epoch for as many learning parameters as a bare host has.
    """

    shuffled: bool
    order: Tensor
    lesions: tuple[tuple[int, int], tuple[int, int]]
    keeps: tuple[int, int]
    rent: float

    def lesion(self, epoch: int) -> Tensor:
        """What each block's channels are multiplied with at an epoch: float32, (SLOTS, CHANNELS), 0 or 1."""
        factors = torch.ones(SLOTS, CHANNELS)
        for (start, block), keep in zip(self.lesions, self.keeps, strict=True):
            if epoch >= start:
                factors[block] = 0.0
                factors[block, keep] = 1.0
        return factors


def draw(random: np.random.Generator, epochs: int) -> World:
    """Draw an episode's world: half of them shuffled, two different blocks, rent log-uniform in ``RENT_RANGE``."""
    shuffled = bool(random.integers(2))
    permutation = random.permutation(LENGTH)
    first, second = random.permutation(SLOTS)[:2]
    low, high = (round(share * epochs) for share in SECOND_LESION)
    when = int(random.integers(low, high + 1))
    keeps = random.integers(CHANNELS, size=2)
    rent = float(np.exp(random.uniform(*np.log(RENT_RANGE))))
    return World(
        shuffled=shuffled,
        order=torch.from_numpy(permutation if shuffled else np.arange(LENGTH)),
        lesions=((0, int(first)), (when, int(second))),
        keeps=(int(keeps[0]), int(keeps[1])),
        rent=rent,
    )
