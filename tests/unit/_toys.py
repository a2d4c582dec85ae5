"""Small environments whose every number is known beforehand."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from esper_core.envs.adapter import GymTask


class Counter(gym.Env[Any, Any]):
    """Shows [steps taken, number]; reward 1; ends after ``length`` steps, by task or by limit.

    ``poison`` puts a value into the reward or the observation at step ``at``.
    """

    def __init__(
        self, length: int = 3, *, truncates: bool = False, poison: str = "", at: int = 2, value: float = np.nan
    ) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = gym.spaces.Discrete(2)
        self.length, self.truncates = length, truncates
        self.poison, self.at, self.value = poison, at, value
        self.steps = self.episodes = 0

    def _show(self) -> np.ndarray:
        shown = np.array([self.steps, self.episodes], dtype=np.float32)
        if self.poison == "observation" and self.steps == self.at:
            shown[1] = self.value
        return shown

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        self.episodes += 1
        return self._show(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        ended = self.steps >= self.length
        reward = self.value if self.poison == "reward" and self.steps == self.at else 1.0
        return self._show(), reward, ended and not self.truncates, ended and self.truncates, {}


class Grafting(gym.Env[Any, Any]):
    """Two heads, operation and slot, with every kind of mask; one environment of steps 0, 1, 2, ...

    Even steps allow operation 0 (WAIT) alone: forced, since slot has no effect under WAIT. Odd steps allow 1 (GRAFT)
    too, which may choose slot 1 or 2. The episode ends after 4 steps.
    """

    head_names = ("slot", "operation")
    conditioning_head = "operation"
    causal_table = np.array([[False, True], [True, True]])

    def __init__(self, *, tell: bool = False) -> None:
        self.observation_space = gym.spaces.Discrete(4)
        self.action_space = gym.spaces.MultiDiscrete([3, 2])
        self.tell = tell
        self.steps = 0

    def _info(self, action: Any = None) -> dict[str, Any]:
        graft = self.steps % 2 == 1
        info = {
            "action_mask": np.array([1, 1, 1, 1, graft], dtype=bool),
            "conditional_action_mask": np.array([[0, 0, 0, 1, graft], [0, 1, 1, 1, graft]], dtype=bool),
        }
        if self.tell and action is not None:
            info["causal_mask"] = np.array([action[1] == 1, True])
        return info

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return 0, self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        slot, operation = (int(value) for value in action)
        assert operation == 0 or self.steps % 2 == 1, "an illegal operation was sampled"
        assert operation == 0 or slot in {1, 2}, "an illegal slot was sampled"
        self.steps += 1
        ended = self.steps == 4
        return self.steps % 4, float(operation), ended, False, self._info(action)


class Mixed(gym.Env[Any, Any]):
    """Choices, a Box and switches in one action, masks of both kinds, and episodes that end by task or by limit.

    Every third step allows only the first choice; the Box has an effect where a choice other than 0 was taken.
    """

    def __init__(self, length: int = 3, *, truncates: bool = False, seed: int = 0) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.action_space = gym.spaces.Tuple(
            (gym.spaces.Discrete(3), gym.spaces.Box(-1, np.array([1, np.inf], np.float32)), gym.spaces.MultiBinary(2))
        )
        self.length, self.truncates = length, truncates
        self.random = np.random.default_rng(seed)
        self.steps = 0
        self.taken: list[Any] = []

    def _show(self) -> tuple[np.ndarray, dict[str, Any]]:
        mask = np.ones(7, dtype=bool)
        mask[1:3] = self.steps % 3 != 2
        return self.random.normal(size=3).astype(np.float32), {"action_mask": mask}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._show()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.taken.append(action)
        self.steps += 1
        ended = self.steps >= self.length
        shown, info = self._show()
        info["causal_mask"] = np.array([True, action[0] != 0, action[0] != 0, True, True])
        return shown, self.random.normal(), ended and not self.truncates, ended and self.truncates, info


def task(*envs: gym.Env[Any, Any], name: str = "toy", **options: Any) -> GymTask:
    """The environments side by side, as the trainer sees them."""
    vector = SyncVectorEnv([lambda env=env: env for env in envs], autoreset_mode=AutoresetMode.SAME_STEP)  # type: ignore[misc]
    return GymTask(vector, name=name, **options)
