"""Where sums over samples cross ranks. One rank needs nothing; the seam stands wherever a sum is taken."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Identity", "Reducer", "seed_of_rank"]


class Reducer(Protocol):
    """Combines sufficient statistics and gradients of all ranks.

    Only sums and maxima cross ranks, never means: a mean of rank means is wrong as soon as masks differ. Every
    rank receives the same result, so every rank takes the same decision (early stop, non-finite, interrupt).
    All ranks call in the same order; a call may block until all have.
    """

    @property
    def rank(self) -> int:
        """Which one this is, from 0."""
        ...

    @property
    def world_size(self) -> int:
        """Number of ranks, at least 1."""
        ...

    def sum(self, value: Tensor) -> Tensor:
        """Element-wise sum of ``value`` over all ranks, on ``value``'s device."""
        ...

    def max(self, value: Tensor) -> Tensor:
        """Element-wise maximum of ``value`` over all ranks, on ``value``'s device."""
        ...


class Identity:
    """The reducer of one rank: returns what it is given."""

    rank = 0
    world_size = 1

    def sum(self, value: Tensor) -> Tensor:
        """The value itself."""
        return value

    def max(self, value: Tensor) -> Tensor:
        """The value itself."""
        return value


def seed_of_rank(seed: int, rank: int) -> int:
    """The seed of what a rank draws for itself: environments, actions, the order of its samples.

    Rank 0 has the run's, as a run of one rank has. The others' have two levels below it, so that none is the seed of an
    environment (:func:`esper_core.envs.seeds.environment_seeds` takes one level).
    """
    if rank == 0:
        return seed
    return int(np.random.SeedSequence(seed, spawn_key=(rank, 0)).generate_state(1)[0]) >> 1
