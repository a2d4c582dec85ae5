"""Which changes of the level are told: from a level on, and not more often than the pause allows. Pure."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from esper_core.health import HealthLevel

if TYPE_CHECKING:
    from collections.abc import Callable

    from esper_core.events import PolicyHealthChanged, TelemetryEvent

__all__ = ["LevelNews"]


class LevelNews:
    """Compares the level with the one that was told last.

    Args:
        least: lower levels count as healthy.
        pause_s: least seconds between two pieces of news; one that is worse than what was told does not wait.
        clock: monotonic seconds.
    """

    def __init__(self, least: HealthLevel, pause_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._least = least
        self._pause_s = pause_s
        self._clock = clock
        self._told = HealthLevel.HEALTHY
        self._told_at: float | None = None
        self._newest: TelemetryEvent[PolicyHealthChanged] | None = None

    def changed(self, event: TelemetryEvent[PolicyHealthChanged]) -> None:
        """The level changed."""
        self._newest = event

    def due(self) -> TelemetryEvent[PolicyHealthChanged] | None:
        """The change to tell now, from the level that was told last; None when there is none."""
        event = self._newest
        if event is None:
            return None
        level = event.payload.current if event.payload.current.severity >= self._least.severity else HealthLevel.HEALTHY
        if level is self._told:
            self._newest = None
            return None
        worse = level.severity > self._told.severity
        if not worse and self._told_at is not None and self._clock() - self._told_at < self._pause_s:
            return None
        told, self._told, self._told_at, self._newest = self._told, level, self._clock(), None
        return replace(event, payload=replace(event.payload, previous=told))
