"""Seeds of environments and of their episodes: independent of each other, of one number of the run.

All come from NumPy's ``SeedSequence``. A seed has 31 bits, which every environment takes, also one whose simulator
keeps it in a C ``int``.
"""

from __future__ import annotations

from typing import Final

import numpy as np

__all__ = ["environment_seeds", "episode_seed", "evaluation_seed"]

_EVALUATION: Final = 0x6576616C
"""Tells the seeds of evaluations from those of training: "eval" in ASCII."""


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


def evaluation_seed(seed: int) -> int:
    """The seed of a run's evaluations while it trains: no environment of theirs has a seed of the training's.

    Args:
        seed: of the run.
    """
    return _word(np.random.SeedSequence([seed, _EVALUATION]))


def _word(sequence: np.random.SeedSequence) -> int:
    return int(sequence.generate_state(1)[0]) >> 1
