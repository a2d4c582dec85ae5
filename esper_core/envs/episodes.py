"""Seeded episodes: each has a seed of its own, so that an environment can be brought back to where a run stopped.

Environments are not part of a checkpoint. What is: the seed of each environment, the number of its episode and the
actions taken in it so far. The same seed and the same actions lead an environment that is deterministic to the same
place; whether they did is checked by what it shows.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

import gymnasium as gym
import numpy as np

from esper_core.envs.seeds import episode_seed

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SeededEpisodes"]

MOST_ACTIONS: Final = 100_000
"""Actions of an episode that are kept; a longer one begins anew when a run is resumed."""
_PLAIN: Final = (gym.spaces.Discrete, gym.spaces.MultiDiscrete, gym.spaces.MultiBinary, gym.spaces.Box)


class SeededEpisodes(gym.Wrapper[Any, Any, Any, Any]):
    """Seeds every episode by its number, and remembers the actions of the one that is played.

    A reset with a seed begins episode 0 of that seed, and one without the next episode. Stands outside all other
    wrappers.

    Attributes:
        resume_at: set before a reset, it makes that reset play an episode up to where it was: see :meth:`marked`.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.resume_at: Mapping[str, Any] | None = None
        self._base = 0
        self._episode = -1
        self._actions: list[Any] = []
        self._shown: Any = None
        self._mark: tuple[int, int, list[Any], int, str] | None = None
        self._lost = ""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode, or bring one back."""
        place, self.resume_at = self.resume_at, None
        if place is not None:
            return self._back(place, options)
        self._base, self._episode = (self._base, self._episode + 1) if seed is None else (seed, 0)
        return self._begin(options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take one action, and note it."""
        if len(self._actions) <= MOST_ACTIONS:
            self._actions.append(self._plain(action))
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._shown = observation
        return observation, reward, terminated, truncated, info

    def mark(self) -> None:
        """Remember this moment, whatever follows."""
        self._mark = (self._base, self._episode, self._actions, len(self._actions), _digest(self._shown))

    def marked(self) -> dict[str, Any]:
        """The moment of the last mark.

        Returns:
            ``base``: the environment's seed; ``episode``: the episode's number; ``actions``: those taken in it, an
            array (n, ...), None for more than ``MOST_ACTIONS``; ``shown``: a digest of the observation.
        """
        if self._mark is None:
            self.mark()
        assert self._mark is not None  # noqa: S101  # just made
        base, episode, actions, count, shown = self._mark
        taken = None if count > MOST_ACTIONS else np.stack(actions[:count]) if count else np.zeros(0)
        return {"base": base, "episode": episode, "actions": taken, "shown": shown}

    def lost(self) -> str:
        """Why the last attempt to bring an episode back failed; empty when it did not."""
        return self._lost

    def _begin(self, options: dict[str, Any] | None) -> tuple[Any, dict[str, Any]]:
        self._actions = []
        self._shown, info = self.env.reset(seed=episode_seed(self._base, self._episode), options=options)
        return self._shown, info

    def _back(self, place: Mapping[str, Any], options: dict[str, Any] | None) -> tuple[Any, dict[str, Any]]:
        """Play an episode up to where it was; begin the one after it when that leads elsewhere."""
        self._base, self._episode, self._lost = int(place["base"]), int(place["episode"]), ""
        if place["actions"] is None:
            self._lost = f"its episode had more than {MOST_ACTIONS} steps"
        else:
            shown, info = self._begin(options)
            for number, action in enumerate(place["actions"], start=1):
                shown, _, terminated, truncated, info = self.step(self._usable(action))
                if terminated or truncated:
                    self._lost = f"its episode ended at step {number} of {len(place['actions'])} this time"
                    break
            if not self._lost and _digest(shown) != place["shown"]:
                self._lost = "the same seed and actions led to another observation"
            if not self._lost:
                # A causal mask is of a step, and what is returned here stands for a reset.
                return shown, {key: value for key, value in info.items() if key != "causal_mask"}
        self._episode += 1
        return self._begin(options)

    def _plain(self, action: Any) -> Any:
        """A copy of an action that goes into one array with others."""
        if isinstance(self.action_space, _PLAIN):
            return np.array(action)
        return gym.spaces.flatten(self.action_space, action)

    def _usable(self, row: Any) -> Any:
        """The action that a row of that array stands for."""
        if isinstance(self.action_space, _PLAIN):
            return row
        return gym.spaces.unflatten(self.action_space, row)


def _digest(value: Any) -> str:
    """Of an observation of any space: its numbers, bit by bit."""
    found = hashlib.sha256()
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            stack.extend(item[key] for key in sorted(item))
        elif isinstance(item, tuple | list):
            stack.extend(item)
        elif isinstance(item, str):
            found.update(item.encode())
        else:
            found.update(np.ascontiguousarray(item).tobytes())
    return found.hexdigest()[:32]
