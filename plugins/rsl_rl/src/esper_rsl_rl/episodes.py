"""Episodes of parallel environments, summed on their device: one transfer to the host an update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Episode", "Episodes"]


@dataclass(frozen=True, slots=True)
class Episode:
    """One that ended.

    Attributes:
        total: undiscounted sum of the environment's rewards.
        length: environment steps.
        env_index: which of the parallel environments.
        truncated: a time limit ended it.
    """

    total: float
    length: int
    env_index: int
    truncated: bool


class Episodes:
    """Sums rewards until an episode ends. Waits for no device before :meth:`taken`."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None
        self._steps: list[Tensor] = []

    def step(self, rewards: Tensor, dones: Tensor, time_outs: Tensor | None) -> None:
        """Add one step of every environment.

        Args:
            rewards: float (environments), the environment's own, without what the algorithm adds for a time limit.
            dones: bool, or 0 and 1 (environments).
            time_outs: likewise, of those that a time limit ended; None where the environment does not tell.
        """
        ended = dones.reshape(-1) > 0
        reward = rewards.detach().reshape(-1).double()
        if self._sums is None:
            self._sums = torch.zeros(2, len(reward), dtype=torch.float64, device=reward.device)
        # Nothing in place: rsl_rl collects in inference mode, whose tensors may not be changed outside of it.
        sums = self._sums + torch.stack([reward, torch.ones_like(reward)])
        cut = torch.zeros_like(ended) if time_outs is None else time_outs.to(ended.device).reshape(-1) > 0
        self._steps.append(torch.cat([sums, torch.stack([ended, cut])]))
        self._sums = torch.where(ended, 0.0, sums)

    def taken(self) -> list[Episode]:
        """Those that ended since the last call, in the order of their ends."""
        if not self._steps:
            return []
        steps = torch.stack(self._steps, 0)  # (steps, what, environments)
        self._steps = []
        at, env = torch.nonzero(steps[:, 2] > 0, as_tuple=True)
        found = torch.stack([*steps[at, :, env].unbind(1), env.double()], 1).tolist()
        return [Episode(total, int(length), int(index), bool(cut)) for total, length, _, cut, index in found]
