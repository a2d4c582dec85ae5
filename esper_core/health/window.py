"""The window that a policy is judged over, held once in a process: the emitter adds to it, everybody asks it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

from esper_core.health.heads import PolicyLevel, UpdateSeen, policy_level
from esper_core.health.limits import DEFAULT_KL_LIMITS, HEALTH_WINDOW, KLLimits

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["PolicyWindow"]

UpdateT = TypeVar("UpdateT", bound=UpdateSeen)


class PolicyWindow(Generic[UpdateT]):
    """The last three updates of a run, over all its attempts, and the policy's level over them.

    Only the emitting thread changes it; any thread may read ``policy``.

    Args:
        limits: that the run is judged by.
        earlier: effective updates of earlier attempts, oldest first: a resumed run goes on from their level.
    """

    def __init__(self, limits: KLLimits = DEFAULT_KL_LIMITS, earlier: Iterable[UpdateT] = ()) -> None:
        self._updates: deque[UpdateT] = deque(earlier, maxlen=HEALTH_WINDOW)
        self._limits = limits
        self.policy: PolicyLevel = policy_level(self.updates, limits)

    @property
    def updates(self) -> tuple[UpdateT, ...]:
        """The updates that are judged, oldest first."""
        return tuple(self._updates)

    @property
    def limits(self) -> KLLimits:
        """That the run is judged by; others judge what is held anew."""
        return self._limits

    @limits.setter
    def limits(self, limits: KLLimits) -> None:
        if limits != self._limits:
            self._limits = limits
            self.policy = policy_level(self.updates, limits)

    def add(self, update: UpdateT) -> PolicyLevel:
        """Take in an update, and return the policy's level after it. The newest one, given again, changes nothing."""
        if not self._updates or self._updates[-1] is not update:
            self._updates.append(update)
            self.policy = policy_level(self.updates, self._limits)
        return self.policy
