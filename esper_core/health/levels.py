"""The level of one number, and the states of a run. Values are unrounded; KL is in nats."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from esper_core.health.limits import DEFAULT_KL_LIMITS, HEALTH_WINDOW, KLLimits, TUIThresholds

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "HealthLevel",
    "RunState",
    "classify_clip_fraction",
    "classify_entropy",
    "classify_explained_variance",
    "classify_kl",
    "classify_relative",
    "update_level",
    "verdict_level",
    "worst",
]


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

    @property
    def brief(self) -> str:
        """What the level says about a KL under the default limits."""
        return _BRIEFS[self]


_SEVERITY: Final = {level: rank for rank, level in enumerate(HealthLevel)}
_BRIEFS: Final = {
    HealthLevel.UNKNOWN: "not measured",
    HealthLevel.HEALTHY: f"by default below {TUIThresholds.KL_WARNING}",
    HealthLevel.WARNING: f"by default {TUIThresholds.KL_WARNING} or more",
    HealthLevel.CRITICAL: f"by default {TUIThresholds.KL_CRITICAL} or more",
    HealthLevel.NON_FINITE: "NaN or Inf",
}


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


def classify_kl(kl: float | None, limits: KLLimits = DEFAULT_KL_LIMITS) -> HealthLevel:
    """Level of an unrounded KL in nats: by default ``>= 0.015`` WARNING, ``>= 0.03`` CRITICAL.

    Args:
        kl: the KL that the limits are on.
        limits: of the run.
    """
    return _above(kl, limits.warning, limits.critical)


def _is_broken(value: float | None) -> bool:
    return value is not None and not math.isfinite(value)


def update_level(
    kl_divergence: float | None,
    *,
    kl_joint: float | None,
    non_finite: int,
    kl_measured: str = "after_last_step",
    limits: KLLimits = DEFAULT_KL_LIMITS,
) -> HealthLevel:
    """One update's own level: that of its judged KL, unrounded; NON_FINITE when anything in the update was.

    Args:
        kl_divergence: nats, after the last step; None when not measured.
        kl_joint: likewise, per step. A NaN counts in the one that the limits are not on, too.
        non_finite: values that were NaN or Inf.
        kl_measured: when the KL was measured. A KL that was not measured after the last step has not seen what that
            step did: it sets no level.
        limits: of the run.
    """
    if non_finite or _is_broken(kl_divergence) or _is_broken(kl_joint):
        return HealthLevel.NON_FINITE
    if kl_measured != "after_last_step":
        return HealthLevel.UNKNOWN
    return classify_kl(kl_joint if limits.on == "joint" else kl_divergence, limits)


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
    """The worst of the last three updates' own levels, oldest first; see :func:`policy_level` for the policy's."""
    return worst(levels[-HEALTH_WINDOW:])
