"""The text of an environment whose episodes take five steps, for modules that tests write for a program to import."""

from __future__ import annotations

from typing import Final

__all__ = ["SHORT_EPISODES"]

SHORT_EPISODES: Final = """
import gymnasium as gym, numpy as np

class Base(gym.Env):
    observation_space = gym.spaces.Box(-1.0, 1.0, (2,))
    action_space = gym.spaces.Discrete(2)
    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), {}
    def reward(self):
        return 1.0
    def step(self, action):
        self.steps += 1
        return np.zeros(2, np.float32), self.reward(), self.steps >= 5, False, {}
"""
"""``Base``; what derives from it overrides ``reward``, which is called once a step."""
