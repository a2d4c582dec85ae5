"""A run's beginning and end, its episodes, the policy's level and the sinks' states."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias

from esper_core.events._record import EventKind, Payload, Record
from esper_core.events.fields import about, measured
from esper_core.health import DEFAULT_KL_LIMITS, HealthLevel, KLLimits, RunState

__all__ = [
    "EpisodeFinished",
    "PolicyEvaluated",
    "PolicyHealthChanged",
    "RunFinished",
    "RunStarted",
    "SinkLoss",
    "SinkState",
    "SinkStatusChanged",
]

SinkState: TypeAlias = Literal["ok", "failing", "disabled", "recovered", "closed", "cut_off"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RunStarted(Payload):
    """A run, or another attempt at it, began."""

    kind: ClassVar[EventKind] = "run_started"

    environment: str = field(metadata=about("The environment's id.", examples=("CartPole-v1",)))
    algorithm: str = measured("The algorithm, always `ppo`.", default="ppo", examples=("ppo",))
    run_name: str = measured("The name a person gave, or the run id.", default="", name="name", examples=("baseline",))
    heads: tuple[str, ...] = measured(
        "Head names, in the policy's order.", default=(), examples=(("operations", "slot"),)
    )
    seed: int = measured("The seed in force for environment, policy and minibatch order.", default=0)
    n_envs: int = measured("Environments stepped side by side, by all ranks.", default=1, unit="{environment}")
    ranks: int = measured("Ranks that learn one policy together.", default=1, unit="{rank}", examples=(1, 4))
    updates_planned: int | None = measured(
        "PPO updates planned, None when another limit ends the run.", unit="{update}"
    )
    steps_planned: int | None = measured(
        "Environment steps planned, None when another limit ends the run.", unit="{step}"
    )
    episodes_planned: int | None = measured(
        "Finished episodes planned, None when another limit ends the run.", unit="{episode}"
    )
    first_update_id: int = measured("Id of the first update of this attempt; higher than 1 after a resume.", default=1)
    resumed_from: int | None = measured("Attempt that this one continues, or None.")
    target_kl: float | None = measured(
        "The configured KL target; None when early stopping is off.", key="esper.ppo.target_kl"
    )
    stop_threshold: float | None = measured(
        "The limit of early stopping, on `stop_on`.", key="esper.ppo.stop_threshold"
    )
    stop_on: str = measured(
        "`weighted` or `joint`: which KL the limit is on.", default="weighted", key="esper.ppo.stop_on"
    )
    kl_on: str = measured("`weighted` or `joint`: which KL the levels are on.", default=DEFAULT_KL_LIMITS.on)
    kl_warning: float = measured("WARNING limit in force, nats.", default=DEFAULT_KL_LIMITS.warning, unit="{nat}")
    kl_critical: float = measured("CRITICAL limit in force, nats.", default=DEFAULT_KL_LIMITS.critical, unit="{nat}")
    versions: tuple[str, ...] = measured(
        "`name==version` of Python, torch, gymnasium, esper-core.",
        default=(),
        examples=(("python==3.11.9", "torch==2.13.0"),),
    )
    config_digest: str = measured(
        "SHA-256 of the resolved configuration, hex, secrets masked.", default="", examples=("9f86d081884c7d65",)
    )

    @property
    def limits(self) -> KLLimits:
        """The limits that the run is judged by; the defaults where what a writer said makes no sense."""
        found = KLLimits(
            on="joint" if self.kl_on == "joint" else "weighted", warning=self.kl_warning, critical=self.kl_critical
        )
        return DEFAULT_KL_LIMITS if found.fault else found


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EpisodeFinished(Payload):
    """One episode of one environment ended."""

    kind: ClassVar[EventKind] = "episode_finished"

    episode: int = field(
        metadata=about("Number of the episode, from 1, over all environments of the run.", name="number")
    )
    episode_return: float = field(
        metadata=about("Undiscounted sum of the episode's rewards.", name="return", unit="{reward}")
    )
    length: int = field(metadata=about("Environment steps of the episode.", unit="{step}"))
    env_index: int = measured("Which of the parallel environments the episode ran in.", default=0)
    truncated: bool = measured("True when a time limit ended the episode rather than the task.", default=False)
    env_steps: int = measured("Environment steps taken in the run so far.", default=0, unit="{step}")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PolicyHealthChanged(Payload):
    """The policy's level changed; below the update that changed it. It goes on over the attempts of a run."""

    kind: ClassVar[EventKind] = "policy_health_changed"

    previous: HealthLevel = field(metadata=about("The policy's level before the change.", name="health.previous"))
    current: HealthLevel = field(
        metadata=about(
            "The policy's level: the worst of the last three updates, at least warning while one head is at critical.",
            name="health.current",
        )
    )
    update_id: int = field(metadata=about("The update that changed the level.", key="esper.ppo.update_id"))
    kl_divergence: float | None = measured(
        "That update's unrounded KL, nats; None when not measured.", key="esper.ppo.kl_divergence"
    )
    kl_joint: float | None = measured("Likewise its joint KL.", key="esper.ppo.kl_joint")
    head: str | None = measured(
        "The head that carries most of the KL, or the one at critical over the last three updates.", examples=("slot",)
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PolicyEvaluated(Payload):
    """The policy played episodes without learning, in environments of its own (``run.eval_every``)."""

    kind: ClassVar[EventKind] = "policy_evaluated"

    update_id: int = field(metadata=about("The update whose policy played.", key="esper.ppo.update_id"))
    return_mean: float = field(metadata=about("Mean undiscounted return.", unit="{reward}", gauge=True))
    episodes: int = measured("Episodes played.", default=0, unit="{episode}")
    deterministic: bool = measured("Greedy: the likeliest choice, or the mean, instead of a sample.", default=True)
    return_std: float | None = measured("Standard deviation of the returns (population).", unit="{reward}", gauge=True)
    return_min: float | None = measured("Lowest return.", unit="{reward}", gauge=True)
    return_max: float | None = measured("Highest return.", unit="{reward}", gauge=True)
    episode_length_mean: float | None = measured("Mean length of these episodes.", unit="{step}", gauge=True)
    better: bool = measured("Above every evaluation before: `best.pt` is this policy.", default=False)
    best_return_mean: float | None = measured(
        "The best mean return so far, this one included.", unit="{reward}", gauge=True
    )
    best_update_id: int | None = measured("The update that the best was measured after.")
    env_steps: int = measured("Environment steps of the training so far.", default=0, unit="{step}")
    duration_s: float | None = measured("Seconds that the evaluation took.", unit="s")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SinkStatusChanged(Payload):
    """Telemetry about telemetry: a sink began to fail, lost events, recovered, was disabled or closed."""

    kind: ClassVar[EventKind] = "sink_status_changed"

    sink: str = field(metadata=about("The sink's name.", name="name", examples=("journal",)))
    distribution: str = measured(
        "The distribution the sink came from, empty for a file.", default="", examples=("esper-sink-journal",)
    )
    version: str = measured("Version of the sink's distribution.", default="", examples=("0.1.0",))
    state: SinkState = measured("What became of the sink.", default="ok")
    delivered: int = measured("Events delivered to the sink so far.", default=0, unit="{event}")
    lost: int = measured("Events the sink lost so far.", default=0, unit="{event}")
    failures: int = measured("Calls of the sink that raised so far.", default=0, unit="{call}")
    message: str = measured("What happened to the sink, in words.", default="", examples=("no space left on device",))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SinkLoss(Record):
    """Events one sink lost over the run."""

    sink: str = field(metadata=about("Names of sinks that lost events.", examples=(("otlp",),)))
    lost: int = field(
        metadata=about("Events each of them lost, parallel to `esper.run.lost.sink`.", name="events", unit="{event}")
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RunFinished(Payload):
    """The run ended in an orderly way."""

    kind: ClassVar[EventKind] = "run_finished"

    state: RunState = field(metadata=about("How the attempt ended: done, stopped or failed."))
    reason: str = measured("What ended the attempt, in words.", default="", examples=("200 updates",))
    updates: int = measured("PPO updates over all attempts.", default=0, unit="{update}")
    env_steps: int = measured("Environment steps over all attempts.", default=0, unit="{step}")
    episodes: int = measured("Finished episodes over all attempts.", default=0, unit="{episode}")
    early_stops: int = measured("Early stops of this attempt.", default=0, unit="{stop}")
    joint_stops: int | None = measured(
        "Updates of this attempt in which the stop rule on the joint KL would have stopped, early stops included; "
        "None when early stopping is off.",
        unit="{stop}",
    )
    duration_s: float | None = measured("Seconds of this attempt.", unit="s")
    return_mean_100: float | None = measured("Mean return of the last 100 episodes.", key="esper.ppo.return_mean_100")
    kl_divergence: float | None = measured("The last update's KL, nats.", key="esper.ppo.kl_divergence")
    health: HealthLevel = measured(
        "The policy's level at the end.", default=HealthLevel.UNKNOWN, key="esper.policy.health.current"
    )
    lost: tuple[SinkLoss, ...] = measured("Totals lost, by sink, known when the event was made.", default=())
