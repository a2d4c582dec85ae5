"""The conditions that differ from episode to episode; the agent has to read them from the observation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from esper_env_morphogenesis.data import LENGTH
from esper_env_morphogenesis.host import SLOTS

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["RENT_RANGE", "SECOND_LESION", "World", "draw"]

RENT_RANGE: Final = (0.03, 0.4)
"""Lowest and highest rent rate: reward per epoch for as many parameters as a host has."""
SECOND_LESION: Final = (0.125, 0.333)
"""The earliest and latest time of the second lesion, as a share of the episode."""


@dataclass(frozen=True, eq=False)
class World:
    """One episode's conditions.

    Attributes:
        shuffled: the samples of every signal are in one random order, so neighbours are unrelated.
        order: int64, (40,), that order.
        lesions: (epoch, block) twice: in that epoch that block dies: its output is 0 from then on.
        rent: reward charged per epoch for as many learning parameters as a bare host has.
    """

    shuffled: bool
    order: Tensor
    lesions: tuple[tuple[int, int], tuple[int, int]]
    rent: float

    def alive(self, epoch: int) -> Tensor:
        """Which blocks work in an epoch: float32, (SLOTS,), 0 or 1."""
        dead = {block for start, block in self.lesions if epoch >= start}
        return torch.tensor([float(block not in dead) for block in range(SLOTS)])


def draw(random: np.random.Generator, epochs: int) -> World:
    """Draw an episode's world: half of them shuffled, two different blocks, rent log-uniform in ``RENT_RANGE``."""
    shuffled = bool(random.integers(2))
    permutation = random.permutation(LENGTH)
    first, second = random.permutation(SLOTS)[:2]
    low, high = (round(share * epochs) for share in SECOND_LESION)
    when = int(random.integers(low, high + 1))
    rent = float(np.exp(random.uniform(*np.log(RENT_RANGE))))
    return World(
        shuffled=shuffled,
        order=torch.from_numpy(permutation if shuffled else np.arange(LENGTH)),
        lesions=((0, int(first)), (when, int(second))),
        rent=rent,
    )
