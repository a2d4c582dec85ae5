"""A run's sign of life, from its record on disk or from its events alone."""

from __future__ import annotations

import signal
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from esper_core.health import RunState
from esper_core.reading.account import from_record
from esper_core.reading.condition import SOUND, JournalCondition
from esper_core.runs.ranks import how_it_ended
from esper_core.runs.state import run_state

if TYPE_CHECKING:
    from esper_core.reading.account import SinkAccount
    from esper_core.reading.snapshot import SanctumSnapshot
    from esper_core.runs.state import RunRecord, SystemRecord

__all__ = [
    "STALE_FACTOR",
    "STALE_LEAST_S",
    "Life",
    "after_exit",
    "exit_sentence",
    "life_from_events",
    "life_from_record",
]

STALE_LEAST_S: Final = 10.0
STALE_FACTOR: Final = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """What is known of the process behind a run.

    Attributes:
        state: live, stalled, stale, crashed, stopped, failed, done or unknown.
        sign_ns: the last sign of life, unix nanoseconds; None when there was none.
        pid: of the trainer; None when unknown.
        host: where it runs; empty when unknown.
        message: how it ended, in words.
        gone: its folder was deleted while it was watched.
        updates: as the trainer counts them.
        system: what the trainer takes of the machine; None when that is not known.
        sinks: as the host accounts for them.
        journal: what its journal lacks.
        kept: what of the run is on disk: a record, and a checkpoint to go on from; neither of a run known by its
            events alone.
        last_words: the last lines of the log of a run that failed or crashed, oldest first.
    """

    state: RunState = RunState.UNKNOWN
    sign_ns: int | None = None
    pid: int | None = None
    host: str = ""
    message: str = ""
    gone: bool = False
    updates: int = 0
    system: SystemRecord | None = None
    sinks: tuple[SinkAccount, ...] = ()
    journal: JournalCondition = SOUND
    kept: Literal["", "record", "checkpoint"] = ""
    last_words: tuple[str, ...] = ()


def after_exit(life: Life, code: int | None) -> Life:
    """A run whose trainer is a child of this process, and has ended without telling so.

    Args:
        life: as ``run.json`` tells it, read after the exit code.
        code: the child's exit code, 128 + number when a signal ended it; None while it runs.
    """
    if code is None or (life.state.ended and life.state is not RunState.CRASHED):
        return life
    return replace(life, state=RunState.CRASHED, message=exit_sentence(code))


def exit_sentence(code: int) -> str:
    """How a trainer ended by its exit code, 128 + number when a signal ended it."""
    if code - 128 in {item.value for item in signal.Signals}:
        return f"the trainer was killed by {signal.Signals(code - 128).name}"
    return f"the trainer ended with exit code {code}"


def life_from_events(snapshot: SanctumSnapshot, now_ns: int) -> Life:
    """A run known by its events alone (OTLP): its end if it told one, else live until it is silent for too long.

    Too long is three times the median gap between its updates, at least 10 s. A silent run is stale, never crashed:
    nobody here can see its process.
    """
    if snapshot.finished is not None:
        return Life(
            state=snapshot.finished.state,
            sign_ns=snapshot.last_event_ns,
            message=snapshot.finished.reason,
            updates=snapshot.updates,
        )
    if snapshot.last_event_ns is None:
        return Life()
    silent_s = (now_ns - snapshot.last_event_ns) / 1e9
    limit_s = max(STALE_LEAST_S, STALE_FACTOR * (snapshot.median_gap_s or 0.0))
    state = RunState.STALE if silent_s > limit_s else RunState.LIVE
    return Life(state=state, sign_ns=snapshot.last_event_ns, updates=snapshot.updates)


def life_from_record(
    record: RunRecord, now_ns: int, *, state: RunState | None = None, journal: JournalCondition = SOUND
) -> Life:
    """A run on disk: what ``run.json`` says, and whether that is still so.

    Args:
        record: the content of ``run.json``.
        now_ns: unix nanoseconds.
        state: what was found together with the record; None derives it.
        journal: what the run's journal lacks.
    """
    state = run_state(record, now_ns=now_ns) if state is None else state
    return Life(
        state=state,
        sign_ns=record.heartbeat_ns or None,
        pid=record.pid or None,
        host=record.host,
        message=how_it_ended(record.message, state, record.processes),
        updates=record.updates,
        system=record.system,
        sinks=tuple(from_record(item) for item in record.sinks),
        journal=journal,
        kept="record",
    )
