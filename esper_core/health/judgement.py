"""The verdict on a run: one pure rule. Not ``verdict.py``, which the function of that name would hide."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from esper_core.health.kinds import VerdictKind
from esper_core.health.levels import HealthLevel, RunState, verdict_level
from esper_core.health.limits import HEALTH_WINDOW, WARM_UP_UPDATES, TUIThresholds
from esper_core.health.words import format_kl

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
        kl: the last update's unrounded KL, for the reason's text.
        head: the head that carries most of the last update's KL.
        share: that head's share, 0..1.
        journal_lost: events that the journal lost: the screen itself cannot be trusted.
        sink_lost: events that other sinks lost, by sink name.
        age_s: seconds since the last sign of life, for the reason's text.
        message: what ended the run, for FAILED and CRASHED.
    """

    state: RunState = RunState.UNKNOWN
    levels: tuple[HealthLevel, ...] = ()
    updates: int = 0
    kl: float | None = None
    head: str | None = None
    share: float | None = None
    journal_lost: int = 0
    sink_lost: tuple[tuple[str, int], ...] = ()
    age_s: float | None = None
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The judgement on a run.

    Attributes:
        kind: the one word.
        level: the policy's level beneath it (worst of the last three updates).
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
    updates. During the first three updates WARNING is muted to warm-up and CRITICAL is labelled; non-finite,
    crashed, stale and lossy are never hidden.
    """
    level = verdict_level(seen.levels)
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
    return VerdictKind.HEALTHY, f"KL {format_kl(seen.kl)} is below {TUIThresholds.KL_WARNING}"


def _judge_trust(seen: VerdictInput, level: HealthLevel) -> tuple[VerdictKind, str] | None:
    """What makes every other number doubtful or moot."""
    age = "" if seen.age_s is None else f", silent for {seen.age_s:.0f} s"
    if seen.state is RunState.CRASHED:
        return VerdictKind.CRASHED, seen.message or f"the trainer's process is gone{age}"
    if seen.state is RunState.FAILED:
        return VerdictKind.FAILED, seen.message or "the run ended with an error"
    if level is HealthLevel.NON_FINITE:
        return VerdictKind.NON_FINITE, f"NaN or Inf within the last {HEALTH_WINDOW} updates"
    if seen.state is RunState.STALE:
        return VerdictKind.STALE, f"no heartbeat from the trainer{age}"
    if seen.state is RunState.STALLED:
        return VerdictKind.STALLED, "the trainer's process is alive but makes no progress"
    if seen.journal_lost:
        return VerdictKind.LOSSY, f"the journal lost {seen.journal_lost} events: numbers here have gaps"
    return None


def _judge_policy(seen: VerdictInput, level: HealthLevel) -> tuple[VerdictKind, str] | None:
    """The KL's own levels."""
    recent = seen.levels[-HEALTH_WINDOW:]
    carrier = ""
    if seen.head is not None and seen.share is not None and math.isfinite(seen.share):
        carrier = f"; head {seen.head} carries {seen.share:.0%}"
    if level is HealthLevel.CRITICAL:
        count = sum(item is HealthLevel.CRITICAL for item in recent)
        limit = TUIThresholds.KL_CRITICAL
        return VerdictKind.CRITICAL, f"KL >= {limit} in {count} of last {len(recent)} updates{carrier}"
    if level is HealthLevel.WARNING and seen.updates > WARM_UP_UPDATES:
        count = sum(item.severity >= HealthLevel.WARNING.severity for item in recent)
        limit = TUIThresholds.KL_WARNING
        return VerdictKind.WARNING, f"KL >= {limit} in {count} of last {len(recent)} updates{carrier}"
    return None


def _judge_rest(seen: VerdictInput, level: HealthLevel) -> tuple[VerdictKind, str] | None:
    """Other losses, and the absence of news."""
    lost = [(name, count) for name, count in seen.sink_lost if count]
    if lost:
        named = ", ".join(f"{name} {count}" for name, count in lost)
        return VerdictKind.LOSSY, f"events lost by sinks: {named}"
    if level is HealthLevel.UNKNOWN:
        if seen.updates:
            return VerdictKind.UNKNOWN, f"no KL was measured in the last {HEALTH_WINDOW} updates"
        return VerdictKind.UNKNOWN, "no PPO update yet"
    if level is HealthLevel.WARNING:  # only in warm-up; after the losses, which warm-up must not hide
        return VerdictKind.WARM_UP, f"KL >= {TUIThresholds.KL_WARNING}, muted in warm-up; last {format_kl(seen.kl)}"
    if seen.updates <= WARM_UP_UPDATES and not seen.state.ended:
        return VerdictKind.WARM_UP, f"update {seen.updates} of {WARM_UP_UPDATES} warm-up updates"
    return None
