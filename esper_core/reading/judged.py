"""The judgement on a run, put together once: what every screen, command and file says of it comes through here."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from esper_core.health import RunState, Suggestion, Verdict, VerdictInput, suggestion, verdict
from esper_core.reading.account import from_record, losses, merged
from esper_core.runs.state import run_state

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from esper_core.events import PPOUpdatePayload, TelemetryEvent
    from esper_core.health import HealthLevel
    from esper_core.reading.account import SinkAccount
    from esper_core.reading.life import Life
    from esper_core.reading.snapshot import SanctumSnapshot
    from esper_core.runs.state import RunRecord

__all__ = ["judge", "judge_snapshot", "run_verdict", "update_advice"]


def judge(
    state: RunState,
    *,
    levels: Iterable[HealthLevel],
    last: PPOUpdatePayload | None,
    updates: int,
    accounts: Iterable[SinkAccount] = (),
    age_s: float | None = None,
    message: str = "",
) -> Verdict:
    """Judge a run; see :func:`esper_core.health.verdict` for the rule.

    Args:
        state: what the run is doing, or how it ended.
        levels: the effective updates' own levels, oldest first; three are enough.
        last: the last effective update.
        updates: of the run so far, over all attempts.
        accounts: of its sinks: what those that keep the record lost makes every number doubtful.
        age_s: seconds since the last sign of life.
        message: how it ended, in words; said of a run that failed or crashed.
    """
    leading = last.leading_head if last is not None else None
    lost = losses(accounts)
    return verdict(
        VerdictInput(
            state=state,
            levels=tuple(levels),
            updates=updates,
            kl=last.kl_divergence if last is not None else None,
            head=leading.name if leading is not None else None,
            share=leading.share if leading is not None else None,
            journal_lost=lost.record,
            sink_lost=lost.others,
            age_s=age_s,
            message=message if state in {RunState.FAILED, RunState.CRASHED} else "",
        )
    )


def run_verdict(
    record: RunRecord | None, recent: Sequence[TelemetryEvent[PPOUpdatePayload]], *, now_ns: int | None = None
) -> Verdict:
    """The verdict on a run on disk.

    Args:
        record: what ``run.json`` says.
        recent: the last effective updates, oldest first; three are enough.
        now_ns: unix nanoseconds; the clock's when None.
    """
    now = time.time_ns() if now_ns is None else now_ns
    last = recent[-1].payload if recent else None
    return judge(
        run_state(record, now_ns=now),
        levels=[event.payload.health for event in recent],
        last=last,
        updates=last.update_id if last is not None else 0,
        accounts=[from_record(item) for item in record.sinks] if record is not None else (),
        age_s=max(0.0, (now - record.heartbeat_ns) / 1e9) if record is not None else None,
        message=record.message if record is not None else "",
    )


def judge_snapshot(snapshot: SanctumSnapshot, life: Life, *, age_s: float | None = None) -> Verdict:
    """The verdict on a run as its events and its process tell it."""
    return judge(
        life.state,
        levels=snapshot.tamiyo.levels,
        last=snapshot.last,
        updates=snapshot.updates,
        accounts=merged(snapshot.sinks, life.sinks),
        age_s=age_s,
        message=life.message,
    )


def update_advice(last: PPOUpdatePayload | None, *, named: bool = True) -> Suggestion | None:
    """What to try after an update, or None when there is nothing to do.

    Args:
        last: the update.
        named: name the head that carries most of the KL as the cause; False where the line names it already.
    """
    if last is None:
        return None
    leading = last.leading_head if named else None
    return suggestion(
        level=last.health,
        early_stopped=last.early_stop is not None,
        stopped_epoch=last.early_stop.epoch if last.early_stop is not None else None,
        epochs_planned=max(last.epochs_planned, 1),
        learning_rate=last.learning_rate,
        head=leading.name if leading is not None else None,
        share=leading.share if leading is not None else None,
    )
