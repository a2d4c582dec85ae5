"""An index of a long run's effective updates: where each one lies and what its KL was, at 13 bytes an update.

The scan looks for a few keys in the bytes of a line and decodes nothing; only lines that are written otherwise than
Esper's own writer does it take the slow way.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from esper_core.events import Payload, PPOUpdatePayload, RunStarted, TelemetryEvent
from esper_core.health import HealthLevel
from esper_core.runs.layout import JournalFile, RunDir, journal_files
from esper_core.runs.reader import open_journal
from esper_core.semconv.codec import CodecError, decode
from esper_core.semconv.identity import MARKED

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["IndexEntry", "UpdateIndex", "scan_index"]

_END: Final = b"]}]}]}"
_UPDATE: Final = b'"name":"esper.ppo.update"'
_UPDATE_LOOSE: Final = b'esper.ppo.update"'
_STARTED_LOOSE: Final = b'esper.run.started"'
_MARKED: Final = f'"{MARKED}"'.encode()
_UPDATE_ID: Final = b'"esper.ppo.update_id","value":{"intValue":"'
_KL: Final = b'"esper.ppo.kl_divergence","value":{"doubleValue":'
_HEALTH: Final = b'"esper.ppo.health","value":{"stringValue":"'
_LEVELS: Final = tuple(HealthLevel)
_CODES: Final = {level.value.encode(): code for code, level in enumerate(_LEVELS)}
_NOT_MEASURED: Final = math.nan


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One update in the index.

    Attributes:
        path: the journal file.
        offset: of its line, in bytes.
        update_id: its id.
        attempt: that made it.
        kl: nats, to 7 digits; None when not measured. The level is that of the unrounded value.
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
        self._ids = array("I")
        self._offsets = array("I")
        self._kls = array("f")
        self._levels = array("B")
        self._files: list[JournalFile] = []
        self._starts: list[int] = []
        self._read: dict[str, int] = {}
        self._attempt = 0

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
        """KL in nats, to 7 digits; None when not measured."""
        value = self._kls[position]
        return None if math.isnan(value) and self.level(position) is HealthLevel.UNKNOWN else value

    def level(self, position: int) -> HealthLevel:
        """The update's own level."""
        return _LEVELS[self._levels[position]]

    def update_id(self, position: int) -> int:
        """Id of the update at a position."""
        return self._ids[position]

    def position(self, update_id: int) -> int | None:
        """Position of an update, or None when it is not there."""
        found = bisect_left(self._ids, update_id)
        return found if found < len(self._ids) and self._ids[found] == update_id else None

    def event(self, position: int) -> TelemetryEvent[PPOUpdatePayload]:
        """Read and decode one update.

        Raises:
            OSError: the file is gone.
            CodecError: the file was changed.
        """
        with self._file(position).path.open("rb") as file:
            file.seek(self._offsets[position])
            found = decode(file.readline())
        for event in found:
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
        left = max_bytes
        for item in journal_files(self.run):
            file = open_journal(item.path)
            if file is None:
                continue
            with file:
                offset = file.seek(self._read.get(item.path.name, 0))
                while True:
                    if left is not None and left <= 0:
                        return True
                    line = file.readline()
                    if not line.endswith(b"\n"):
                        break
                    self._take(item, offset, line)
                    offset += len(line)
                    self._read[item.path.name] = offset
                    if left is not None:
                        left -= len(line)
        return False

    def _take(self, item: JournalFile, offset: int, line: bytes) -> None:
        """Index one line."""
        name = line.find(_UPDATE)
        if name < 0 or not line.endswith(_END, 0, -1):
            if _UPDATE_LOOSE in line or _STARTED_LOOSE in line:
                self._take_slowly(item, offset, line)
            return
        start = line.find(_UPDATE_ID, name)
        if start < 0 or line.find(_MARKED, name, start) >= 0:
            return
        start += len(_UPDATE_ID)
        update_id = int(line[start : line.index(b'"', start)])
        value = _NOT_MEASURED
        at = line.find(_KL, start)
        if at >= 0:
            at += len(_KL)
            value = float(line[at : line.index(b"}", at)].strip(b'"'))
        at = line.find(_HEALTH, start)
        code = 0
        if at >= 0:
            at += len(_HEALTH)
            code = _CODES.get(line[at : line.index(b'"', at)], 0)
        self._append(item, offset, update_id, value, code)

    def _take_slowly(self, item: JournalFile, offset: int, line: bytes) -> None:
        try:
            events: list[TelemetryEvent[Payload]] = decode(line)
        except CodecError:
            return
        for event in events:
            payload = event.payload
            if event.marked:
                continue
            if isinstance(payload, RunStarted):
                self._begin(item.attempt, payload.first_update_id)
            elif isinstance(payload, PPOUpdatePayload):
                value = payload.kl_divergence if payload.kl_divergence is not None else _NOT_MEASURED
                self._append(item, offset, payload.update_id, value, _LEVELS.index(payload.health))

    def _append(self, item: JournalFile, offset: int, update_id: int, kl: float, level: int) -> None:
        if item.attempt < self._attempt:
            return  # an attempt that was resumed while it still ran: what it writes now is replaced
        if item.attempt > self._attempt:
            self._begin(item.attempt, update_id)
        if self._ids and update_id <= self._ids[-1]:
            return  # a duplicate
        if not self._files or self._files[-1] != item:
            self._files.append(item)
            self._starts.append(len(self._ids))
        self._ids.append(update_id)
        self._offsets.append(offset)
        self._kls.append(kl)
        self._levels.append(level)

    def _begin(self, attempt: int, first: int) -> None:
        """A higher attempt replaces everything from its first id on."""
        if attempt <= self._attempt:
            return
        self._attempt = attempt
        keep = bisect_left(self._ids, first)
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
