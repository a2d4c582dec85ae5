"""An environment of the benchmarks: Esper names it ``esper_bench.tasks:EsperBenchFiveHeads-v0``."""

from __future__ import annotations

from typing import Any, Final

import gymnasium as gym
import numpy as np

__all__ = ["FIVE_HEADS", "FiveHeads"]

FIVE_HEADS: Final = "EsperBenchFiveHeads-v0"
"""The id."""
_SIZES: Final = np.array([3, 5, 3, 3, 4])
_STEPS: Final = 50


class FiveHeads(gym.Env[Any, Any]):
    """Five decisions a step: a head is paid for the choice that the observation's sign and place tell it."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (8,), np.float32)
        self.action_space = gym.spaces.MultiDiscrete(_SIZES)
        self._seen = np.zeros(8, np.float32)
        self._taken = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._taken = 0
        return self._look(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        wanted = ((self._seen[:5] + 1.0) * 0.5 * _SIZES).astype(np.int64)
        reward = float((np.asarray(action) == np.minimum(wanted, _SIZES - 1)).mean())
        self._taken += 1
        return self._look(), reward, False, self._taken >= _STEPS, {}

    def _look(self) -> Any:
        self._seen = self.np_random.uniform(-1.0, 1.0, 8).astype(np.float32)
        return self._seen.copy()


gym.register(FIVE_HEADS, entry_point="esper_bench.tasks:FiveHeads")
