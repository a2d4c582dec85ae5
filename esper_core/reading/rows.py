"""The rows of the health panel, one entry a metric: value, limits that can fire, range of its sparkline.

A new row is one entry here and a pair of fields in :class:`~esper_core.reading.tamiyo.TamiyoState`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from esper_core.health import (
    HEALTH_WINDOW,
    HealthLevel,
    KLLimits,
    Suggestion,
    TUIThresholds,
    classify_clip_fraction,
    classify_entropy,
    classify_explained_variance,
    classify_kl,
    format_kl,
)
from esper_core.reading.numbers import percent, plain, scaled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from esper_core.reading.snapshot import SanctumSnapshot
    from esper_core.reading.tamiyo import TamiyoState

__all__ = [
    "METRICS",
    "NOT_DEFINED",
    "PANEL_DIGITS",
    "Limits",
    "Metric",
    "absence",
    "critical_rows",
    "kl_range",
    "limit_text",
    "metric",
]


def kl_range(limits: KLLimits) -> tuple[float, float]:
    """Range of every KL sparkline and plot, nats: half as much again as the run's critical limit."""
    return 0.0, 1.5 * limits.critical


@dataclass(frozen=True, slots=True)
class Limits:
    """A row's limits as printed; empty where none is known yet."""

    warning: str = ""
    critical: str = ""

    def __str__(self) -> str:
        return f"{self.warning} / {self.critical}" if self.warning else "non-finite only"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One row of the health panel.

    Attributes:
        key: the field of TamiyoState.
        label: what the row is called, with its unit.
        series: the field of TamiyoState it shows, when that is not the key's.
        title: the label in force, when that depends on the state.
        text: the last value for people.
        level: the row's level from the state.
        limits: the limits in force, printed beside.
        bounds: range of the sparkline.
        dead_band: least change that the trend arrow counts.
        word: what a sentence calls it.
        remedy: what to try when it is critical.
    """

    key: str
    label: str
    text: Callable[[TamiyoState], str]
    level: Callable[[TamiyoState], HealthLevel]
    limits: Callable[[TamiyoState], Limits]
    bounds: Callable[[TamiyoState], tuple[float, float]]
    dead_band: float
    word: str = ""
    remedy: str = ""
    series: Callable[[TamiyoState], str] | None = None
    title: Callable[[TamiyoState], str] | None = None

    def field(self, state: TamiyoState) -> str:
        """The field of the state that the row shows."""
        return self.key if self.series is None else self.series(state)

    def name(self, state: TamiyoState) -> str:
        """What the row is called now."""
        return self.label if self.title is None else self.title(state)

    def value(self, state: TamiyoState) -> float | None:
        """The unrounded value of the last update."""
        found: float | None = getattr(state, self.field(state))
        return found

    def history(self, state: TamiyoState) -> Iterable[float | None]:
        """The last ten values, oldest first."""
        found: Iterable[float | None] = getattr(state, f"{self.field(state)}_history")
        return found


PANEL_DIGITS: Final = 3
"""Decimals of the KL in the banner and the health panel, as TELE-111 has it; lists, lines, events and plots have 4."""


def limit_text(value: float) -> str:
    """A limit of the KL, with as many decimals as it has, at least 3."""
    short = f"{value:.3f}"
    return short if float(short) == value else f"{value:g}"


def _fixed(
    key: str,
    label: str,
    text: Callable[[float | None], str],
    classify: Callable[[float | None], HealthLevel],
    limits: Limits,
    bounds: tuple[float, float],
    dead_band: float,
    word: str,
    remedy: str,
) -> Metric:
    """A metric with absolute limits."""

    def level(state: TamiyoState) -> HealthLevel:
        return classify(getattr(state, key))

    return Metric(
        key=key,
        label=label,
        text=lambda state: text(getattr(state, key)),
        level=level,
        limits=lambda _: limits,
        bounds=lambda _: bounds,
        dead_band=dead_band,
        word=word,
        remedy=remedy,
    )


def _relative(key: str, label: str, digits: int, remedy: str) -> Metric:
    """A metric whose limits are factors of the median of its own past."""
    warning, critical = TUIThresholds.GRAD_NORM_WARNING_FACTOR, TUIThresholds.GRAD_NORM_CRITICAL_FACTOR
    if key == "advantage_std":
        warning, critical = TUIThresholds.ADVANTAGE_STD_WARNING_FACTOR, TUIThresholds.ADVANTAGE_STD_CRITICAL_FACTOR

    def level(state: TamiyoState) -> HealthLevel:
        found: HealthLevel = getattr(state, f"{key}_level")
        return found

    def limits(state: TamiyoState) -> Limits:
        middle: float | None = getattr(state, f"{key}_median")
        if middle is None:
            return Limits(f"{warning:g}x", f"{critical:g}x med.")
        return Limits(scaled(middle * warning, digits), scaled(middle * critical, digits))

    def bounds(state: TamiyoState) -> tuple[float, float]:
        middle: float | None = getattr(state, f"{key}_median")
        past = [value for value in getattr(state, f"{key}_history") if value is not None and math.isfinite(value)]
        return 0.0, 1.5 * warning * (middle if middle is not None else max(past, default=1.0) / warning)

    return Metric(
        key=key,
        label=label,
        text=lambda state: scaled(getattr(state, key), digits),
        level=level,
        limits=limits,
        bounds=bounds,
        dead_band=0.0,
        word=label,
        remedy=remedy,
    )


def _finite_only(value: float | None) -> HealthLevel:
    """No limit but that it be a number."""
    if value is None:
        return HealthLevel.UNKNOWN
    return HealthLevel.HEALTHY if math.isfinite(value) else HealthLevel.NON_FINITE


METRICS: Final = (
    Metric(
        key="kl_divergence",
        label="KL nats",
        text=lambda state: format_kl(state.judged_kl, digits=PANEL_DIGITS, limits=state.limits),
        level=lambda state: classify_kl(state.judged_kl, state.limits),
        limits=lambda state: Limits(limit_text(state.limits.warning), limit_text(state.limits.critical)),
        bounds=lambda state: kl_range(state.limits),
        dead_band=0.001,
        series=lambda state: "kl_joint" if state.limits.on == "joint" else "kl_divergence",
        title=lambda state: f"{state.limits.name} nats",
    ),
    _fixed(
        "clip_fraction",
        "clip fraction",
        percent,
        classify_clip_fraction,
        Limits(percent(TUIThresholds.CLIP_WARNING, 0), percent(TUIThresholds.CLIP_CRITICAL, 0)),
        (0.0, 1.5 * TUIThresholds.CLIP_CRITICAL),
        0.01,
        "clip fraction",
        "lower learning_rate or use fewer epochs",
    ),
    _fixed(
        "entropy_normalised",
        "entropy 0..1",
        lambda value: plain(value, 3),
        classify_entropy,
        Limits(f"≤{TUIThresholds.ENTROPY_WARNING:.2f}", f"{TUIThresholds.ENTROPY_CRITICAL:.2f}"),
        (0.0, 1.0),
        0.01,
        "entropy",
        "raise entropy_coef",
    ),
    _fixed(
        "explained_variance",
        "expl. variance",
        lambda value: plain(value, 2),
        classify_explained_variance,
        Limits(f"≤{TUIThresholds.EXPLAINED_VAR_WARNING:.2f}", f"{TUIThresholds.EXPLAINED_VAR_CRITICAL:.2f}"),
        (0.0, 1.0),
        0.02,
        "explained variance",
        "the value function explains nothing: raise value_coef, or scale the rewards",
    ),
    _relative("grad_norm", "grad norm", 2, "lower learning_rate or max_grad_norm"),
    _relative("advantage_std", "advantage std", 2, "look at the rewards: their scale has changed"),
    _relative("value_loss", "value loss", 3, "lower learning_rate, or scale the rewards"),
    Metric(
        key="policy_loss",
        label="policy loss",
        text=lambda state: plain(state.policy_loss, 4),
        level=lambda state: _finite_only(state.policy_loss),
        limits=lambda _: Limits(),
        bounds=lambda _: (-0.1, 0.1),
        dead_band=0.002,
        word="policy loss",
        remedy="check rewards and observations for NaN",
    ),
)
"""In the order of the panel; the compact layout shows the first ones."""


NOT_REPORTED: Final = "not reported"
NOT_DEFINED: Final = "not defined"


def absence(item: Metric, snapshot: SanctumSnapshot, *, ended: bool) -> str:
    """Why a metric has no value and waiting for one is in vain; empty while it has one, or may get one.

    ``not defined`` for the normalised entropy of densities. ``not reported`` when none of the last ten updates has a
    value and the judged window is full, the run has ended, or the update itself says that its KL was not measured
    after the last step.
    """
    last, state = snapshot.last, snapshot.tamiyo
    if last is None:
        return NOT_REPORTED if ended else ""
    if any(value is not None for value in (item.value(state), *item.history(state))):
        return ""
    if item.key == "entropy_normalised" and last.differential:
        return NOT_DEFINED
    told = item.key == "kl_divergence" and last.kl_measured != "after_last_step"
    return NOT_REPORTED if told or ended or len(state.levels) >= HEALTH_WINDOW else ""


def critical_rows(state: TamiyoState) -> list[tuple[Metric, Suggestion]]:
    """The rows other than the KL's that are critical or no number, each with what to try.

    They never set the verdict, so the reason and the next step have to name them.
    """
    return [
        (item, Suggestion(cause=f"{item.word} {item.text(state)} is critical", action=item.remedy))
        for item in METRICS
        if item.key != "kl_divergence" and item.level(state).severity >= HealthLevel.CRITICAL.severity
    ]


def metric(key: str) -> Metric:
    """The metric of that key."""
    return next(item for item in METRICS if item.key == key)
