"""The judgement on a run, put together once: what every screen, command and file says of it comes through here."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from esper_core.health import (
    DEFAULT_KL_LIMITS,
    HEALTH_WINDOW,
    HealthLevel,
    KLLimits,
    PolicyLevel,
    RunState,
    Suggestion,
    Verdict,
    VerdictInput,
    head_suggestion,
    level_under,
    policy_level,
    suggestion,
    verdict,
    worst,
)
from esper_core.reading.account import from_record, losses, merged
from esper_core.reading.condition import SOUND, JournalCondition
from esper_core.runs.ranks import how_it_ended
from esper_core.runs.state import run_state

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from esper_core.events import PPOUpdatePayload, TelemetryEvent
    from esper_core.reading.account import SinkAccount
    from esper_core.reading.life import Life
    from esper_core.reading.snapshot import SanctumSnapshot
    from esper_core.runs.state import RunRecord

__all__ = ["judge", "judge_snapshot", "judged_policy", "run_verdict", "update_advice", "worst_update"]


def judge(
    state: RunState,
    *,
    recent: Sequence[PPOUpdatePayload],
    updates: int,
    limits: KLLimits = DEFAULT_KL_LIMITS,
    accounts: Iterable[SinkAccount] = (),
    age_s: float | None = None,
    message: str = "",
    journal: JournalCondition = SOUND,
) -> Verdict:
    """Judge a run; see :func:`esper_core.health.verdict` for the rule.

    Args:
        state: what the run is doing, or how it ended.
        recent: the last effective updates, oldest first; three are enough.
        updates: of the run so far, over all attempts.
        limits: of the run.
        accounts: of its sinks: what those that keep the record lost makes every number doubtful.
        age_s: seconds since the last sign of life.
        message: how it ended, in words; said of a run that failed or crashed.
        journal: what the run's journal lacks.
    """
    last = recent[-1] if recent else None
    meant = worst_update(recent, limits)
    leading = meant.leading_head if meant is not None else None
    past = meant if meant is not last else None
    lost = losses(accounts)
    policy = policy_level(recent, limits)
    return verdict(
        VerdictInput(
            state=state,
            levels=policy.levels,
            updates=updates,
            kl=last.judged_kl(limits.on) if last is not None else None,
            limits=limits,
            pooled_kl=policy.kl,
            critical_head=policy.head,
            worst_update=past.update_id if past is not None else None,
            worst_kl=past.judged_kl(limits.on) if past is not None else None,
            head=leading.name if leading is not None else None,
            share=leading.share if leading is not None else None,
            forced=policy.forced,
            journal_lost=lost.record,
            sink_lost=lost.others,
            gap=journal.gap(updates),
            absent=journal.absent,
            age_s=age_s,
            message=message if state in {RunState.FAILED, RunState.CRASHED} else "",
        )
    )


def worst_update(recent: Sequence[PPOUpdatePayload], limits: KLLimits = DEFAULT_KL_LIMITS) -> PPOUpdatePayload | None:
    """The update that the verdict on a policy is about: verdict, reason, head and advice are of this one.

    Of the judged window's updates with its worst level the one with the highest KL; while all are calm, the last.

    Args:
        recent: the last effective updates, oldest first; three are enough.
        limits: of the run.
    """
    window = recent[-HEALTH_WINDOW:]
    levels = [level_under(item, limits) for item in window]
    level = worst(levels)
    if level.severity < HealthLevel.WARNING.severity:
        return window[-1] if window else None
    found = [item for item, own in zip(window, levels, strict=True) if own is level]
    if level is HealthLevel.NON_FINITE:
        return found[-1]
    return max(reversed(found), key=lambda item: item.judged_kl(limits.on) or 0.0)


def run_verdict(
    record: RunRecord | None,
    recent: Sequence[TelemetryEvent[PPOUpdatePayload]],
    *,
    limits: KLLimits = DEFAULT_KL_LIMITS,
    now_ns: int | None = None,
    state: RunState | None = None,
    journal: JournalCondition = SOUND,
) -> Verdict:
    """The verdict on a run on disk.

    Args:
        record: what ``run.json`` says.
        recent: the last effective updates, oldest first; three are enough.
        limits: of the run, see :func:`esper_core.reading.run_limits`.
        now_ns: unix nanoseconds; the clock's when None.
        state: what :func:`esper_core.runs.read_state` said together with the record; None derives it.
        journal: what the run's journal lacks, see :func:`esper_core.reading.journal_condition`.
    """
    now = time.time_ns() if now_ns is None else now_ns
    last = recent[-1].payload if recent else None
    state = run_state(record, now_ns=now) if state is None else state
    return judge(
        state,
        recent=[event.payload for event in recent],
        updates=last.update_id if last is not None else 0,
        limits=limits,
        accounts=[from_record(item) for item in record.sinks] if record is not None else (),
        age_s=max(0.0, (now - record.heartbeat_ns) / 1e9) if record is not None else None,
        message=how_it_ended(record.message, state, record.processes) if record is not None else "",
        journal=journal,
    )


def judge_snapshot(snapshot: SanctumSnapshot, life: Life, *, age_s: float | None = None) -> Verdict:
    """The verdict on a run as its events and its process tell it."""
    return judge(
        life.state,
        recent=snapshot.recent[-HEALTH_WINDOW:],
        updates=snapshot.updates,
        limits=snapshot.tamiyo.limits,
        accounts=merged(snapshot.sinks, life.sinks),
        age_s=age_s,
        message=life.message,
        journal=life.journal,
    )


def judged_policy(snapshot: SanctumSnapshot) -> PolicyLevel:
    """The policy's level, and each head's, over the judged window of what is shown."""
    return policy_level(snapshot.recent[-HEALTH_WINDOW:], snapshot.tamiyo.limits)


def update_advice(last: PPOUpdatePayload | None, *, policy: PolicyLevel, named: bool = True) -> Suggestion | None:
    """What to try after an update, or None when there is nothing to do.

    Args:
        last: the update: the last one, or the one that :func:`worst_update` names.
        policy: its level over the judged window. The verdict and this advice are about the same head.
        named: name the head that carries most of the KL as the cause; False where the line names it already.
    """
    if last is None:
        return None
    if policy.blamed is not None:
        calm = all(level.severity < HealthLevel.WARNING.severity for level in policy.levels)
        return head_suggestion(policy.blamed.name, learning_rate=last.learning_rate, others_calm=calm)
    leading = last.leading_head if named else None
    return suggestion(
        level=level_under(last, policy.limits) if policy.levels else last.health,
        early_stopped=last.early_stop is not None,
        stopped_epoch=last.early_stop.epoch if last.early_stop is not None else None,
        epochs_planned=max(last.epochs_planned, 1),
        learning_rate=last.learning_rate,
        head=leading.name if leading is not None else None,
        share=leading.share if leading is not None else None,
    )
