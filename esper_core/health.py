"""What a KL means: every limit, level, verdict and suggestion of Esper, as pure functions.

This module is the one source of every limit: console, journal tools, Sanctum, alert rules and documentation
take them from here. Nothing here reads a clock, a file or a tensor. KL is in nats throughout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "HEALTH_WINDOW",
    "WARM_UP_UPDATES",
    "HealthLevel",
    "RunState",
    "Suggestion",
    "TUIThresholds",
    "Verdict",
    "VerdictInput",
    "VerdictKind",
    "classify_clip_fraction",
    "classify_entropy",
    "classify_explained_variance",
    "classify_kl",
    "classify_relative",
    "format_kl",
    "state_suggestion",
    "suggestion",
    "verdict",
    "verdict_level",
    "worst",
]

HEALTH_WINDOW: Final = 3
"""Updates over which the verdict takes the worst level: it rises at once and calms after this many good ones."""
WARM_UP_UPDATES: Final = 3
"""Updates during which WARNING is muted and CRITICAL is labelled; nothing is hidden."""


class TUIThresholds:
    """The limits in force, shared by displays, alert rules and documentation.

    KL limits are on ``kl_divergence`` (nats per head-decision), compared with ``>=``. Clip fraction, normalised
    entropy and explained variance are absolute. Gradient norm and advantage std are factors of their own median.
    """

    KL_WARNING: Final = 0.015
    KL_CRITICAL: Final = 0.03
    CLIP_WARNING: Final = 0.25
    CLIP_CRITICAL: Final = 0.30
    ENTROPY_WARNING: Final = 0.30
    ENTROPY_CRITICAL: Final = 0.10
    EXPLAINED_VAR_WARNING: Final = 0.30
    EXPLAINED_VAR_CRITICAL: Final = 0.0
    GRAD_NORM_WARNING_FACTOR: Final = 3.0
    GRAD_NORM_CRITICAL_FACTOR: Final = 10.0
    ADVANTAGE_STD_WARNING_FACTOR: Final = 3.0
    ADVANTAGE_STD_CRITICAL_FACTOR: Final = 10.0
    RELATIVE_MIN_HISTORY: Final = 5


class HealthLevel(StrEnum):
    """The level of one number. ``severity`` orders them; UNKNOWN means that nothing was measured."""

    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    WARNING = "warning"
    CRITICAL = "critical"
    NON_FINITE = "non_finite"

    @property
    def severity(self) -> int:
        """Rank of the level, 0 (unknown) to 4 (non-finite)."""
        return _SEVERITY[self]


_SEVERITY: Final = {level: rank for rank, level in enumerate(HealthLevel)}


class RunState(StrEnum):
    """What a run is doing, as far as anyone outside can know."""

    LIVE = "live"
    STALLED = "stalled"
    STALE = "stale"
    CRASHED = "crashed"
    STOPPED = "stopped"
    FAILED = "failed"
    DONE = "done"
    UNKNOWN = "unknown"

    @property
    def ended(self) -> bool:
        """True when no further update will come from this attempt."""
        return self in _ENDED


_ENDED: Final = frozenset({RunState.CRASHED, RunState.STOPPED, RunState.FAILED, RunState.DONE})


# --- levels of single numbers -------------------------------------------------------------------


def _classify(value: float | None, *, warning: bool, critical: bool) -> HealthLevel:
    """Combine one value's comparisons; None and non-finite come first."""
    if value is None:
        return HealthLevel.UNKNOWN
    if not math.isfinite(value):
        return HealthLevel.NON_FINITE
    if critical:
        return HealthLevel.CRITICAL
    return HealthLevel.WARNING if warning else HealthLevel.HEALTHY


def _above(value: float | None, warning: float, critical: float) -> HealthLevel:
    known = value if value is not None else 0.0
    return _classify(value, warning=known >= warning, critical=known >= critical)


def _below(value: float | None, warning: float, critical: float) -> HealthLevel:
    known = value if value is not None else 0.0
    return _classify(value, warning=known <= warning, critical=known <= critical)


def classify_kl(kl: float | None) -> HealthLevel:
    """Level of an unrounded KL in nats: ``>= 0.015`` WARNING, ``>= 0.03`` CRITICAL."""
    return _above(kl, TUIThresholds.KL_WARNING, TUIThresholds.KL_CRITICAL)


def classify_clip_fraction(clip_fraction: float | None) -> HealthLevel:
    """Level of the clip fraction (0..1)."""
    return _above(clip_fraction, TUIThresholds.CLIP_WARNING, TUIThresholds.CLIP_CRITICAL)


def classify_entropy(entropy_normalised: float | None) -> HealthLevel:
    """Level of the normalised entropy (0..1): low is bad."""
    return _below(entropy_normalised, TUIThresholds.ENTROPY_WARNING, TUIThresholds.ENTROPY_CRITICAL)


def classify_explained_variance(explained_variance: float | None) -> HealthLevel:
    """Level of the value function's explained variance (-inf..1): low is bad."""
    return _below(explained_variance, TUIThresholds.EXPLAINED_VAR_WARNING, TUIThresholds.EXPLAINED_VAR_CRITICAL)


