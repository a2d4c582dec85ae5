"""Episode statistics: returns and lengths over environments, rollouts and the run."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from esper_core.events import EpisodeFinished
from esper_core.updates import EpisodeSummary, finite_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from esper_core.ppo.task import BoolArray, FloatArray

    IndexArray = NDArray[np.intp]

__all__ = ["Ended", "EpisodeTracker"]

RECENT: Final = 100
"""Episodes behind ``return_mean_100``."""


@dataclass(slots=True)
class Ended:
    """The episodes that one step ended, by column: an event is built when someone goes through them. Any thread.

    Attributes:
        first: the number of the first one.
        rows: (n,), which environments.
        returns: of each.
        lengths: of each, environment steps.
        terminated: bool (n,), whether the task ended it.
        truncated: bool (n,), whether a time limit did.
        env_steps: environment steps of the run so far.
    """

    first: int
    rows: IndexArray
    returns: list[float]
    lengths: list[int]
    terminated: BoolArray
    truncated: BoolArray
    env_steps: int

    def __iter__(self) -> Iterator[EpisodeFinished]:
        cut = self.truncated & ~self.terminated
        rows = zip(self.rows.tolist(), self.returns, self.lengths, cut.tolist(), strict=True)
        for number, (index, value, length, by_limit) in enumerate(rows, start=self.first):
            yield EpisodeFinished(
                episode=number,
                episode_return=value,
                length=length,
                env_index=index,
                truncated=bool(by_limit),
                env_steps=self.env_steps,
            )


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
        self._before = self.recent.copy()
        self._returns = np.zeros(n_envs)
        self._lengths = np.zeros(n_envs, dtype=np.int64)
        self._ended_returns: list[float] = []
        self._ended_lengths: list[int] = []

    def step(
        self,
        reward: FloatArray,
        terminated: BoolArray,
        truncated: BoolArray,
        *,
        env_steps: int,
        told: bool = True,
        resets: BoolArray | None = None,
    ) -> Ended | tuple[()]:
        """Take one step of all environments in.

        Args:
            reward: (n_envs,), of this step.
            terminated: (n_envs,), the task ended.
            truncated: (n_envs,), a time limit ended the episode.
            env_steps: environment steps of the run so far.
            told: build an event for each episode that ended; False counts them alone.
            resets: (n_envs,), where nothing was played; their reward and flags are 0. None for nowhere.

        Returns:
            The episodes that the step ended, in the order of the environments; none, which is false, unless ``told``.
        """
        self._returns += reward
        self._lengths += 1 if resets is None else ~resets
        done = terminated | truncated
        if not done.any():
            return ()
        rows = np.flatnonzero(done)
        first = self.episodes + 1
        self.episodes += len(rows)
        returns, lengths = self._returns[rows].tolist(), self._lengths[rows].tolist()
        self._returns[rows] = 0.0
        self._lengths[rows] = 0
        self.recent.extend(returns)
        self._ended_returns.extend(returns)
        self._ended_lengths.extend(lengths)
        if not told:
            return ()
        return Ended(first, rows, returns, lengths, terminated[rows], truncated[rows], env_steps)

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

    def joined(self, parts: Sequence[EpisodeSummary], own: int) -> EpisodeSummary:
        """Take in what other ranks finished since the last call; return the episodes of all.

        Args:
            parts: of each rank, as :meth:`drain` returned them there.
            own: which of them is this rank's, and counted already.
        """
        self.episodes += sum(len(part.returns) for part in parts) - len(parts[own].returns)
        # Side by side, as they ended in time: a hundred of one rank would else push out the others'.
        ended = [
            ((place + 1) / len(part.returns), rank, value)
            for rank, part in enumerate(parts)
            for place, value in enumerate(part.returns)
        ]
        self._before.extend(value for _, _, value in sorted(ended))
        self.recent = self._before.copy()
        return EpisodeSummary(
            returns=tuple(value for part in parts for value in part.returns),
            lengths=tuple(length for part in parts for length in part.lengths),
            mean_100=self.mean_100,
        )

    def drain(self) -> EpisodeSummary:
        """The episodes finished since the last call."""
        returns, self._ended_returns = self._ended_returns, []
        lengths, self._ended_lengths = self._ended_lengths, []
        return EpisodeSummary(
            returns=tuple(returns),
            lengths=tuple(lengths),
            mean_100=self.mean_100,
            total=self.episodes,
        )
