"""What is derived from an environment's observation space: its rows of numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from esper_core.errors import EnvironmentContractError, EnvironmentUnsupportedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from esper_core.ppo.task import FloatArray, IntArray

__all__ = ["ObservationRows"]


class ObservationRows:
    """Makes rows of float32 of observations: discrete ones become one-hot, bytes are scaled to 0..1.

    Args:
        space: of one observation.
        label: the environment's id, for messages.
    """

    def __init__(self, space: gym.Space[Any], label: str) -> None:
        self._one_hot: _OneHot | None = None
        if isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete):
            nvec = space.nvec if isinstance(space, gym.spaces.MultiDiscrete) else space.n
            self._one_hot = _OneHot(nvec, space.start, label)
            self.size = self._one_hot.size
        elif isinstance(space, gym.spaces.Box | gym.spaces.MultiBinary):
            self.size = math.prod(space.shape)
        else:
            raise EnvironmentUnsupportedError(
                f"{label} has observation space {space}",
                hint="Box, Discrete, MultiDiscrete and MultiBinary can be read; wrap others with FlattenObservation",
            )

    def __call__(self, batch: NDArray[Any]) -> FloatArray:
        """Observations (n, ...) of the space's shape as float32 (n, size).

        Raises:
            EnvironmentContractError: a discrete observation is outside its space.
        """
        rows = batch.reshape(len(batch), -1)
        if self._one_hot is not None:
            return self._one_hot(rows)
        # Bytes are pixels or registers: scaled to 0..1, they suit the network's first layer.
        return rows / np.float32(255) if rows.dtype == np.uint8 else rows.astype(np.float32, copy=False)


class _OneHot:
    """One-hot rows of several columns beside each other."""

    def __init__(self, sizes: Any, low: Any, label: str) -> None:
        self._label = label
        self._sizes: IntArray = np.asarray(sizes, dtype=np.int64).reshape(-1)
        self._low: IntArray = np.asarray(low, dtype=np.int64).reshape(-1)
        self._columns = np.concatenate(([0], np.cumsum(self._sizes)[:-1]))
        self.size = int(self._sizes.sum())

    def __call__(self, rows: NDArray[Any]) -> FloatArray:
        choices = rows - self._low
        outside = (choices < 0) | (choices >= self._sizes)
        if outside.any():
            env, column = (int(index) for index in np.argwhere(outside)[0])
            low, size = int(self._low[column]), int(self._sizes[column])
            raise EnvironmentContractError(
                f"{self._label}, environment {env}: observation is {rows[env, column]}, outside its observation_space",
                hint=f"it has the {size} values {low} to {low + size - 1}",
            )
        hot = np.zeros((len(rows), self.size), dtype=np.float32)
        np.put_along_axis(hot, choices + self._columns, 1.0, axis=1)
        return hot
