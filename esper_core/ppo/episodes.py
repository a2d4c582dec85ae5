"""Episode statistics: returns and lengths over environments, rollouts and the run."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import numpy as np

from esper_core.events import EpisodeFinished
from esper_core.updates import EpisodeSummary, finite_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from esper_core.ppo.task import BoolArray, FloatArray

__all__ = ["EpisodeTracker"]

RECENT: Final = 100
"""Episodes behind ``return_mean_100``."""


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
    def running(self) -> tuple[list[float], list[int]]:
        """Return and length so far of the episode that each environment plays."""
        return self._returns.tolist(), self._lengths.tolist()

    def go_on(self, running: Sequence[Sequence[float]], rows: Sequence[bool]) -> None:
        """Go on with the episodes of these environments, see :attr:`running`."""
        chosen = np.asarray(rows, dtype=bool)
        self._returns[chosen] = np.asarray(running[0])[chosen]
        self._lengths[chosen] = np.asarray(running[1], dtype=np.int64)[chosen]

    @property
    def mean_100(self) -> float | None:
        """Mean return of the last 100 finished episodes."""
        return finite_mean(self.recent)

    def drain(self) -> EpisodeSummary:
        """The episodes finished since the last call."""
        finished, self._finished = self._finished, []
        return EpisodeSummary(
            returns=tuple(item.episode_return for item in finished),
            lengths=tuple(item.length for item in finished),
            mean_100=self.mean_100,
        )
