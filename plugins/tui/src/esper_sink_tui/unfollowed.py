"""The runs of a folder that are listed and not followed: read when their ``run.json`` changes, and forgotten again."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from esper_core.reading.listing import first_row, listed_row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from esper_core.reading.model import RunRow
    from esper_core.runs import RunDir

__all__ = ["Unfollowed"]

_REREAD_S: Final = 5.0
"""Least seconds between two reads of a run."""


@dataclass(slots=True)
class _Listed:
    """One run.

    Attributes:
        run: its directory.
        row: as it was last read.
        mark: of its ``run.json`` then; None before the end of its journal was read.
        due: monotonic seconds from which it is looked at again.
    """

    run: RunDir
    row: RunRow
    mark: tuple[int, int] | None = None
    due: float = -1.0

    def now(self) -> tuple[int, int]:
        """The mark of its ``run.json`` now; zeros when there is none."""
        try:
            found = self.run.record_path.stat()
        except OSError:
            return 0, 0
        return found.st_mtime_ns, found.st_ino


class Unfollowed:
    """Rows of runs by id. One thread reads; any thread may ask.

    Args:
        clock_ns: unix time in nanoseconds.
    """

    def __init__(self, clock_ns: Callable[[], int]) -> None:
        self._clock_ns = clock_ns
        self._lock = threading.Lock()
        self._runs: dict[str, _Listed] = {}

    def rows(self) -> list[RunRow]:
        """As they were last read."""
        with self._lock:
            return [item.row for item in self._runs.values()]

    def directories(self) -> list[tuple[RunDir, RunRow]]:
        """Each run's directory and row."""
        with self._lock:
            return [(item.run, item.row) for item in self._runs.values()]

    def take(self, run_id: str) -> RunDir | None:
        """A run that is followed from now on; None when it is none of these."""
        with self._lock:
            found = self._runs.pop(run_id, None)
        return None if found is None else found.run

    def set(self, runs: Iterable[RunDir]) -> bool:
        """List these runs and no others. True when some came or went; of new ones ``run.json`` alone is read."""
        here = {run.run_id: run for run in runs}
        with self._lock:
            new = [run for run_id, run in here.items() if run_id not in self._runs]
            gone = [run_id for run_id in self._runs if run_id not in here]
        made = [_Listed(run, first_row(run, now_ns=self._clock_ns())) for run in new]
        with self._lock:
            for run_id in gone:
                self._runs.pop(run_id, None)
            self._runs.update({item.run.run_id: item for item in made})
        return bool(new or gone)

    def read(self, deadline: float) -> tuple[bool, bool]:
        """Read those that are due and have changed; one at least.

        Args:
            deadline: monotonic seconds.

        Returns:
            Whether some are left to read now, and whether any row changed.
        """
        now = time.monotonic()
        with self._lock:
            due = [item for item in self._runs.values() if item.due <= now]
        changed = False
        for place, item in enumerate(due):
            if place and time.monotonic() > deadline:
                return True, changed
            item.due = now + _REREAD_S
            mark = item.now()
            if mark == item.mark and (item.row.state.ended or mark == (0, 0)):
                continue
            row = listed_row(item.run, now_ns=self._clock_ns())
            changed = changed or row != item.row
            item.mark, item.row = mark, row
        return False, changed
