"""Environments stepped one after another in this process, for ``[env] vector = "sync"``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import concatenate, iterate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from esper_core.ppo.task import BoolArray

__all__ = ["InTurn"]


class InTurn(SyncVectorEnv):
    """Gymnasium's, with the same results in fewer operations, for environments that stand behind a gate.

    Observations are overwritten by the next step or reset: whoever keeps them copies them.

    Args:
        makers: make one environment each, behind a :class:`~esper_core.envs.gate.Gate`: what that has checked is not
            looked at again.
    """

    def __init__(self, makers: Sequence[Callable[[], gym.Env[Any, Any]]]) -> None:
        super().__init__(makers, copy=False, autoreset_mode=AutoresetMode.SAME_STEP)
        # Of these, the actions of all environments are the rows of one array.
        self._simple = isinstance(
            self.single_action_space, gym.spaces.Discrete | gym.spaces.MultiDiscrete | gym.spaces.Box
        )
        self._rows = self._observations if isinstance(self._observations, np.ndarray) else None
        """Where each environment's observation is one row of an array; else None."""

    def step(self, actions: Any) -> tuple[Any, np.ndarray[Any, np.dtype[np.float64]], BoolArray, BoolArray, Any]:
        """Step every environment, and begin an episode where one ended."""
        rewards, terminations, truncations = [], [], []
        rows, shown = self._rows, self._env_obs
        infos: dict[str, Any] = {}
        each = actions if self._simple else iterate(self.action_space, actions)
        for index, (env, action) in enumerate(zip(self.envs, each, strict=True)):
            observation, reward, terminated, truncated, info = env.step(action)
            rewards.append(reward)
            terminations.append(terminated)
            truncations.append(truncated)
            if terminated or truncated:
                infos = self._add_info(infos, {"final_obs": observation, "final_info": info}, index)
                observation, info = env.reset()
            shown[index] = observation
            if rows is not None:
                rows[index] = observation
            if info:
                infos = self._add_info(infos, info, index)
        if rows is None:
            self._observations = concatenate(self.single_observation_space, shown, self._observations)
        return self._observations, np.array(rewards), np.array(terminations), np.array(truncations), infos
