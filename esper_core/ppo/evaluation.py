"""Evaluation: what a policy earns when it no longer learns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from esper_core.averages import deviation, mean
from esper_core.errors import NonFiniteError
from esper_core.ppo.episodes import EpisodeTracker
from esper_core.ppo.finite import finite, first_fault

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from numpy.typing import NDArray

    from esper_core.events import EpisodeFinished
    from esper_core.ppo.agent import PPOAgent
    from esper_core.ppo.task import Task

__all__ = ["Evaluated", "evaluate"]


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Episodes played without learning.

    Attributes:
        returns: undiscounted, one an episode, all finite.
        lengths: environment steps, one an episode.
    """

    returns: tuple[float, ...]
    lengths: tuple[int, ...]

    @property
    def return_mean(self) -> float:
        """Mean return."""
        return mean(self.returns)

    @property
    def return_std(self) -> float:
        """Standard deviation of the returns (population)."""
        return deviation(self.returns)


def evaluate(
    agent: PPOAgent,
    task: Task,
    *,
    episodes: int,
    seed: int,
    deterministic: bool = False,
    generator: torch.Generator | None = None,
    on_step: Callable[[], object] | None = None,
) -> Evaluated:
    """Play whole episodes, the same number in every environment (to one): short ones are not preferred.

    Args:
        agent: acts.
        task: of the agent's shape.
        episodes: at least 1.
        seed: of the environments, see :meth:`Task.reset`.
        deterministic: the likeliest choice, or the mean, instead of a sample.
        generator: samples are drawn from it; None draws from the agent's own.
        on_step: called after each step of all environments; what it raises ends the evaluation.

    Raises:
        NonFiniteError: an observation, a reward or a return is NaN or infinite: what the policy earns is no number.
    """
    share, more = divmod(episodes, task.n_envs)
    wanted = np.array([share + (index < more) for index in range(task.n_envs)])
    played = np.zeros(task.n_envs, dtype=np.int64)
    tracker = EpisodeTracker(task.n_envs)
    kept: list[EpisodeFinished] = []
    observation, actor = task.reset(seed), agent.actor(task.n_envs)
    while (played < wanted).any():
        _refuse_non_finite("observation", observation.values)
        actions = agent.columns(
            observation.values,
            observation.action_mask,
            conditional_mask=observation.conditional_mask,
            deterministic=deterministic,
            generator=generator,
            actor=actor,
        )
        result = task.step(actions)
        _refuse_non_finite("reward", result.reward)
        with np.errstate(over="ignore"):  # a sum beyond float64 is told below
            ended = tracker.step(result.reward, result.terminated, result.truncated, env_steps=0, resets=result.resets)
        for episode in ended:
            if not math.isfinite(episode.episode_return):
                raise NonFiniteError(f"the return of an episode is {episode.episode_return}")
            if played[episode.env_index] < wanted[episode.env_index]:
                kept.append(episode)
            played[episode.env_index] += 1
        observation = result.observation
        if on_step is not None:
            on_step()
    return Evaluated(tuple(item.episode_return for item in kept), tuple(item.length for item in kept))


def _refuse_non_finite(what: str, values: NDArray[Any]) -> None:
    if not finite(values):
        raise NonFiniteError(
            f"NaN or Inf in an evaluation: {first_fault(what, values)[0]}",
            hint="a policy is evaluated on finite observations and rewards alone",
        )
