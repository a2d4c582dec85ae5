"""What waits for a slow sink: a bounded queue that knows what matters more."""

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
    """How much an event matters, 0 (episodes) to 4 (a run's first and last)."""
    return _PRIORITY.get(hook, _DEFAULT)


class PriorityBuffer:
    """A bounded first-in, first-out buffer that gives up lesser events before greater ones. Not locked."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._length = 0
        self._next = 0
        self._levels: tuple[deque[tuple[int, float, str, Any]], ...] = tuple(deque() for _ in range(_LEVELS))

    def __len__(self) -> int:
        return self._length

    @property
    def full(self) -> bool:
        """True when the next event costs one."""
        return self._length >= self._size

    def must_lose(self, priority: int) -> bool:
        """True when an event of this priority would cost one at least as important."""
        return self.full and not any(self._levels[level] for level in range(priority))

    def put(self, hook: str, event: Any, priority: int, now: float) -> int:
        """Append; when full, drop the oldest of the least important kind, or the event itself.

        Returns:
            How many events were lost by it: 0 or 1.
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
        """When the oldest event came, in the clock of ``put``."""
        return min((level[0][1] for level in self._levels if level), default=None)
