"""Scans a run's journal for the position and KL of each update, without decoding whole lines; and for evaluations.

It searches the bytes of a line for a few keys; only a line that was not written by Esper's own writer is decoded.
``esper_core.reading.index`` decides which of the updates count.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from esper_core.errors import JournalError
from esper_core.events import Payload, PolicyEvaluated, PPOUpdatePayload, RunStarted, TelemetryEvent
from esper_core.health import HealthLevel, KLOn
from esper_core.runs.layout import JournalFile, RunDir, journal_files
from esper_core.runs.lines import MAX_LINE_BYTES, decode_line
from esper_core.runs.segments import open_journal
from esper_core.semconv.codec import CodecError
from esper_core.semconv.identity import MARKED

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["JournalScan", "Scanned", "ScannedBeginning", "ScannedEvaluation", "ScannedUpdate"]

_END: Final = b"]}]}]}"
_UPDATE: Final = b'"name":"esper.ppo.update"'
_UPDATE_LOOSE: Final = b'esper.ppo.update"'
_STARTED_LOOSE: Final = b'esper.run.started"'
_DIVERGENCE: Final = b"esper.ppo.divergence."
_EVALUATED_LOOSE: Final = b'esper.eval"'
_MARKED: Final = f'"{MARKED}"'.encode()
_UPDATE_ID: Final = b'"esper.ppo.update_id","value":{"intValue":"'
_KL: Final[dict[KLOn, bytes]] = {
    "weighted": b'"esper.ppo.kl_divergence","value":{"doubleValue":',
    "joint": b'"esper.ppo.kl_joint","value":{"doubleValue":',
}
_HEALTH: Final = b'"esper.ppo.health","value":{"stringValue":"'
_LEVELS: Final = {level.value.encode(): level for level in HealthLevel}


class ScannedUpdate(NamedTuple):
    """One update's line.

    Attributes:
        file: the journal file.
        offset: position of the line in the file, in bytes.
        update_id: the update's id.
        kl: the judged KL, nats; NaN also when not measured: the level is then ``UNKNOWN``, and ``NON_FINITE`` for a
            measured NaN.
        level: the update's own level.
    """

    file: JournalFile
    offset: int
    update_id: int
    kl: float
    level: HealthLevel


class ScannedBeginning(NamedTuple):
    """The line in which an attempt records its first update id."""

    file: JournalFile
    first: int


class ScannedEvaluation(NamedTuple):
    """One evaluation, whole: there are few."""

    file: JournalFile
    payload: PolicyEvaluated


Scanned: TypeAlias = ScannedUpdate | ScannedBeginning | ScannedEvaluation


class JournalScan:
    """Scans a journal; each read continues where the last one stopped, also while the run writes. Not thread-safe.

    Args:
        run: the run, live or ended.
    """

    def __init__(self, run: RunDir) -> None:
        self.run = run
        self.diverging: set[int] = set()
        """Attempts with an update that has divergences, of those read so far."""
        self.more = False
        """True when the last :meth:`read` stopped at its limit, so that there is more to read now."""
        self._read: dict[str, int] = {}
        self._at_rest: set[str] = set()

    def read(self, max_bytes: int | None = None, *, on: KLOn = "weighted") -> Iterator[Scanned]:
        """Scan what was written since the last call, in the order of the journal; marked events are left out.

        A file that cannot be read is passed over: the reader names it.

        Args:
            max_bytes: stop after about this many, so that a background thread yields to others; None reads everything.
            on: the KL to read.
        """
        self.more = False
        left = max_bytes
        for item in journal_files(self.run, rank=0):
            if item.key in self._at_rest:
                continue
            try:
                file = open_journal(item.path)
            except JournalError:
                continue
            if file is None:
                continue
            with file, suppress(OSError):  # a broken disk: the reader names it as well
                offset = file.seek(self._read.get(item.key, 0))
                while True:
                    if left is not None and left <= 0:
                        self.more = True
                        return
                    line = file.readline(MAX_LINE_BYTES)
                    if not line.endswith(b"\n") and len(line) < MAX_LINE_BYTES:
                        if item.path.name != item.key:
                            self._at_rest.add(item.key)  # compressed: nothing is added to it any more
                        break
                    self._read[item.key] = offset + len(line)
                    yield from self._scanned(item, offset, line, on)
                    offset += len(line)
                    if left is not None:
                        left -= len(line)

    def _scanned(self, item: JournalFile, offset: int, line: bytes, on: KLOn) -> tuple[Scanned, ...]:
        """Scan one line."""
        if item.attempt not in self.diverging and _DIVERGENCE in line:
            self.diverging.add(item.attempt)
        name = line.find(_UPDATE)
        if name < 0 or not line.endswith(_END, 0, -1):
            wanted = _UPDATE_LOOSE in line or _STARTED_LOOSE in line or _EVALUATED_LOOSE in line
            return _decoded(item, offset, line, on) if wanted else ()
        try:
            return _searched(item, offset, line, name, on)
        except ValueError:  # damaged beside a key
            return _decoded(item, offset, line, on)


def _searched(item: JournalFile, offset: int, line: bytes, name: int, on: KLOn) -> tuple[ScannedUpdate, ...]:
    """Search one line of Esper's own writer.

    Raises:
        ValueError: what lies beside a key is no number.
    """
    start = line.find(_UPDATE_ID, name)
    if start < 0 or line.find(_MARKED, name, start) >= 0:
        return ()
    start += len(_UPDATE_ID)
    update_id = int(line[start : line.index(b'"', start)])
    value = math.nan
    at = line.find(_KL[on], start)
    if at >= 0:
        at += len(_KL[on])
        value = float(line[at : line.index(b"}", at)].strip(b'"'))
    at = line.find(_HEALTH, start)
    level = HealthLevel.UNKNOWN
    if at >= 0:
        at += len(_HEALTH)
        level = _LEVELS.get(line[at : line.index(b'"', at)], HealthLevel.UNKNOWN)
    return (ScannedUpdate(item, offset, update_id, value, level),)


def _decoded(item: JournalFile, offset: int, line: bytes, on: KLOn) -> tuple[Scanned, ...]:
    """Decode one line with the codec: for rare kinds, and for lines that Esper's writer did not write."""
    try:
        events: list[TelemetryEvent[Payload]] = decode_line(line)
    except CodecError:
        return ()
    found: list[Scanned] = []
    for event in events:
        payload = event.payload
        if event.marked:
            continue
        if isinstance(payload, RunStarted):
            found.append(ScannedBeginning(item, payload.first_update_id))
        elif isinstance(payload, PolicyEvaluated):
            found.append(ScannedEvaluation(item, payload))
        elif isinstance(payload, PPOUpdatePayload):
            judged = payload.judged_kl(on)
            value = judged if judged is not None else math.nan
            found.append(ScannedUpdate(item, offset, payload.update_id, value, payload.health))
    return tuple(found)
