"""The queue in front of a slow sink: bounded, and ordered by priority when it has to drop events."""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from esper_core.events import EVENTS, Priority

__all__ = ["LIFECYCLE", "PriorityBuffer", "priority_of"]

_PRIORITY: Final = {spec.hook: int(spec.priority) for spec in EVENTS.values()}
_LEVELS: Final = len(Priority)
_DEFAULT: Final = int(Priority.UPDATE)
LIFECYCLE: Final = int(Priority.LIFECYCLE)
"""The priority of a run's first and last event."""


def priority_of(hook: str) -> int:
    """The priority of an event, 0 (episodes) to 4 (a run's first and last event). The lowest is dropped first."""
    return _PRIORITY.get(hook, _DEFAULT)


class PriorityBuffer:
    """A bounded first-in, first-out buffer that drops the events of lowest priority first. Not locked."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._length = 0
        self._next = 0
        self._levels: tuple[deque[tuple[int, float, str, Any]], ...] = tuple(deque() for _ in range(_LEVELS))

    def __len__(self) -> int:
        return self._length

    @property
    def full(self) -> bool:
        """True when the buffer holds as many events as it may: putting one more drops one."""
        return self._length >= self._size

    def must_lose(self, priority: int) -> bool:
        """True when putting an event of this priority would drop an event of the same or a higher priority."""
        return self.full and not any(self._levels[level] for level in range(priority))

    def put(self, hook: str, event: Any, priority: int, now: float) -> int:
        """Append an event; when full, drop the oldest event of the lowest priority, or the new event itself.

        Returns:
            The number of events dropped: 0 or 1.
        """
        lost = 0
        if self.full:
            victim = next((level for level in self._levels[: priority + 1] if level), None)
            if victim is None:
                return 1
            victim.popleft()
            self._length -= 1
            lost = 1
        self._levels[priority].append((self._next, now, hook, event))
        self._next += 1
        self._length += 1
        return lost

    def pop(self) -> tuple[str, Any] | None:
        """The oldest event, or None."""
        oldest = min((level for level in self._levels if level), key=lambda level: level[0][0], default=None)
        if oldest is None:
            return None
        _, _, hook, event = oldest.popleft()
        self._length -= 1
        return hook, event

    def oldest(self) -> float | None:
        """The time at which the oldest event was put, in the clock of ``put``; None when empty."""
        return min((level[0][1] for level in self._levels if level), default=None)
