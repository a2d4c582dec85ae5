"""An index of a long run's effective updates: where each one lies and what its KL was, at 13 bytes an update."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from esper_core.events import PPOUpdatePayload
from esper_core.health import DEFAULT_KL_LIMITS, HealthLevel, KLLimits
from esper_core.reading.attempts import Attempts
from esper_core.reading.limits import run_limits
from esper_core.runs.scan import JournalScan, ScannedBeginning, ScannedUpdate
from esper_core.semconv.codec import CodecError, decode

if TYPE_CHECKING:
    from pathlib import Path

    from esper_core.events import TelemetryEvent
    from esper_core.runs.layout import JournalFile, RunDir

__all__ = ["IndexEntry", "UpdateIndex", "scan_index"]

_LEVELS: Final = tuple(HealthLevel)
_CODES: Final = {level: code for code, level in enumerate(_LEVELS)}


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One update in the index.

    Attributes:
        path: the journal file.
        offset: of its line, in bytes.
        update_id: its id.
        attempt: that made it.
        kl: the judged one, nats, to 7 digits; None when not measured. The level is that of the unrounded value.
        level: the update's own level.
    """

    path: Path
    offset: int
    update_id: int
    attempt: int
    kl: float | None
    level: HealthLevel


class UpdateIndex:
    """Effective updates by ascending id; positions count from 0 and move only when an attempt replaces others.

    Not shared by threads: build it in one and hand it over, or look things up under a lock.

    Args:
        run: the run, live or ended.
    """

    def __init__(self, run: RunDir) -> None:
        self.run = run
        self._scan = JournalScan(run)
        self._attempts = Attempts()
        self._limits: KLLimits | None = None
        self._ids = array("I")
        self._offsets = array("I")
        self._kls = array("f")
        self._levels = array("B")
        self._files: list[JournalFile] = []
        self._starts: list[int] = []

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, position: int) -> IndexEntry:
        item = self._file(position)
        return IndexEntry(
            path=item.path,
            offset=self._offsets[position],
            update_id=self._ids[position],
            attempt=item.attempt,
            kl=self.kl(position),
            level=self.level(position),
        )

    @property
    def nbytes(self) -> int:
        """Bytes the index holds for its updates."""
        return sum(column.itemsize * len(column) for column in (self._ids, self._offsets, self._kls, self._levels))

    def kl(self, position: int) -> float | None:
        """The judged KL in nats, to 7 digits; None when not measured."""
        value = self._kls[position]
        return None if math.isnan(value) and self.level(position) is HealthLevel.UNKNOWN else value

    @property
    def limits(self) -> KLLimits:
        """Those of the run, as they were when the index was begun; they say which KL it holds."""
        return self._limits if self._limits is not None else DEFAULT_KL_LIMITS

    def level(self, position: int) -> HealthLevel:
        """The update's own level."""
        return _LEVELS[self._levels[position]]

    def update_id(self, position: int) -> int:
        """Id of the update at a position."""
        return self._ids[position]

    def position(self, update_id: int) -> int | None:
        """Position of an update, or None when it is not there."""
        place = bisect_left(self._ids, update_id)
        return place if place < len(self._ids) and self._ids[place] == update_id else None

    def event(self, position: int) -> TelemetryEvent[PPOUpdatePayload]:
        """Read and decode one update.

        Raises:
            OSError: the file is gone.
            CodecError: the file was changed.
        """
        with self._file(position).path.open("rb") as file:
            file.seek(self._offsets[position])
            events = decode(file.readline())
        for event in events:
            if isinstance(event.payload, PPOUpdatePayload):
                return event
        raise CodecError(f"no PPO update at {self._file(position).path}, byte {self._offsets[position]}")

    def extend(self, max_bytes: int | None = None) -> bool:
        """Take in what was written since the last call.

        Args:
            max_bytes: stop after about this many, so that a background thread can breathe; None reads everything.

        Returns:
            True when there is more to read now.
        """
        if self._limits is None:
            self._limits = run_limits(self.run)
        for item in self._scan.read(max_bytes, on=self._limits.on):
            if isinstance(item, ScannedBeginning):
                self._begin(item.file.attempt, item.first)
            else:
                self._take(item)
        return self._scan.more

    def _take(self, item: ScannedUpdate) -> None:
        if self._ids and item.update_id <= self._ids[-1] and item.file.attempt <= self._file(-1).attempt:
            return  # a duplicate, or an attempt that was resumed while it still ran
        self._begin(item.file.attempt, item.update_id)
        if self._attempts.replaced(item.file.attempt, item.update_id):
            return
        if not self._files or self._files[-1] != item.file:
            self._files.append(item.file)
            self._starts.append(len(self._ids))
        self._ids.append(item.update_id)
        self._offsets.append(item.offset)
        self._kls.append(item.kl)
        self._levels.append(_CODES[item.level])

    def _begin(self, attempt: int, first: int) -> None:
        """Drop what a higher attempt replaces. Updates lie by id, those of lower attempts before those of higher."""
        if not self._attempts.begin(attempt, first):
            return
        keep = bisect_left(self._ids, first)
        if keep == len(self._ids) or not self._attempts.replaced(self._file(keep).attempt, self._ids[keep]):
            return
        for column in (self._ids, self._offsets, self._kls, self._levels):
            del column[keep:]
        self._starts = [min(start, keep) for start in self._starts]

    def _file(self, position: int) -> JournalFile:
        if position < 0:
            position += len(self._ids)
        return self._files[bisect_right(self._starts, position) - 1]


def scan_index(run: RunDir) -> UpdateIndex:
    """Index every effective update that a run has by now; call :meth:`UpdateIndex.extend` for those to come."""
    index = UpdateIndex(run)
    index.extend()
    return index
