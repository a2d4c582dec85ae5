"""An index of a long run's effective updates: where each one lies and what its KL was, at 25 bytes an update."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final, cast

from esper_core.errors import JournalError
from esper_core.events import PPOUpdatePayload
from esper_core.health import DEFAULT_KL_LIMITS, HealthLevel, KLLimits
from esper_core.reading.attempts import Attempts
from esper_core.reading.limits import run_limits
from esper_core.runs.lines import decode_line
from esper_core.runs.scan import JournalScan, ScannedBeginning, ScannedEvaluation, ScannedUpdate
from esper_core.runs.segments import open_journal
from esper_core.semconv.codec import CodecError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from esper_core.events import PolicyEvaluated, TelemetryEvent
    from esper_core.runs.layout import JournalFile, RunDir

__all__ = ["IndexEntry", "UpdateIndex", "scan_index"]

_INT64: Final = range(-(2**63), 2**63)
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
        self.disordered = 0
        """Updates that lie in the journal behind a later one of their attempt, which Esper's writer never does."""
        self._scan = JournalScan(run)
        self._attempts = Attempts()
        self._limits: KLLimits | None = None
        self._ids = array("q")
        self._offsets = array("Q")
        self._kls = array("f")
        self._levels = array("B")
        self._places = array("I")
        self._files: list[JournalFile] = []
        self._evaluations: dict[int, ScannedEvaluation] = {}

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
    def diverging(self) -> AbstractSet[int]:
        """Attempts with an update that has divergences."""
        return self._scan.diverging

    @property
    def nbytes(self) -> int:
        """Bytes the index holds for its updates."""
        return sum(column.itemsize * len(column) for column in self._columns)

    @property
    def _columns(self) -> tuple[array[int] | array[float], ...]:
        return self._ids, self._offsets, self._kls, self._levels, self._places

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

    def attempt(self, position: int) -> int:
        """The attempt that made the update at a position."""
        return self._file(position).attempt

    def update_id(self, position: int) -> int:
        """Id of the update at a position."""
        return self._ids[position]

    @property
    def update_ids(self) -> Sequence[int]:
        """Id of every update, by position; a copy."""
        return self._ids[:]

    @property
    def kls(self) -> Sequence[float]:
        """The judged KL of every update in nats, to 7 digits, by position; NaN where not measured. A copy."""
        return self._kls[:]

    @property
    def broken(self) -> list[int]:
        """Ids of the updates that are not finite."""
        code, levels = _CODES[HealthLevel.NON_FINITE], self._levels
        return [self._ids[at] for at in range(len(levels)) if levels[at] == code] if code in levels else []

    @property
    def resumes(self) -> list[int]:
        """Ids of the updates with which a later attempt begins."""
        places, files = self._places, self._files
        # Almost all neighbours lie in one file.
        turns = [at + 1 for at, (one, other) in enumerate(pairwise(places)) if one != other]
        return [self._ids[at] for at in turns if files[places[at]].attempt != files[places[at - 1]].attempt]

    def position(self, update_id: int) -> int | None:
        """Position of an update, or None when it is not there."""
        place = bisect_left(self._ids, update_id)
        return place if place < len(self._ids) and self._ids[place] == update_id else None

    def event(self, position: int) -> TelemetryEvent[PPOUpdatePayload]:
        """Read and decode one update.

        Raises:
            JournalError: the file is gone or cannot be read.
            CodecError: the file was changed, or the line is damaged.
        """
        path, offset = self._file(position).path, self._offsets[position]
        file = open_journal(path)
        if file is None:
            raise JournalError(f"{path} is gone")
        try:
            with file:
                file.seek(offset)
                line = file.readline()
        except OSError as error:  # a broken disk
            raise JournalError(f"cannot read {path}: {error.strerror or error}") from error
        for event in decode_line(line):
            payload = event.payload
            if isinstance(payload, PPOUpdatePayload) and payload.update_id == self._ids[position]:
                return cast("TelemetryEvent[PPOUpdatePayload]", event)
        raise CodecError(f"no PPO update at {path}, byte {offset}")

    @property
    def evaluations(self) -> tuple[PolicyEvaluated, ...]:
        """The effective evaluations, ascending by update."""
        found = sorted(self._evaluations.items())
        return tuple(
            item.payload for update_id, item in found if not self._attempts.replaced(item.file.attempt, update_id)
        )

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
            elif isinstance(item, ScannedEvaluation):
                self._evaluations[item.payload.update_id] = item
            else:
                self._take(item)
        return self._scan.more

    def _take(self, item: ScannedUpdate) -> None:
        if item.update_id not in _INT64:
            return
        attempt = item.file.attempt
        if not self._follows(item):
            place = bisect_left(self._ids, item.update_id)
            late = place < len(self._ids)
            if late and attempt <= self._file(place).attempt and self._ids[place] == item.update_id:
                return  # a duplicate, or an attempt that was resumed while it still ran
            self._begin(attempt, item.update_id)
        if self._attempts.replaced(attempt, item.update_id):
            return
        place = bisect_left(self._ids, item.update_id) if self._ids and item.update_id <= self._ids[-1] else len(self)
        self.disordered += place < len(self._ids)
        if not self._files or (self._files[-1] is not item.file and self._files[-1] != item.file):
            self._files.append(item.file)
        self._ids.insert(place, item.update_id)
        self._offsets.insert(place, item.offset)
        self._kls.insert(place, item.kl)
        self._levels.insert(place, _CODES[item.level])
        self._places.insert(place, len(self._files) - 1)

    def _follows(self, item: ScannedUpdate) -> bool:
        """Whether an update lies behind the last one in the same file, as almost all do: its attempt has begun."""
        return bool(self._ids) and item.update_id > self._ids[-1] and item.file is self._files[self._places[-1]]

    def _begin(self, attempt: int, first: int) -> None:
        """Drop what a higher attempt replaces."""
        if not self._attempts.begin(attempt, first):
            return
        keep = end = bisect_left(self._ids, first)
        while end < len(self._ids) and self._attempts.replaced(self._file(end).attempt, self._ids[end]):
            end += 1
        if keep < end:
            for column in self._columns:
                del column[keep:end]

    def _file(self, position: int) -> JournalFile:
        return self._files[self._places[position]]


def scan_index(run: RunDir) -> UpdateIndex:
    """Index every effective update that a run has by now; call :meth:`UpdateIndex.extend` for those to come."""
    index = UpdateIndex(run)
    index.extend()
    return index
