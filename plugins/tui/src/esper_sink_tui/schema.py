"""What Sanctum knows of one run, as plain data: no Textual, no clock, no file.

:class:`TamiyoState` is the policy's state after the last update; :class:`SanctumSnapshot` is that and everything else a
screen shows. A snapshot shares nothing mutable with the aggregator that made it.
"""

from __future__ import annotations

from collections import deque
from copy import copy
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from esper_core.health import HealthLevel, RunState, TUIThresholds

if TYPE_CHECKING:
    from esper_core.events import EarlyStop, PPOUpdatePayload, RunFinished, SinkState

__all__ = [
    "EVENT_LOG",
    "HISTORY",
    "RECENT",
    "RELATIVE",
    "RELATIVE_WINDOW",
    "TRACKED",
    "EventEntry",
    "EventTone",
    "HeadState",
    "History",
    "RunPlan",
    "SanctumSnapshot",
    "SinkStatus",
    "TamiyoState",
]

HISTORY: Final = 10
"""Updates a sparkline shows."""
RECENT: Final = 120
"""Updates the plot shows, and that a viewer reads before its first screen."""
RELATIVE_WINDOW: Final = 50
"""Earlier updates whose median gradient norm and advantage std are compared with."""
EVENT_LOG: Final = 200
"""Lines the event log keeps."""

History: TypeAlias = deque["float | None"]
"""The last values of one number, oldest first; None where an update did not measure it."""
EventTone: TypeAlias = Literal["info", "good", "warning", "critical", "non_finite", "stop"]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadState:
    """One head after the last update; see ``esper_core.events.HeadStats`` for the meaning of the fields."""

    name: str
    kl: float | None = None
    weight: float | None = None
    share: float | None = None
    entropy_normalised: float | None = None
    clip_fraction: float | None = None
    decisions: int = 0
    kl_history: tuple[float | None, ...] = ()
    entropy_history: tuple[float | None, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkStatus:
    """One sink as its events and ``run.json`` tell it.

    Attributes:
        name: the sink.
        state: what became of it.
        queued: events waiting; None when unknown.
        capacity: events its channel holds; None when unknown.
        delivered: events delivered so far.
        lost: events lost so far.
        lag_s: seconds an event waited; None when unknown.
        message: the last thing said about it.
    """

    name: str
    state: SinkState = "ok"
    queued: int | None = None
    capacity: int | None = None
    delivered: int = 0
    lost: int = 0
    lag_s: float | None = None
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventEntry:
    """One line of the event log.

    Attributes:
        time_ns: unix nanoseconds.
        tone: how it is drawn; never by colour alone.
        source: ``ppo.update``, ``sink.otlp``, ``run``, ...
        update_id: the update it belongs to, or None.
        text: what happened, in words.
    """

    time_ns: int
    tone: EventTone
    source: str
    update_id: int | None = None
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """What the run said when it began; see ``esper_core.events.RunStarted``."""

    run_name: str = ""
    environment: str = ""
    heads: tuple[str, ...] = ()
    seed: int = 0
    updates: int | None = None
    steps: int | None = None
    episodes: int | None = None
    target_kl: float | None = None
    stop_threshold: float | None = None
    stop_on: str = "weighted"
    kl_warning: float = TUIThresholds.KL_WARNING
    kl_critical: float = TUIThresholds.KL_CRITICAL
    config_digest: str = ""
    started_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SanctumSnapshot:
    """Everything a screen shows of one run that its events tell.

    Attributes:
        run_id: the run.
        attempt: the newest attempt seen.
        plan: what the run said when it began.
        tamiyo: the policy after the last update.
        heads: one entry a head, in the policy's order.
        recent: the last 120 effective updates, oldest first.
        last: the last of them.
        last_time_ns: when it ended, unix nanoseconds.
        last_event_ns: time of the newest event of any kind.
        median_gap_s: median seconds between recent updates.
        sinks: by name.
        events: the event log, oldest first.
        finished: the end of the newest attempt, or None.
        seen: events taken in.
        duplicates: updates seen before or overtaken by a newer attempt.
        bad: events that could not be understood; never 0 by hiding them.
    """

    run_id: str = ""
    attempt: int = 0
    plan: RunPlan = field(default_factory=RunPlan)
    tamiyo: TamiyoState = field(default_factory=TamiyoState)
    heads: tuple[HeadState, ...] = ()
    recent: tuple[PPOUpdatePayload, ...] = ()
    last: PPOUpdatePayload | None = None
    last_time_ns: int | None = None
    last_event_ns: int | None = None
    median_gap_s: float | None = None
    sinks: tuple[SinkStatus, ...] = ()
    events: tuple[EventEntry, ...] = ()
    finished: RunFinished | None = None
    finished_ns: int | None = None
    seen: int = 0
    duplicates: int = 0
    bad: int = 0

    @property
    def updates(self) -> int:
        """Updates of the run so far; ids count from 1 over all attempts."""
        return self.tamiyo.update_id

    @property
    def stopped_recently(self) -> int:
        """How many of the last ten updates stopped early."""
        return sum(self.tamiyo.early_stops)

    @property
    def ended_as(self) -> RunState | None:
        """The state the newest attempt ended with, or None while it runs or when it never said."""
        return self.finished.state if self.finished is not None else None
