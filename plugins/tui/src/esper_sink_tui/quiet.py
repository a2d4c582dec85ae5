"""Full collections of garbage while nobody presses a key: one takes some 70 ms, in which no key would be answered."""

from __future__ import annotations

import gc
import time
from typing import Final

__all__ = ["QuietCollector"]

_EVERY_S: Final = 120.0
_LATEST_S: Final = 900.0
"""Seconds after which a full collection comes though keys are pressed all the time."""
_IDLE_S: Final = 3.0
_NEVER: Final = 1_000_000_000


class QuietCollector:
    """Takes the oldest generation out of Python's own schedule; the younger ones, of a millisecond, stay in it."""

    def __init__(self) -> None:
        self._before: tuple[int, int, int] | None = None
        self._collected = self._used = time.monotonic()

    def start(self) -> None:
        """Leave what was imported out of every collection to come, and full collections to :meth:`rest`."""
        if self._before is None:
            self._before = gc.get_threshold()
            gc.freeze()
            gc.set_threshold(*self._before[:2], _NEVER)

    def stop(self) -> None:
        """Give the schedule back to Python."""
        if self._before is not None:
            gc.set_threshold(*self._before)
            gc.unfreeze()
            self._before = None

    def used(self) -> None:
        """A key or the mouse was used."""
        self._used = time.monotonic()

    def rest(self) -> bool:
        """Collect when it is time and nobody notices. True when it did."""
        now = time.monotonic()
        since = now - self._collected
        if self._before is None or since < _EVERY_S or (now - self._used < _IDLE_S and since < _LATEST_S):
            return False
        gc.collect()
        self._collected = time.monotonic()
        return True
