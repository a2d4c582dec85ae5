"""The verdict on a run: one pure rule. Not ``verdict.py``, which the function of that name would hide."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from esper_core.health.kinds import VerdictKind
from esper_core.health.levels import HealthLevel, RunState, verdict_level
from esper_core.health.limits import DEFAULT_KL_LIMITS, HEALTH_WINDOW, WARM_UP_UPDATES, KLLimits
from esper_core.health.words import format_kl

if TYPE_CHECKING:
    from esper_core.health.heads import HeadLevel

__all__ = ["Verdict", "VerdictInput", "verdict"]

_EXIT_CODES: Final = {
    VerdictKind.CRASHED: 2,
    VerdictKind.FAILED: 2,
    VerdictKind.NON_FINITE: 2,
    VerdictKind.CRITICAL: 2,
    VerdictKind.WARNING: 1,
    VerdictKind.LOSSY: 1,
    VerdictKind.STALE: 3,
    VerdictKind.STALLED: 3,
    VerdictKind.UNKNOWN: 3,
    VerdictKind.WARM_UP: 0,
    VerdictKind.HEALTHY: 0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictInput:
    """What a verdict needs to know; nothing else may influence it.

    Attributes:
        state: the run's state (``esper_core.runs`` derives it from ``run.json``).
        levels: the updates' own levels, oldest first; the last three count.
        updates: updates seen in this run so far, for the warm-up.
        kl: the last update's unrounded judged KL, for the reason's text.
        limits: of the run.
        pooled_kl: the judged KL of all heads together over the judged window, for the reason's text beside a head's.
        critical_head: the worst head at CRITICAL over the judged window (``policy_level``), or None.
        worst_update: id of the worst update of the judged window, when that is not the last one.
        worst_kl: its unrounded judged KL.
        head: the head that carries most of the KL of the worst update.
        share: that head's share, 0..1.
        forced: every step of the judged updates was forced.
        journal_lost: events that the journal lost: the screen itself cannot be trusted.
        sink_lost: events that other sinks lost, by sink name.
        gap: what of the run's journal cannot be read, as text: the numbers are doubtful as well.
        absent: why nothing of the run's updates is on disk, as text.
        age_s: seconds since the last sign of life, for the reason's text.
        message: what ended the run, for FAILED and CRASHED.
    """

    state: RunState = RunState.UNKNOWN
    levels: tuple[HealthLevel, ...] = ()
    updates: int = 0
    kl: float | None = None
    limits: KLLimits = DEFAULT_KL_LIMITS
    pooled_kl: float | None = None
    critical_head: HeadLevel | None = None
    worst_update: int | None = None
    worst_kl: float | None = None
    head: str | None = None
    share: float | None = None
    forced: bool = False
    journal_lost: int = 0
    sink_lost: tuple[tuple[str, int], ...] = ()
    gap: str = ""
    absent: str = ""
    age_s: float | None = None
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The judgement on a run.

    Attributes:
        kind: the one word.
        level: the policy's level beneath it (worst of the last three updates; a head at CRITICAL makes it WARNING).
        label: the word as shown, with its qualifier: ``critical (warm-up)``.
        reason: why, in one line.
        exit_code: what ``esper sanctum --once`` exits with.
    """

    kind: VerdictKind
    level: HealthLevel
    label: str
    reason: str
    exit_code: int


def verdict(seen: VerdictInput) -> Verdict:
    """Judge a run: one pure rule for banner, panels, alerts, ``--once``, ``esper runs`` and tests.

    Order, worst first: crashed or failed, non-finite, stale, stalled, journal lossy, critical, warning, another
    sink lossy, nothing measured yet, warm-up, healthy. The level rises at once and calms after three better
    updates. One head at CRITICAL makes it at least warning. During the first three updates WARNING is muted to
    warm-up and CRITICAL is labelled; non-finite, crashed, stale and lossy are never hidden.
    """
    level = verdict_level(seen.levels)
    if seen.critical_head is not None and level.severity < HealthLevel.WARNING.severity:
        level = HealthLevel.WARNING
    kind, reason = _judge(seen, level)
    warming = seen.updates <= WARM_UP_UPDATES
    label = f"{kind.value} (warm-up)" if warming and kind is VerdictKind.CRITICAL else kind.value
    # A lossy screen over a critical policy must not gate softer than the policy itself.
    code = _EXIT_CODES[kind]
    if kind is VerdictKind.LOSSY and level is HealthLevel.CRITICAL:
        code = _EXIT_CODES[VerdictKind.CRITICAL]
    return Verdict(kind=kind, level=level, label=label, reason=reason, exit_code=code)


def _judge(seen: VerdictInput, level: HealthLevel) -> tuple[VerdictKind, str]:
    for judge in (_judge_trust, _judge_policy, _judge_rest):
        found = judge(seen, level)
        if found is not None:
            return found
    return VerdictKind.HEALTHY, f"{seen.limits.name} {_kl(seen)} is below {seen.limits.warning:g}"


