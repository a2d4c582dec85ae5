"""TamiyoState: the policy after its last update, with the last ten values of what is judged. Plain data."""

from __future__ import annotations

from collections import deque
from copy import copy
from dataclasses import dataclass, field, fields
from statistics import median
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from esper_core.health import DEFAULT_KL_LIMITS, HealthLevel, KLLimits, classify_relative, level_under

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper_core.events import EarlyStop, PPOUpdatePayload

__all__ = [
    "HISTORY",
    "RELATIVE",
    "RELATIVE_WINDOW",
    "TRACKED",
    "History",
    "TamiyoState",
    "advance",
    "judge_relative",
    "rounded",
]

HISTORY: Final = 10
"""Updates a sparkline shows."""
RELATIVE_WINDOW: Final = 50
"""Earlier updates whose median gradient norm, advantage std and value loss are compared with."""
History: TypeAlias = deque["float | None"]
"""The last values of one number, oldest first; None where an update did not measure it."""


def _history() -> History:
    return deque(maxlen=HISTORY)


@dataclass(slots=True, kw_only=True)
class TamiyoState:
    """The policy after its last update. Values are unrounded; histories are rounded to 4 decimals.

    The histories hold one entry an effective update: a duplicate never appends twice, and a higher attempt replaces
    everything from its first update on.

    Attributes:
        attempt: of the last update; 0 before the first.
        update_id: of the last update; 0 before the first.
        ppo_data_received: whether any update was seen.
        kl_divergence: weighted KL after the last step, nats.
        kl_divergence_history: its last ten values, nats, 4 decimals.
        kl_joint: joint KL per step after the last step, nats.
        kl_joint_history: its last ten values, nats, 4 decimals.
        limits: of the run: they say which of the two is judged.
        level: the last update's own level.
        levels: the last ten updates' own levels, oldest first.
        clip_fraction: share of steps outside the clip range, 0..1.
        entropy_normalised: 0..1.
        explained_variance: -inf..1.
        grad_norm: before clipping.
        advantage_std: before normalisation.
        value_loss: mean over minibatches.
        policy_loss: mean over minibatches.
        steps_per_s: environment steps per second.
        return_mean: mean return of the rollout's finished episodes.
        grad_norm_level: against the median of up to 50 earlier updates.
        grad_norm_median: that median; None below five values.
        advantage_std_level: likewise.
        advantage_std_median: likewise.
        value_loss_level: likewise.
        value_loss_median: likewise.
        early_stop: of the last update.
        early_stops: which of the last ten updates stopped early, oldest first.
    """

    attempt: int = 0
    update_id: int = 0
    ppo_data_received: bool = False
    level: HealthLevel = HealthLevel.UNKNOWN
    levels: deque[HealthLevel] = field(default_factory=lambda: deque(maxlen=HISTORY))
    kl_divergence: float | None = None
    kl_divergence_history: deque[float | None] = field(default_factory=lambda: deque(maxlen=10))
    kl_joint: float | None = None
    kl_joint_history: History = field(default_factory=_history)
    limits: KLLimits = DEFAULT_KL_LIMITS
    clip_fraction: float | None = None
    clip_fraction_history: History = field(default_factory=_history)
    entropy_normalised: float | None = None
    entropy_normalised_history: History = field(default_factory=_history)
    explained_variance: float | None = None
    explained_variance_history: History = field(default_factory=_history)
    grad_norm: float | None = None
    grad_norm_history: History = field(default_factory=_history)
    grad_norm_level: HealthLevel = HealthLevel.UNKNOWN
    grad_norm_median: float | None = None
    advantage_std: float | None = None
    advantage_std_history: History = field(default_factory=_history)
    advantage_std_level: HealthLevel = HealthLevel.UNKNOWN
    advantage_std_median: float | None = None
    value_loss: float | None = None
    value_loss_history: History = field(default_factory=_history)
    value_loss_level: HealthLevel = HealthLevel.UNKNOWN
    value_loss_median: float | None = None
    policy_loss: float | None = None
    policy_loss_history: History = field(default_factory=_history)
    steps_per_s: float | None = None
    steps_per_s_history: History = field(default_factory=_history)
    return_mean: float | None = None
    return_mean_history: History = field(default_factory=_history)
    early_stop: EarlyStop | None = None
    early_stops: deque[bool] = field(default_factory=lambda: deque(maxlen=HISTORY))

    @property
    def judged_kl(self) -> float | None:
        """The KL that the limits are on, nats, unrounded."""
        return self.kl_joint if self.limits.on == "joint" else self.kl_divergence

    @property
    def judged_kl_history(self) -> History:
        """Its last ten values, nats, 4 decimals."""
        return self.kl_joint_history if self.limits.on == "joint" else self.kl_divergence_history

    def copy(self) -> TamiyoState:
        """A copy that shares no deque with this one, whatever fields there are."""
        values: dict[str, Any] = {item.name: getattr(self, item.name) for item in fields(self)}
        for name, value in values.items():
            if isinstance(value, deque):
                values[name] = copy(value)
        return TamiyoState(**values)


TRACKED: Final = tuple(
    item.name.removesuffix("_history") for item in fields(TamiyoState) if item.name.endswith("_history")
)
"""Payload fields that TamiyoState follows with a value and a history: add a pair of fields there and it is followed."""
RELATIVE: Final = tuple(
    item.name.removesuffix("_median") for item in fields(TamiyoState) if item.name.endswith("_median")
)
"""Numbers judged against the median of their own past."""


def rounded(value: float | None) -> float | None:
    """Histories keep 4 decimals; NaN and Inf stay what they are."""
    return None if value is None else round(value, 4)


def advance(state: TamiyoState, attempt: int, payload: PPOUpdatePayload) -> None:
    """Bring the state from one effective update to the next."""
    state.attempt = attempt
    state.update_id = payload.update_id
    state.ppo_data_received = True
    state.level = level_under(payload, state.limits)
    state.levels.append(state.level)
    for name in TRACKED:
        value: float | None = getattr(payload, name)
        setattr(state, name, value)
        getattr(state, f"{name}_history").append(rounded(value))
    state.early_stop = payload.early_stop
    state.early_stops.append(payload.early_stop is not None)


def judge_relative(state: TamiyoState, updates: Sequence[PPOUpdatePayload]) -> None:
    """Judge what has no absolute limit against the updates before the last one."""
    if not updates:
        return
    last, earlier = updates[-1], updates[-1 - RELATIVE_WINDOW : -1]
    for name in RELATIVE:
        level, middle = _relative(getattr(last, name), [getattr(item, name) for item in earlier])
        setattr(state, f"{name}_level", level)
        setattr(state, f"{name}_median", middle)


def _relative(value: float | None, earlier: list[float | None]) -> tuple[HealthLevel, float | None]:
    """Level against the median of earlier values, and that median for the printed limits."""
    level = classify_relative(value, earlier)
    finite = [item for item in earlier if item is not None and item - item == 0.0]
    enough = level is not HealthLevel.UNKNOWN and len(finite) >= 5
    return level, median(finite) if enough else None
