"""What a monitored run has done so far."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from esper_core.updates import finite_mean

if TYPE_CHECKING:
    from esper_core.events import PPOUpdatePayload

__all__ = ["Counts"]

RECENT: Final = 100
"""Episodes behind ``return_mean_100``."""


@dataclass(slots=True)
class Counts:
    """What the run has done so far.

    Attributes:
        updates: reported.
        env_steps: environment steps, as the loop told.
        episodes: finished.
        early_stops: updates that ended early.
        joint_stops: updates in which the stop rule on the joint KL would have stopped, early stops included.
        recent: returns of the last 100 episodes.
        last: the last update.
        failures: calls that failed and were swallowed.
    """

    updates: int = 0
    env_steps: int = 0
    episodes: int = 0
    early_stops: int = 0
    joint_stops: int = 0
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    last: PPOUpdatePayload | None = None
    failures: int = 0

    @property
    def evaluations_failed(self) -> None:
        """The loop's own evaluations are not known."""
        return

    @property
    def return_mean_100(self) -> float | None:
        """Mean return of the last 100 episodes."""
        return finite_mean(self.recent)
