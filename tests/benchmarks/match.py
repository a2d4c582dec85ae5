"""``match:Match-v0``: three heads, each of which must repeat what the observation shows. The best return is 25."""

from __future__ import annotations

from typing import Any, Final

import gymnasium as gym
import numpy as np

SIZES: Final = (3, 4, 5)
LENGTH: Final = 25


class Match(gym.Env[Any, Any]):
    """Shows one choice a head, one-hot; pays 1/3 for each head that repeats it, and draws the next."""

    observation_space = gym.spaces.MultiDiscrete(list(SIZES))
    action_space = gym.spaces.MultiDiscrete(list(SIZES))

    def __init__(self) -> None:
        self._shown = np.zeros(len(SIZES), dtype=np.int64)
        self._steps = 0

    def _draw(self) -> np.ndarray[Any, Any]:
        self._shown = self.np_random.integers(SIZES)
        return self._shown.copy()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self._steps = 0
        return self._draw(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._steps += 1
        reward = float(np.mean(np.asarray(action) == self._shown))
        return self._draw(), reward, self._steps >= LENGTH, False, {}


gym.register("Match-v0", Match)  # type: ignore[arg-type]  # its protocol asks for every keyword; it gives those of the id