def classify_relative(
    value: float | None,
    history: Iterable[float | None],
    *,
    warning_factor: float = TUIThresholds.GRAD_NORM_WARNING_FACTOR,
    critical_factor: float = TUIThresholds.GRAD_NORM_CRITICAL_FACTOR,
) -> HealthLevel:
    """Level of a value against the median of its own history (without itself).

    Used for gradient norm and advantage std, whose scale belongs to the task. Fewer than five earlier finite
    values, or a median of 0, make it UNKNOWN unless the value is non-finite.
    """
    if value is not None and not math.isfinite(value):
        return HealthLevel.NON_FINITE
    past = sorted(item for item in history if item is not None and math.isfinite(item))
    if value is None or len(past) < TUIThresholds.RELATIVE_MIN_HISTORY:
        return HealthLevel.UNKNOWN
    middle = len(past) // 2
    median = past[middle] if len(past) % 2 else (past[middle - 1] + past[middle]) / 2
    if median <= 0:
        return HealthLevel.UNKNOWN
    return _above(value / median, warning_factor, critical_factor)


def worst(levels: Iterable[HealthLevel]) -> HealthLevel:
    """The most severe of the levels; UNKNOWN for none."""
    return max(levels, key=lambda level: level.severity, default=HealthLevel.UNKNOWN)


def verdict_level(levels: Sequence[HealthLevel]) -> HealthLevel:
    """The policy's level from its updates' own levels, oldest first: the worst of the last three."""
    return worst(levels[-HEALTH_WINDOW:])


# --- the number as text -------------------------------------------------------------------------

_KL_LIMITS: Final = (TUIThresholds.KL_WARNING, TUIThresholds.KL_CRITICAL)


def format_kl(kl: float | None) -> str:
    """A KL as people read it.

    4 decimals; ``<0.0001`` for a positive value below half of that; more digits when rounding would show the
    other side of a threshold (0.014996 reads ``0.014996``); ``—`` for None; the word ``non-finite``.
    """
    if kl is None:
        return "—"
    if not math.isfinite(kl):
        return "non-finite"
    if 0 < kl < 0.00005:
        return "<0.0001"
    for digits in range(4, 17):
        text = f"{kl:.{digits}f}"
        shown = float(text)
        if all((shown >= limit) == (kl >= limit) for limit in _KL_LIMITS):
            return "0.0000" if text == "-0.0000" else text
    return repr(kl)


# --- what to do ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """One piece of advice. ``cause`` says what was seen, ``action`` what to try."""

    cause: str
    action: str

    def __str__(self) -> str:
        return f"{self.cause}: {self.action}"


def suggestion(
    *,
    level: HealthLevel,
    early_stopped: bool = False,
    stopped_epoch: int | None = None,
    epochs_planned: int = 1,
    learning_rate: float | None = None,
    head: str | None = None,
    share: float | None = None,
) -> Suggestion | None:
    """One suggestion for an update, or None when there is nothing to do.

    Args:
        level: the update's own level (``classify_kl``).
        early_stopped: whether the update ended before its planned minibatches.
        stopped_epoch: the epoch of the stop, counted from 1.
        epochs_planned: passes over the rollout that were planned.
        learning_rate: the rate in force, to name a number instead of a direction.
        head: the head that carries most of the KL.
        share: that head's share of the KL, 0..1; named when it carries more than half alone.
    """
    if level is HealthLevel.NON_FINITE:
        return Suggestion(
            cause="NaN or Inf in the update",
            action="check rewards and observations, then resume from the last checkpoint with a lower learning_rate",
        )
    lower_rate = "lower learning_rate" if learning_rate is None else f"lower learning_rate to {learning_rate / 3:.2g}"
    subject = f"head {head} drifts" if head is not None and (share or 0.0) > 0.5 else "the policy drifts"
    if level is HealthLevel.CRITICAL:
        if epochs_planned > 1 and not early_stopped:
            return Suggestion(cause=f"{subject} too fast", action=f"{lower_rate}, or set target_kl to stop in time")
        return Suggestion(cause=f"{subject} too fast", action=f"{lower_rate} or use larger minibatches")
    if early_stopped and (stopped_epoch or 1) <= 1:
        return Suggestion(
            cause="stopped within the first epoch",
            action=f"{lower_rate}, use larger minibatches, or raise target_kl",
        )
    if early_stopped:
        fewer = max(1, (stopped_epoch or epochs_planned) - 1)
        return Suggestion(cause=f"stopped in epoch {stopped_epoch}", action=f"{lower_rate}, or plan epochs = {fewer}")
    if level is HealthLevel.WARNING:
        if epochs_planned > 1:
            return Suggestion(cause=f"{subject}", action=f"{lower_rate} or use fewer epochs than {epochs_planned}")
        return Suggestion(cause=f"{subject}", action=f"{lower_rate} or use larger minibatches")
    return None


def state_suggestion(kind: VerdictKind) -> Suggestion | None:
    """One suggestion for what is wrong with the run itself rather than with its policy; None when nothing is."""
    return _STATE_SUGGESTIONS.get(kind)


# --- the verdict --------------------------------------------------------------------------------


class VerdictKind(StrEnum):
    """The one word a screen shows for a run, worst first."""

    CRASHED = "crashed"
    FAILED = "failed"
    NON_FINITE = "non-finite"
    STALE = "stale"
    STALLED = "stalled"
    LOSSY = "lossy"
    CRITICAL = "critical"
    WARNING = "warning"
    WARM_UP = "warm-up"
    UNKNOWN = "unknown"
    HEALTHY = "healthy"


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


_STATE_SUGGESTIONS: Final = {
    VerdictKind.CRASHED: Suggestion(
        cause="the trainer ended without a word", action="see trainer.log, then esper ppo --resume RUN"
    ),
    VerdictKind.STALE: Suggestion(cause="no sign of life", action="look for the trainer's process where it runs"),
    VerdictKind.STALLED: Suggestion(cause="alive without progress", action="see trainer.log and the environment"),
    VerdictKind.LOSSY: Suggestion(
        cause="events were lost", action="see the sink; esper replay RUN --to SINK sends what the journal holds"
    ),
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