def _judge_trust(seen: VerdictInput, level: HealthLevel) -> tuple[VerdictKind, str] | None:
    """What makes every other number doubtful or moot."""
    age = "" if seen.age_s is None else f", silent for {seen.age_s:.0f} s"
    if seen.state is RunState.CRASHED:
        return VerdictKind.CRASHED, seen.message or f"the trainer's process is gone{age}"
    if seen.state is RunState.FAILED:
        return VerdictKind.FAILED, seen.message or "the run ended with an error"
    if level is HealthLevel.NON_FINITE:
        where = "" if seen.worst_update is None else f", in update {seen.worst_update}"
        return VerdictKind.NON_FINITE, f"NaN or Inf within the last {HEALTH_WINDOW} updates{where}"
    if seen.state is RunState.STALE:
        return VerdictKind.STALE, f"no heartbeat from the trainer{age}"
    if seen.state is RunState.STALLED:
        return VerdictKind.STALLED, "the trainer's process is alive but makes no progress"
    if seen.journal_lost:
        return VerdictKind.LOSSY, f"the journal lost {seen.journal_lost} events: numbers here have gaps"
    if seen.gap:
        return VerdictKind.LOSSY, seen.gap
    return None


def _kl(seen: VerdictInput) -> str:
    return format_kl(seen.kl, limits=seen.limits)


def _judge_policy(seen: VerdictInput, level: HealthLevel) -> tuple[VerdictKind, str] | None:
    """The KL's own levels."""
    if level is HealthLevel.CRITICAL:
        return VerdictKind.CRITICAL, _counted(seen, HealthLevel.CRITICAL, seen.limits.critical) + _carrier(seen)
    if level is HealthLevel.WARNING and seen.updates > WARM_UP_UPDATES:
        return VerdictKind.WARNING, _warned(seen)
    return None


def _counted(seen: VerdictInput, level: HealthLevel, limit: float) -> str:
    """In how many of the judged updates the KL reached a limit; empty for none."""
    recent = seen.levels[-HEALTH_WINDOW:]
    count = sum(item.severity >= level.severity for item in recent)
    if not count:
        return ""
    worst = "" if seen.worst_update is None else f", worst {_worst_kl(seen)} at update {seen.worst_update}"
    return f"{seen.limits.name} >= {limit:g} in {count} of last {len(recent)} updates{worst}"


def _worst_kl(seen: VerdictInput) -> str:
    return format_kl(seen.worst_kl, limits=seen.limits)


def _carrier(seen: VerdictInput) -> str:
    if seen.head is None or seen.share is None or not math.isfinite(seen.share):
        return ""
    return f"; head {seen.head} carries {seen.share:.0%}"


def _head_text(seen: VerdictInput, head: HeadLevel) -> str:
    kl = format_kl(head.kl, limits=seen.limits)
    count = len(seen.levels[-HEALTH_WINDOW:])
    pooled = f"{head.decisions} decisions in {count} update{'s' if count != 1 else ''}"
    return f"head {head.name} at KL {kl} >= {seen.limits.critical:g} over {pooled}"


def _warned(seen: VerdictInput) -> str:
    """Why it is a warning: the policy's KL, a head's, or both."""
    own = _counted(seen, HealthLevel.WARNING, seen.limits.warning)
    head = seen.critical_head
    if head is None:
        return own + _carrier(seen)
    if own:
        if head.name == seen.head:
            kl = format_kl(head.kl, limits=seen.limits)
            return f"{own}{_carrier(seen)} at {kl} over them"
        return f"{own}; {_head_text(seen, head)}"
    together = format_kl(seen.pooled_kl, limits=seen.limits)
    return f"{_head_text(seen, head)}; all heads together {seen.limits.name} {together}"


def _judge_rest(seen: VerdictInput, level: HealthLevel) -> tuple[VerdictKind, str] | None:
    """Other losses, and the absence of news."""
    lost = [(name, count) for name, count in seen.sink_lost if count]
    if lost:
        named = ", ".join(f"{name} {count}" for name, count in lost)
        return VerdictKind.LOSSY, f"events lost by sinks: {named}"
    if level is HealthLevel.UNKNOWN:
        if seen.forced:
            return VerdictKind.UNKNOWN, "every step was forced: nothing was decided"
        if seen.updates:
            return VerdictKind.UNKNOWN, f"no KL was measured in the last {HEALTH_WINDOW} updates"
        return VerdictKind.UNKNOWN, seen.absent or "no PPO update yet"
    if level is HealthLevel.WARNING:  # only in warm-up; after the losses, which warm-up must not hide
        if verdict_level(seen.levels) is HealthLevel.WARNING or seen.critical_head is None:
            cause = f"{seen.limits.name} >= {seen.limits.warning:g}"
        else:
            cause = _head_text(seen, seen.critical_head)
        return VerdictKind.WARM_UP, f"{cause}, muted in warm-up; last {_kl(seen)}"
    if seen.updates <= WARM_UP_UPDATES and not seen.state.ended:
        return VerdictKind.WARM_UP, f"update {seen.updates} of {WARM_UP_UPDATES} warm-up updates"
    return None
