"""When the verdict on a run changed: as a viewer sees it happen, and as the journal tells of what happened before."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final

from esper_core.errors import JournalError
from esper_core.events import PolicyHealthChanged, RunFinished
from esper_core.health import HealthLevel, RunState, VerdictKind
from esper_core.reading import sentences
from esper_core.reading.attempts import Attempts, attempt_begins
from esper_core.reading.limits import run_limits
from esper_core.runs.layout import journal_files
from esper_core.runs.lines import MAX_LINE_BYTES, decode_line
from esper_core.runs.ranks import how_it_ended
from esper_core.runs.segments import open_journal
from esper_core.runs.state import read_state
from esper_core.semconv.codec import CodecError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from esper_core.events import Payload, TelemetryEvent
    from esper_core.health import KLLimits
    from esper_core.reading.model import RunRow
    from esper_core.runs.layout import RunDir

__all__ = ["Alert", "AlertBook", "Alerts", "alerts_of", "with_seen"]

_RANK: Final = {kind: place for place, kind in enumerate(reversed(VerdictKind))}
_CALM: Final = _RANK[VerdictKind.WARM_UP]
_KINDS: Final = {
    HealthLevel.UNKNOWN: VerdictKind.UNKNOWN,
    HealthLevel.HEALTHY: VerdictKind.HEALTHY,
    HealthLevel.WARNING: VerdictKind.WARNING,
    HealthLevel.CRITICAL: VerdictKind.CRITICAL,
    HealthLevel.NON_FINITE: VerdictKind.NON_FINITE,
}
_UNWRITTEN: Final = frozenset({VerdictKind.STALE, VerdictKind.STALLED, VerdictKind.LOSSY, VerdictKind.CRASHED})
"""Verdicts that no event tells: they are about a trainer that is silent, or about what did not arrive."""
_TOLD: Final = (b"esper.policy.health_changed", b"esper.run.started", b"esper.run.finished")
"""What the lines hold that are looked at; all others are passed over undecoded."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One change of a run's verdict.

    Attributes:
        time_ns: when it changed, or when the viewer saw it, unix nanoseconds.
        run: the run's label.
        update_id: its last update then.
        before: the verdict before; None when this was the first look.
        now: the verdict now.
        reason: why.
    """

    time_ns: int
    run: str
    update_id: int
    before: VerdictKind | None
    now: VerdictKind
    reason: str

    @property
    def worse(self) -> bool:
        """Whether this deserves attention."""
        if _RANK[self.now] <= _CALM:
            return False
        return self.before is None or _RANK[self.now] > _RANK[self.before]

    @property
    def rank(self) -> int:
        """How bad it is now; the higher the worse."""
        return _RANK[self.now]


class Alerts:
    """What a viewer saw change, in any run of its list."""

    def __init__(self) -> None:
        self.history: deque[Alert] = deque(maxlen=500)
        self._last: dict[str, VerdictKind] = {}

    def see(self, rows: Iterable[RunRow], now_ns: int) -> list[Alert]:
        """Note what changed since the last look, and return it; a run that is seen for the first time is no change."""
        found = []
        for row in rows:
            before = self._last.get(row.run_id)
            if not row.judged or before is row.kind:
                continue
            self._last[row.run_id] = row.kind
            change = Alert(now_ns, row.label, row.updates, before, row.kind, row.reason)
            if before is not None:
                found.append(change)
            if before is not None or change.worse:
                self.history.append(change)
        return found


def with_seen(told: list[Alert], seen: Iterable[Alert]) -> list[Alert]:
    """What a run's events tell, and of what a viewer saw of that run what they do not tell.

    Senders that tell of no change of the level at all are judged by the viewer alone.
    """
    return told + [item for item in seen if not told or (item.now in _UNWRITTEN and item.before is not None)]


class AlertBook:
    """The alerts of runs on disk; a journal that has not changed is read once. One thread at a time."""

    def __init__(self) -> None:
        self._known: dict[RunDir, tuple[tuple[tuple[str, int], ...], list[Alert]]] = {}

    def of(self, run: RunDir, label: str, *, updates: int = 0) -> list[Alert]:
        """Every change that the run's journal tells, oldest first, and how the run ended when it failed or crashed.

        Args:
            run: its directory.
            label: what people call it.
            updates: that its journal has: ``run.json`` of a run that crashed lies behind them.
        """
        try:
            mark = tuple((item.key, item.path.stat().st_size) for item in journal_files(run))
        except (OSError, JournalError):
            return []
        known = self._known.get(run)
        if known is None or known[0] != mark:
            known = self._known[run] = (mark, alerts_of(_told(run), label, run_limits(run)))
        return [*known[1], *_crash(run, label, updates, max((item.time_ns for item in known[1]), default=0))]


def alerts_of(events: Iterable[TelemetryEvent[Payload]], label: str, limits: KLLimits) -> list[Alert]:
    """The changes among a run's events, without those of updates that a resumed attempt has made anew."""
    attempts = Attempts()
    found: list[tuple[int, Alert]] = []
    failed: dict[int, Alert] = {}
    """By attempt: it fails once, whichever of its ranks tell so; what rank 0 tells stands before the others."""
    for event in events:
        first = attempt_begins(event)
        if first is not None:
            attempts.begin(event.attempt, first)
        payload = event.payload
        if event.marked:
            continue
        if isinstance(payload, PolicyHealthChanged):
            before, now = _KINDS[payload.previous], _KINDS[payload.current]
            reason = sentences.health_changed(payload, limits=limits)
            found.append((event.attempt, Alert(event.time_ns, label, payload.update_id, before, now, reason)))
        elif isinstance(payload, RunFinished) and payload.state is RunState.FAILED:
            alert = Alert(event.time_ns, label, payload.updates, None, VerdictKind.FAILED, payload.reason)
            if not event.rank or event.attempt not in failed:
                failed[event.attempt] = alert
    found += failed.items()
    standing = [alert for attempt, alert in found if not attempts.replaced(attempt, alert.update_id)]
    return sorted(standing, key=lambda alert: alert.time_ns)


def _told(run: RunDir) -> Iterator[TelemetryEvent[Payload]]:
    """The events that begin and end attempts or change the level; a line that cannot be read is passed over."""
    for item in journal_files(run, rank=0):
        try:
            file = open_journal(item.path)
        except JournalError:
            continue
        if file is None:
            continue
        with file:
            while line := _line(file):
                if line.endswith(b"\n") and any(mark in line for mark in _TOLD):
                    try:
                        yield from decode_line(line)
                    except CodecError:
                        continue


def _line(file: BinaryIO) -> bytes:
    try:
        return file.readline(MAX_LINE_BYTES)
    except OSError:  # a broken disk
        return b""


def _crash(run: RunDir, label: str, updates: int, told_ns: int) -> list[Alert]:
    """That the trainer vanished, at its last sign of life, a heartbeat or what it told: its journal cannot tell."""
    record, state = read_state(run)
    if record is None or state is not RunState.CRASHED:
        return []
    reason = how_it_ended(record.message, state, record.processes) or "the trainer's process is gone"
    when = max(record.heartbeat_ns, told_ns)
    return [Alert(when, label, max(record.updates, updates), None, VerdictKind.CRASHED, reason)]
