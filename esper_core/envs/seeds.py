"""Seeds of environments and of their episodes: independent of each other, of one number of the run.

All come from NumPy's ``SeedSequence``. A seed has 31 bits, which every environment takes, also one whose simulator
keeps it in a C ``int``.
"""

from __future__ import annotations

import numpy as np

__all__ = ["environment_seeds", "episode_seed"]


def environment_seeds(seed: int, n_envs: int) -> list[int]:
    """Seeds of n environments: those of a SeedSequence's children, so that no two runs share one by their numbers.

    Args:
        seed: of the run (or of an evaluation), from 0.
        n_envs: environment i has the same seed for any number of them.
    """
    return [_word(np.random.SeedSequence(seed, spawn_key=(index,))) for index in range(n_envs)]


def episode_seed(base: int, episode: int) -> int:
    """The seed of one episode.

    Args:
        base: the environment's seed.
        episode: counted from 0 in that environment.
    """
    return _word(np.random.SeedSequence(base, spawn_key=(episode,)))


def _word(sequence: np.random.SeedSequence) -> int:
    return int(sequence.generate_state(1)[0]) >> 1
