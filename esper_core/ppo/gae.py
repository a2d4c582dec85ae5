"""Generalised advantage estimation (Schulman et al. 2016, arXiv:1506.02438), with truncation told from termination."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["generalised_advantages"]


def generalised_advantages(
    rewards: NDArray[Any],
    values: NDArray[Any],
    next_values: NDArray[Any],
    terminated: NDArray[np.bool_],
    truncated: NDArray[np.bool_],
    *,
    gamma: float,
    lam: float,
) -> NDArray[np.float64]:
    """Advantages of a rollout.

    ``delta_t = r_t + gamma * V(s'_t) - V(s_t)`` with ``V(s'_t) = 0`` only when the episode *terminated*; a truncated
    episode would have gone on, so its last observation's value counts. The sum over later deltas ends at either.

    Args:
        rewards: (T, n).
        values: (T, n), V(s_t).
        next_values: (T, n), V of the observation that step t led to: before any reset, so the *final* observation
            where an episode was truncated. Ignored where it terminated.
        terminated: (T, n), ended by the task.
        truncated: (T, n), cut by a limit.
        gamma: discount factor.
        lam: GAE's lambda.

    Returns:
        float64 (T, n). Returns are advantages plus values.
    """
    goes_on = ~terminated
    # where, not a product: the value after a terminal step may be anything, NaN included.
    following = np.where(goes_on, next_values, 0.0).astype(np.float64)
    deltas = rewards + gamma * following - values
    carry = gamma * lam * (goes_on & ~truncated)
    advantages: NDArray[np.float64] = np.empty_like(deltas)
    running = np.zeros(deltas.shape[1])
    for step in range(len(deltas) - 1, -1, -1):
        running = deltas[step] + carry[step] * running
        advantages[step] = running
    return advantages
