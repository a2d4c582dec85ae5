"""TrainResult: how training ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from esper_core.events import PPOUpdatePayload
    from esper_core.health import RunState


__all__ = ["TrainResult"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """How training ended. Counts are over all attempts of the run, but for ``early_stops``.

    Attributes:
        state: done, stopped (by a signal) or failed (NaN or Inf).
        reason: in words.
        updates: the last update's id.
        env_steps: environment steps taken.
        episodes: finished episodes.
        early_stops: updates of this attempt that the KL stopped.
        joint_stops: updates of this attempt in which the same rule on the joint KL would have stopped, early stops
            included; None when early stopping is off.
        return_mean_100: mean return of the last 100 episodes.
        last: the last update as it was emitted; None before the first.
        evaluations_failed: evaluations of this attempt whose environments failed.
        exit_signal: the signal that ended it, when the stop flag knows one.
        unsaved: why the last checkpoint could not be written; empty when it was.
    """

    state: RunState
    reason: str
    updates: int
    env_steps: int
    episodes: int
    early_stops: int
    joint_stops: int | None
    return_mean_100: float | None
    last: PPOUpdatePayload | None
    evaluations_failed: int = 0
    exit_signal: int | None = None
    unsaved: str = ""
