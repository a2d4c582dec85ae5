"""Running normalisation of observations and of rewards, as Stable-Baselines3's VecNormalize does it.

The statistics of observations stand still while a rollout is played and while an update is taken, so that the policy
that is measured is the one that acted; they move after the update. Those of rewards need not wait: they are used only
when a rollout is packed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from esper_core.ppo.reducer import Reducer
    from esper_core.ppo.task import BoolArray

__all__ = ["ObservationNormaliser", "RewardNormaliser", "RunningMoments"]

CLIP: Final = 10.0
"""Largest normalised value."""
EPSILON: Final = 1e-8
"""Added to a variance."""


class RunningMoments:
    """Mean and variance of columns in float64, over everything seen (Chan, Golub and LeVeque 1979).

    Args:
        columns: how many.
    """

    def __init__(self, columns: int) -> None:
        self.count = 0.0
        self.mean = torch.zeros(columns, dtype=torch.float64)
        self.squares = torch.zeros(columns, dtype=torch.float64)
        """Sums of squared deviations from the mean."""

    @property
    def variance(self) -> Tensor:
        """Population variance, float64 (columns); 1 before anything was seen."""
        return self.squares / self.count if self.count else torch.ones_like(self.mean)

    def see(self, rows: Tensor, reducer: Reducer) -> None:
        """Take rows (N, columns) in, those of all ranks as one."""
        rows = rows.double()
        count = rows.new_full((1,), len(rows))
        total = reducer.sum(torch.cat([count, rows.sum(0)]))
        seen = total[0]
        if not seen:
            return
        mean = total[1:] / seen
        squares = reducer.sum((rows - mean).square().sum(0)).cpu()
        mean, added = mean.cpu(), float(seen)
        both = self.count + added
        apart = mean - self.mean
        self.squares = self.squares + squares + apart.square() * (self.count * added / both)
        self.mean = self.mean + apart * (added / both)
        self.count = both

    def join(self, reducer: Reducer) -> None:
        """Make what each rank has seen by itself, and nobody before, the moments of all: one exchange each of two."""
        if reducer.world_size == 1:
            return
        total = reducer.sum(torch.cat([self.mean.new_full((1,), self.count), self.mean * self.count]))
        if not total[0]:
            return  # nobody has seen anything
        mean = total[1:] / total[0]
        self.squares = reducer.sum(self.squares + (self.mean - mean).square() * self.count)
        self.mean, self.count = mean, float(total[0])

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"count": self.count, "mean": self.mean, "squares": self.squares}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from there.

        Raises:
            ValueError: it holds no such moments.
        """
        count, mean, squares = float(state["count"]), state["mean"].double(), state["squares"].double()
        if mean.shape != self.mean.shape or squares.shape != self.mean.shape:
            raise ValueError(f"statistics of {len(mean)} columns for {len(self.mean)}")
        if not (math.isfinite(count) and count >= 0 and (squares >= 0).all() and mean.isfinite().all()):
            raise ValueError("statistics that nothing can have")
        self.count, self.mean, self.squares = count, mean, squares


class ObservationNormaliser:
    """Shifts and scales rows by running statistics, and clips them.

    Args:
        columns: bool (inputs), which numbers are normalised; pixels and one-hot choices are not.
    """

    def __init__(self, columns: BoolArray) -> None:
        self._columns = torch.from_numpy(columns)
        self.moments = RunningMoments(len(columns))
        self._shift, self._scale = self._standing()

    @property
    def moved(self) -> bool:
        """Whether there are statistics at all."""
        return self.moments.count > 0

    def see(self, rows: Tensor, reducer: Reducer) -> None:
        """Take rows float32 (N, inputs) in."""
        self.moments.see(rows, reducer)
        self._shift, self._scale = self._standing()

    def join(self, reducer: Reducer) -> None:
        """Make the statistics of a first rollout, which each rank has by itself, those of all ranks."""
        self.moments.join(reducer)
        self._shift, self._scale = self._standing()

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's statistics."""
        self.moments.restore(state)
        self._shift, self._scale = self._standing()

    def __call__(self, rows: Tensor) -> Tensor:
        """Rows float32 (..., inputs) as the policy reads them."""
        if self._shift.device != rows.device:
            self._shift, self._scale = self._shift.to(rows.device), self._scale.to(rows.device)
            self._columns = self._columns.to(rows.device)
        # In float64: a mean may be far larger than what it is subtracted to show.
        normal = ((rows.double() - self._shift) * self._scale).clamp_(-CLIP, CLIP).float()
        return torch.where(self._columns, normal, rows)

    def _standing(self) -> tuple[Tensor, Tensor]:
        """What is subtracted, and what multiplies the rest."""
        return self.moments.mean, (self.moments.variance + EPSILON).rsqrt()


class RewardNormaliser:
    """Divides rewards by the standard deviation of the discounted return, and clips them.

    Args:
        gamma: discount factor.
    """

    def __init__(self, gamma: float) -> None:
        self.moments = RunningMoments(1)
        self._gamma = gamma
        self._running: NDArray[np.float64] | None = None
        """Discounted return so far of each environment's episode; None where all begin."""

    def __call__(
        self, rewards: NDArray[Any], done: BoolArray, reducer: Reducer, played: BoolArray | None = None
    ) -> NDArray[np.float64]:
        """Rewards float64 (T, n) of a rollout that follows the last one, scaled.

        Args:
            rewards: float64 (T, n).
            done: bool (T, n), ends an episode.
            reducer: of the ranks.
            played: bool (T, n), the steps that count; None for all.
        """
        returns = np.empty_like(rewards)
        running = self._running
        if running is None or running.shape != rewards.shape[1:]:
            running = np.zeros(rewards.shape[1:])
        for step in range(len(rewards)):
            running = running * self._gamma + rewards[step]
            returns[step] = running
            running[done[step]] = 0.0
        self._running = running
        counted = returns if played is None else returns[played]
        self.moments.see(torch.from_numpy(counted.reshape(-1, 1)), reducer)
        scale = math.sqrt(float(self.moments.variance) + EPSILON)
        scaled: NDArray[np.float64] = np.clip(rewards / scale, -CLIP, CLIP)
        return scaled

    def begin(self) -> None:
        """What follows does not continue the last rollout: every environment begins an episode."""
        self._running = None

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        running = None if self._running is None else torch.from_numpy(self._running)
        return {**self.moments.state(), "running": running}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from there, in the middle of the episodes that were played."""
        self.moments.restore(state)
        running = state["running"]
        self._running = None if running is None else running.double().numpy().copy()
