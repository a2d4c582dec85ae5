"""Episode statistics: returns and lengths over environments, rollouts and the run."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from esper_core.events import EpisodeFinished

if TYPE_CHECKING:
    from collections.abc import Iterable

    from esper_core.ppo.task import BoolArray, FloatArray

__all__ = ["EpisodeSummary", "EpisodeTracker", "mean"]

RECENT: Final = 100
"""Episodes behind ``return_mean_100``."""


def mean(values: Iterable[float]) -> float | None:
    """Mean of the finite values; None for none. NaN returns are reported by the update's own counter."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else None


@dataclass(frozen=True, slots=True)
class EpisodeSummary:
    """Episodes that finished during one rollout.

    Attributes:
        returns: undiscounted return of each.
        lengths: environment steps of each.
        mean_100: mean return of the last 100 episodes of the run; None before the first.
    """

    returns: tuple[float, ...] = ()
    lengths: tuple[int, ...] = ()
    mean_100: float | None = None


class EpisodeTracker:
    """Adds rewards up until episodes end.

    Args:
        n_envs: environments stepped side by side.
        episodes: finished before, in earlier attempts of the run.
        recent: their last returns, oldest first.
    """

    def __init__(self, n_envs: int, *, episodes: int = 0, recent: Iterable[float] = ()) -> None:
        self.episodes = episodes
        self.recent: deque[float] = deque(recent, maxlen=RECENT)
        self._returns = np.zeros(n_envs)
        self._lengths = np.zeros(n_envs, dtype=np.int64)
        self._finished: list[EpisodeFinished] = []

    def step(
        self, reward: FloatArray, terminated: BoolArray, truncated: BoolArray, *, env_steps: int
    ) -> list[EpisodeFinished]:
        """Take one step of all environments in; return the episodes that it ended."""
        self._returns += reward
        self._lengths += 1
        done = terminated | truncated
        if not done.any():
            return []
        ended = []
        for index in np.flatnonzero(done).tolist():
            self.episodes += 1
            ended.append(
                EpisodeFinished(
                    episode=self.episodes,
                    episode_return=float(self._returns[index]),
                    length=int(self._lengths[index]),
                    env_index=index,
                    truncated=bool(truncated[index] and not terminated[index]),
                    env_steps=env_steps,
                )
            )
            self.recent.append(ended[-1].episode_return)
        self._returns[done] = 0.0
        self._lengths[done] = 0
        self._finished.extend(ended)
        return ended

    @property
    def mean_100(self) -> float | None:
        """Mean return of the last 100 finished episodes."""
        return mean(self.recent)

    def drain(self) -> EpisodeSummary:
        """The episodes finished since the last call."""
        finished, self._finished = self._finished, []
        return EpisodeSummary(
            returns=tuple(item.episode_return for item in finished),
            lengths=tuple(item.length for item in finished),
            mean_100=self.mean_100,
        )
