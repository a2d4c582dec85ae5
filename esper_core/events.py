"""The data contract: every event Esper emits, as frozen, keyword-only dataclasses of plain values.

Floats, ints, strings and tuples only, never tensors: values are converted once, where they are measured. A field
that was not measured is None, never a made-up 0. Equality treats NaN as equal to NaN, so that
``decode(encode(event)) == event`` holds for every event. Fields are only ever added, with defaults.

The wire form (attributes, OTLP JSON) and the reference page derive from these classes and from the registry in
``esper_core/semconv``: a new metric is one field here, one entry there, and one line where it is computed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import ClassVar, Generic, Literal, TypeAlias, TypeVar

from esper_core.health import HealthLevel, RunState

__all__ = [
    "PAYLOADS",
    "EarlyStop",
    "EpisodeFinished",
    "EventKind",
    "HeadStats",
    "Outcome",
    "PPOUpdatePayload",
    "Payload",
    "PolicyHealthChanged",
    "RunFinished",
    "RunStarted",
    "SinkLoss",
    "SinkState",
    "SinkStatusChanged",
    "SpanRef",
    "TelemetryEvent",
    "TraceRef",
]

EventKind: TypeAlias = Literal[
    "run_started",
    "episode_finished",
    "ppo_updated",
    "policy_health_changed",
    "sink_status_changed",
    "run_finished",
]
Outcome: TypeAlias = Literal["completed", "early_stopped", "skipped", "interrupted"]
SinkState: TypeAlias = Literal["ok", "failing", "disabled", "recovered", "closed", "cut_off"]


def _comparable(value: object) -> object:
    """Replace NaN by a value that equals itself, through tuples."""
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    if isinstance(value, tuple):
        return tuple(_comparable(item) for item in value)
    return value


class _Record:
    """Equality and hash over the fields, with NaN equal to NaN."""

    __slots__ = ()

    def _key(self) -> tuple[object, ...]:
        return tuple(_comparable(getattr(self, item.name)) for item in fields(self))  # type: ignore[arg-type]  # subclasses are dataclasses

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash((type(self).__name__, self._key()))


# --- PPO update ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class HeadStats(_Record):
    """One head's part of an update, over its active decisions (causal mask 1, unforced steps).

    Attributes:
        name: the head's name.
        kl: mean KL(old || new) per active decision, nats; None without active decisions.
        decisions: active decisions ``n_h``.
        weight: ``n_h / T``, the share of unforced steps on which the head is active; None when T is 0.
        share: ``num_h / sum(num)``, the head's share of the summed KL, 0..1; None when the sum is 0.
        entropy: mean entropy per active decision, nats.
        entropy_normalised: mean of entropy over log(number of legal choices), 0..1, over decisions with a choice.
        clip_fraction: share of active decisions with ``|ratio_h - 1| > clip_range``, 0..1.
    """

    name: str
    kl: float | None = None
    decisions: int = 0
    weight: float | None = None
    share: float | None = None
    entropy: float | None = None
    entropy_normalised: float | None = None
    clip_fraction: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EarlyStop(_Record):
    """Where and why an update stopped early.

    Attributes:
        epoch: epoch of the stop, counted from 1.
        minibatch: minibatch within that epoch, counted from 1; the optimizer step of this one was not taken
            (rule ``epoch``: the last one of the epoch, whose step was taken).
        value: the pooled KL that was compared, nats.
        threshold: the limit it exceeded, nats.
        head: the head with the largest share of the pooled KL.
    """

    epoch: int
    minibatch: int
    value: float
    threshold: float
    head: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PPOUpdatePayload(_Record):
    """One PPO update: what was planned, what was done, and how far the policy moved.

    KL fields are in nats, estimated as KL(old || new) with Schulman's k3 = expm1(r) - r over the rollout's samples.
    ``kl_divergence`` is per head-decision (sum of numerators over sum of active decisions), ``kl_joint`` per unforced
    environment step (what other libraries' ``target_kl`` means). Both are measured in one pass over the whole
    rollout after the last optimizer step. See docs/explanation/kl.md.

    Attributes:
        update_id: counts from 1 over all attempts of a run.
        env_steps: environment steps taken in the run when the update began.
        outcome: completed, early_stopped, skipped (no step was possible) or interrupted (by a signal).
        reason: why, when the outcome is not completed; empty otherwise.
        device: torch device the update ran on, for example ``cpu``.
        kl_divergence: weighted KL per head-decision, after the last step.
        kl_joint: KL per unforced environment step, after the last step.
        kl_first_minibatch: weighted KL of the first minibatch, before any step: about 0 when the old
            log-probabilities match, else the self-test failed.
        kl_mean: mean of the in-loop weighted KL over minibatches.
        kl_max: largest in-loop weighted KL of one minibatch.
        kl_last: last in-loop weighted KL of one minibatch.
        kl_by_epoch: pooled in-loop weighted KL of each epoch begun.
        kl_estimator: ``k3`` or ``exact``.
        target_kl: the configured target; None when early stopping is off.
        stop_threshold: the limit in force (1.5 * target_kl).
        stop_on: ``weighted`` or ``joint``: which KL the limit is on.
        stop_rule: ``pooled``, ``minibatch`` or ``epoch``.
        stop_window: minibatches pooled by the rule.
        early_stop: where it stopped, or None.
        ratio_max: largest joint probability ratio seen, after the last step.
        clamped: active log-ratios beyond +-20 that were clamped, in the final pass.
        non_finite: active log-ratios, losses or gradients that were NaN or Inf during the update.
        health: this update's own level.
        heads: one entry a head, in the policy's order.
        epochs: epochs begun.
        epochs_planned: epochs planned.
        minibatches: optimizer steps taken.
        minibatches_planned: optimizer steps planned.
        steps: unforced environment steps T in the rollout.
        steps_forced: steps with exactly one legal joint action.
        policy_loss: mean clipped surrogate loss over the minibatches taken.
        value_loss: mean value loss (0.5 * squared error) over the minibatches taken.
        entropy: nats per step, summed over active heads.
        entropy_normalised: mean over active head-decisions, 0..1.
        clip_fraction: share of unforced steps with ``|joint ratio - 1| > clip_range``, mean over minibatches, 0..1.
        explained_variance: 1 - Var(return - value) / Var(return); None when the returns do not vary.
        grad_norm: mean global gradient norm before clipping.
        grad_norm_max: largest global gradient norm before clipping.
        advantage_mean: before normalisation.
        advantage_std: before normalisation.
        learning_rate: rate of the last optimizer step.
        clip_range: the surrogate's clip range.
        episodes: episodes finished in this rollout.
        return_mean: mean undiscounted return of those episodes.
        return_min: smallest of them.
        return_max: largest of them.
        episode_length_mean: their mean length in environment steps.
        return_mean_100: mean return of the last 100 episodes of the run.
        rollout_s: seconds spent collecting the rollout.
        update_s: seconds spent in the update.
        steps_per_s: environment steps of the rollout per second of rollout and update together.
    """

    kind: ClassVar[EventKind] = "ppo_updated"

    update_id: int
    env_steps: int = 0
    outcome: Outcome = "completed"
    reason: str = ""
    device: str = "cpu"
    # KL
    kl_divergence: float | None = None
    kl_joint: float | None = None
    kl_first_minibatch: float | None = None
    kl_mean: float | None = None
    kl_max: float | None = None
    kl_last: float | None = None
    kl_by_epoch: tuple[float, ...] = ()
    kl_estimator: str = "k3"
    target_kl: float | None = None
    stop_threshold: float | None = None
    stop_on: str = "weighted"
    stop_rule: str = "pooled"
    stop_window: int | None = None
    early_stop: EarlyStop | None = None
    ratio_max: float | None = None
    clamped: int = 0
    non_finite: int = 0
    health: HealthLevel = HealthLevel.UNKNOWN
    heads: tuple[HeadStats, ...] = ()
    # work
    epochs: int = 0
    epochs_planned: int = 0
    minibatches: int = 0
    minibatches_planned: int = 0
    steps: int = 0
    steps_forced: int = 0
    # learning
    policy_loss: float | None = None
    value_loss: float | None = None
    entropy: float | None = None
    entropy_normalised: float | None = None
    clip_fraction: float | None = None
    explained_variance: float | None = None
    grad_norm: float | None = None
    grad_norm_max: float | None = None
    advantage_mean: float | None = None
    advantage_std: float | None = None
    learning_rate: float | None = None
    clip_range: float | None = None
    # returns of finished episodes
    episodes: int = 0
    return_mean: float | None = None
    return_min: float | None = None
    return_max: float | None = None
    episode_length_mean: float | None = None
    return_mean_100: float | None = None
    # time
    rollout_s: float | None = None
    update_s: float | None = None
    steps_per_s: float | None = None

    @property
    def leading_head(self) -> HeadStats | None:
        """The head with the largest share of the KL, or None when no head has one."""
        measured = [head for head in self.heads if head.share is not None and not math.isnan(head.share)]
        return max(measured, key=lambda head: head.share or 0.0, default=None)


# --- lifecycle and the rest ---------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RunStarted(_Record):
    """A run, or another attempt at it, began.

    Attributes:
        environment: the environment's id.
        algorithm: ``ppo``.
        run_name: the name a person gave, or the run id.
        heads: head names, in the policy's order.
        seed: the seed in force.
        n_envs: environments stepped side by side.
        updates_planned: PPO updates planned, None when another limit ends the run.
        steps_planned: environment steps planned, likewise.
        episodes_planned: finished episodes planned, likewise.
        first_update_id: id of the first update of this attempt; higher than 1 after a resume.
        resumed_from: attempt that this one continues, or None.
        target_kl: nats, None when early stopping is off.
        stop_threshold: nats, on ``stop_on``.
        stop_on: ``weighted`` or ``joint``.
        kl_warning: the limits in force, nats.
        kl_critical: likewise.
        versions: ``name==version`` of Python, torch, gymnasium, esper-core.
        config_digest: SHA-256 of the resolved configuration, hex, secrets masked.
    """

    kind: ClassVar[EventKind] = "run_started"

    environment: str
    algorithm: str = "ppo"
    run_name: str = ""
    heads: tuple[str, ...] = ()
    seed: int = 0
    n_envs: int = 1
    updates_planned: int | None = None
    steps_planned: int | None = None
    episodes_planned: int | None = None
    first_update_id: int = 1
    resumed_from: int | None = None
    target_kl: float | None = None
    stop_threshold: float | None = None
    stop_on: str = "weighted"
    kl_warning: float = 0.015
    kl_critical: float = 0.03
    versions: tuple[str, ...] = ()
    config_digest: str = ""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EpisodeFinished(_Record):
    """One episode of one environment ended.

    Attributes:
        episode: counts from 1 over all environments of the run.
        episode_return: undiscounted sum of rewards.
        length: environment steps.
        env_index: which of the parallel environments.
        truncated: ended by a time limit rather than by the task.
        env_steps: environment steps taken in the run so far.
    """

    kind: ClassVar[EventKind] = "episode_finished"

    episode: int
    episode_return: float
    length: int
    env_index: int = 0
    truncated: bool = False
    env_steps: int = 0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PolicyHealthChanged(_Record):
    """The policy's level (worst of the last three updates) changed.

    Attributes:
        previous: level before.
        current: level now.
        update_id: the update that changed it.
        kl_divergence: that update's unrounded KL, nats; None when not measured.
        head: the head that carries most of it.
    """

    kind: ClassVar[EventKind] = "policy_health_changed"

    previous: HealthLevel
    current: HealthLevel
    update_id: int
    kl_divergence: float | None = None
    head: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SinkStatusChanged(_Record):
    """Telemetry about telemetry: a sink began to fail, lost events, recovered, was disabled or closed.

    Attributes:
        sink: the sink's name.
        distribution: the distribution it came from, empty for a file.
        version: that distribution's version.
        state: what became of it.
        delivered: events delivered so far.
        lost: events lost so far.
        failures: calls that raised so far.
        message: what happened, in words.
    """

    kind: ClassVar[EventKind] = "sink_status_changed"

    sink: str
    distribution: str = ""
    version: str = ""
    state: SinkState = "ok"
    delivered: int = 0
    lost: int = 0
    failures: int = 0
    message: str = ""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SinkLoss(_Record):
    """Events one sink lost over the run.

    Attributes:
        sink: its name.
        lost: number of events.
    """

    sink: str
    lost: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RunFinished(_Record):
    """The run ended in an orderly way.

    Attributes:
        state: done, stopped or failed.
        reason: what ended it, in words.
        updates: PPO updates over all attempts.
        env_steps: environment steps over all attempts.
        episodes: finished episodes over all attempts.
        early_stops: early stops of this attempt.
        duration_s: seconds of this attempt.
        return_mean_100: mean return of the last 100 episodes.
        kl_divergence: the last update's KL, nats.
        health: the policy's level at the end.
        lost: totals lost, by sink, known when the event was made.
    """

    kind: ClassVar[EventKind] = "run_finished"

    state: RunState
    reason: str = ""
    updates: int = 0
    env_steps: int = 0
    episodes: int = 0
    early_stops: int = 0
    duration_s: float | None = None
    return_mean_100: float | None = None
    kl_divergence: float | None = None
    health: HealthLevel = HealthLevel.UNKNOWN
    lost: tuple[SinkLoss, ...] = ()


Payload: TypeAlias = (
    RunStarted | EpisodeFinished | PPOUpdatePayload | PolicyHealthChanged | SinkStatusChanged | RunFinished
)
PAYLOADS: dict[EventKind, type[Payload]] = {
    "run_started": RunStarted,
    "episode_finished": EpisodeFinished,
    "ppo_updated": PPOUpdatePayload,
    "policy_health_changed": PolicyHealthChanged,
    "sink_status_changed": SinkStatusChanged,
    "run_finished": RunFinished,
}

# --- the envelope -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SpanRef(_Record):
    """One span that an event stands for.

    Attributes:
        name: span name, for example ``esper.ppo.update``.
        span_id: 16 lower-case hex digits.
        parent_span_id: likewise, or None for a root.
        start_ns: unix nanoseconds.
        end_ns: unix nanoseconds.
    """

    name: str
    span_id: str
    parent_span_id: str | None = None
    start_ns: int
    end_ns: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TraceRef(_Record):
    """The spans an event stands for, its own last.

    A PPO update stands for its iteration, rollout and update; every other kind for one instant span.

    Attributes:
        trace_id: 32 lower-case hex digits.
        spans: parents before children; the event's own span is the last one.
    """

    trace_id: str
    spans: tuple[SpanRef, ...]

    @property
    def own(self) -> SpanRef:
        """The event's own span."""
        return self.spans[-1]


PayloadT = TypeVar("PayloadT", bound=Payload, covariant=True)  # noqa: PLC0105  # the field's usual name


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TelemetryEvent(_Record, Generic[PayloadT]):
    """One event as every hook, journal line and viewer sees it.

    Attributes:
        time_ns: unix nanoseconds; equals the own span's end.
        run_id: the run.
        attempt: counts from 1; a resume is a new attempt.
        rank: of the emitting process; 0 on one rank.
        marked: True for the test event of ``esper sinks check``.
        trace: the spans it stands for.
        payload: what happened.
    """

    time_ns: int
    run_id: str
    attempt: int = 1
    rank: int = 0
    marked: bool = False
    trace: TraceRef
    payload: PayloadT = field(kw_only=True)

    @property
    def kind(self) -> EventKind:
        """The payload's kind; ``esper_<kind>`` is its hook."""
        return self.payload.kind
