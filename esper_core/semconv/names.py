"""Every name of Esper's telemetry. Generated from the registry; do not edit.

``make docs`` writes this module.
"""
# ruff: noqa: E501  # one generated line a name

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["ATTRIBUTES", "GAUGES", "METRICS", "SCHEMA_URL", "Gauge", "Metric"]


class Metric(NamedTuple):
    """One metric: what an instrument is created from."""

    name: str
    instrument: str
    unit: str
    brief: str
    attributes: tuple[str, ...]


class Gauge(NamedTuple):
    """The last value of one field of an update; ``head``: one point a head."""

    name: str
    unit: str
    brief: str
    field: str
    head: bool


SCHEMA_URL: Final = "https://github.com/esper-core/esper/schemas/0.1.0"

# fmt: off
ATTRIBUTES: Final[dict[str, str]] = {
    "esper.run.id": "string",
    "esper.run.attempt": "int",
    "esper.rank": "int",
    "esper.marked": "boolean",
    "esper.ppo.kl.scope": "string",
    "esper.ppo.kl.epoch": "int",
    "esper.ppo.kl.value": "double",
    "esper.ppo.kl.health": "string",
    "esper.ppo.field": "string",
    "esper.ppo.update_id": "int",
    "esper.ppo.env_steps": "int",
    "esper.ppo.outcome": "string",
    "esper.ppo.reason": "string",
    "esper.ppo.device": "string",
    "esper.ppo.kl_divergence": "double",
    "esper.ppo.kl_joint": "double",
    "esper.ppo.kl_first_minibatch": "double",
    "esper.ppo.kl_mean": "double",
    "esper.ppo.kl_max": "double",
    "esper.ppo.kl_last": "double",
    "esper.ppo.kl_by_epoch": "double[]",
    "esper.ppo.kl_estimator": "string",
    "esper.ppo.target_kl": "double",
    "esper.ppo.stop_threshold": "double",
    "esper.ppo.stop_on": "string",
    "esper.ppo.stop_rule": "string",
    "esper.ppo.stop_window": "int",
    "esper.ppo.early_stop.epoch": "int",
    "esper.ppo.early_stop.minibatch": "int",
    "esper.ppo.early_stop.value": "double",
    "esper.ppo.early_stop.threshold": "double",
    "esper.ppo.early_stop.head": "string",
    "esper.ppo.ratio_max": "double",
    "esper.ppo.clamped": "int",
    "esper.ppo.non_finite": "int",
    "esper.ppo.health": "string",
    "esper.ppo.head.name": "string[]",
    "esper.ppo.head.kl": "double[]",
    "esper.ppo.head.decisions": "int[]",
    "esper.ppo.head.weight": "double[]",
    "esper.ppo.head.share": "double[]",
    "esper.ppo.head.entropy": "double[]",
    "esper.ppo.head.entropy_normalised": "double[]",
    "esper.ppo.head.clip_fraction": "double[]",
    "esper.ppo.epochs": "int",
    "esper.ppo.epochs_planned": "int",
    "esper.ppo.minibatches": "int",
    "esper.ppo.minibatches_planned": "int",
    "esper.ppo.steps": "int",
    "esper.ppo.steps_forced": "int",
    "esper.ppo.policy_loss": "double",
    "esper.ppo.value_loss": "double",
    "esper.ppo.entropy": "double",
    "esper.ppo.entropy_normalised": "double",
    "esper.ppo.clip_fraction": "double",
    "esper.ppo.explained_variance": "double",
    "esper.ppo.grad_norm": "double",
    "esper.ppo.grad_norm_max": "double",
    "esper.ppo.advantage_mean": "double",
    "esper.ppo.advantage_std": "double",
    "esper.ppo.learning_rate": "double",
    "esper.ppo.clip_range": "double",
    "esper.ppo.episodes": "int",
    "esper.ppo.return_mean": "double",
    "esper.ppo.return_min": "double",
    "esper.ppo.return_max": "double",
    "esper.ppo.episode_length_mean": "double",
    "esper.ppo.return_mean_100": "double",
    "esper.ppo.rollout_s": "double",
    "esper.ppo.update_s": "double",
    "esper.ppo.steps_per_s": "double",
    "esper.policy.health.previous": "string",
    "esper.policy.health.current": "string",
    "esper.policy.head": "string",
    "esper.run.environment": "string",
    "esper.run.algorithm": "string",
    "esper.run.name": "string",
    "esper.run.heads": "string[]",
    "esper.run.seed": "int",
    "esper.run.n_envs": "int",
    "esper.run.updates_planned": "int",
    "esper.run.steps_planned": "int",
    "esper.run.episodes_planned": "int",
    "esper.run.first_update_id": "int",
    "esper.run.resumed_from": "int",
    "esper.run.kl_warning": "double",
    "esper.run.kl_critical": "double",
    "esper.run.versions": "string[]",
    "esper.run.config_digest": "string",
    "esper.run.state": "string",
    "esper.run.reason": "string",
    "esper.run.updates": "int",
    "esper.run.env_steps": "int",
    "esper.run.episodes": "int",
    "esper.run.early_stops": "int",
    "esper.run.duration_s": "double",
    "esper.run.lost.sink": "string[]",
    "esper.run.lost.events": "int[]",
    "esper.episode.number": "int",
    "esper.episode.return": "double",
    "esper.episode.length": "int",
    "esper.episode.env_index": "int",
    "esper.episode.truncated": "boolean",
    "esper.episode.env_steps": "int",
    "esper.sink.name": "string",
    "esper.sink.distribution": "string",
    "esper.sink.version": "string",
    "esper.sink.state": "string",
    "esper.sink.delivered": "int",
    "esper.sink.lost": "int",
    "esper.sink.failures": "int",
    "esper.sink.message": "string",
}
"""Attribute names and their types."""

METRICS: Final[dict[str, Metric]] = {
    "esper.ppo.kl_divergence": Metric("esper.ppo.kl_divergence", "histogram", "{nat}", "KL of every update, weighted (per head-decision) and joint (per step). Bucket boundaries contain 0.015 and 0.03; a bucket includes its upper bound while the verdict is `>=`, so alert on the gauges.", ("esper.ppo.kl.scope",)),
    "esper.ppo.head.kl_divergence": Metric("esper.ppo.head.kl_divergence", "histogram", "{nat}", "KL of every update per active decision, by head; a head without active decisions gives no point.", ("esper.ppo.head.name",)),
    "esper.ppo.rollout.duration": Metric("esper.ppo.rollout.duration", "histogram", "s", "Time spent collecting one rollout.", ()),
    "esper.ppo.update.duration": Metric("esper.ppo.update.duration", "histogram", "s", "Time spent in one update.", ()),
    "esper.ppo.updates": Metric("esper.ppo.updates", "counter", "{update}", "PPO updates, by how they ended.", ("esper.ppo.outcome",)),
    "esper.ppo.early_stops": Metric("esper.ppo.early_stops", "counter", "{stop}", "Updates stopped before their planned minibatches.", ()),
    "esper.ppo.episodes": Metric("esper.ppo.episodes", "counter", "{episode}", "Finished episodes.", ()),
    "esper.ppo.steps": Metric("esper.ppo.steps", "counter", "{step}", "Environment steps of the rollouts, unforced and forced.", ()),
    "esper.ppo.clamped": Metric("esper.ppo.clamped", "counter", "{ratio}", "Active log-ratios beyond +-20 that were clamped.", ()),
    "esper.ppo.non_finite": Metric("esper.ppo.non_finite", "counter", "{value}", "Active log-ratios, losses and gradients that were NaN or Inf during updates.", ()),
    "esper.ppo.non_finite_fields": Metric("esper.ppo.non_finite_fields", "counter", "{value}", "Reported numbers that were NaN or Inf and are therefore in no other metric, by field.", ("esper.ppo.field",)),
    "esper.policy.health": Metric("esper.policy.health", "gauge", "{level}", "The policy's level, the worst of the last three updates: 0 unknown, 1 healthy, 2 warning, 3 critical, 4 non-finite.", ()),
    "esper.run.heartbeat": Metric("esper.run.heartbeat", "gauge", "s", "Time of the trainer's last sign of life, unix seconds.", ()),
    "esper.run.last_progress": Metric("esper.run.last_progress", "gauge", "s", "Time of the trainer's last progress, unix seconds.", ()),
    "esper.run.state": Metric("esper.run.state", "gauge", "{state}", "1 for the state the run is in, 0 for every other.", ("esper.run.state",)),
    "esper.sink.delivered": Metric("esper.sink.delivered", "counter", "{event}", "Events delivered to the sink.", ("esper.sink.name",)),
    "esper.sink.lost": Metric("esper.sink.lost", "counter", "{event}", "Events the sink lost.", ("esper.sink.name",)),
    "esper.sink.failures": Metric("esper.sink.failures", "counter", "{call}", "Calls of the sink that raised.", ("esper.sink.name",)),
    "esper.sink.queue": Metric("esper.sink.queue", "gauge", "{event}", "Events waiting for the sink.", ("esper.sink.name",)),
}
"""Metrics that are more than the last value of a field."""

GAUGES: Final[tuple[Gauge, ...]] = (
    Gauge("esper.ppo.last.update_id", "{update}", "Last update: Number of the update, from 1, over all attempts of a run.", "update_id", False),
    Gauge("esper.ppo.last.env_steps", "{step}", "Last update: Environment steps taken in the run when the update began.", "env_steps", False),
    Gauge("esper.ppo.last.kl_divergence", "{nat}", "Last update: KL(old || new) per head-decision after the last optimizer step: sum of the heads' numerators over the sum of their active decisions. The number of TELE-111, compared with 0.015 and 0.03.", "kl_divergence", False),
    Gauge("esper.ppo.last.kl_joint", "{nat}", "Last update: KL(old || new) per unforced environment step after the last optimizer step: what other libraries' `target_kl` means.", "kl_joint", False),
    Gauge("esper.ppo.last.kl_first_minibatch", "{nat}", "Last update: Weighted KL of the first minibatch, before any step: about 0 when the old log-probabilities match, else the self-test failed.", "kl_first_minibatch", False),
    Gauge("esper.ppo.last.kl_mean", "{nat}", "Last update: Mean of the in-loop weighted KL over minibatches.", "kl_mean", False),
    Gauge("esper.ppo.last.kl_max", "{nat}", "Last update: Largest in-loop weighted KL of one minibatch.", "kl_max", False),
    Gauge("esper.ppo.last.kl_last", "{nat}", "Last update: Last in-loop weighted KL of one minibatch.", "kl_last", False),
    Gauge("esper.ppo.last.target_kl", "{nat}", "Last update: The configured KL target; absent when early stopping is off.", "target_kl", False),
    Gauge("esper.ppo.last.stop_threshold", "{nat}", "Last update: The limit of early stopping in force, 1.5 times the target.", "stop_threshold", False),
    Gauge("esper.ppo.last.stop_window", "{minibatch}", "Last update: Minibatches pooled by the early stop's rule.", "stop_window", False),
    Gauge("esper.ppo.last.ratio_max", "{ratio}", "Last update: Largest joint probability ratio seen, after the last step.", "ratio_max", False),
    Gauge("esper.ppo.last.health", "{level}", "Last update: The update's own level.", "health", False),
    Gauge("esper.ppo.last.head.kl", "{nat}", "Last update: Mean KL(old || new) per active decision of each head; empty for a head without active decisions.", "heads.kl", True),
    Gauge("esper.ppo.last.head.decisions", "{decision}", "Last update: Active decisions of each head.", "heads.decisions", True),
    Gauge("esper.ppo.last.head.weight", "1", "Last update: Share of unforced steps on which each head is active, 0..1; empty when there are none.", "heads.weight", True),
    Gauge("esper.ppo.last.head.share", "1", "Last update: Each head's share of the summed KL, 0..1; empty when the sum is 0.", "heads.share", True),
    Gauge("esper.ppo.last.head.entropy", "{nat}", "Last update: Mean entropy per active decision of each head.", "heads.entropy", True),
    Gauge("esper.ppo.last.head.entropy_normalised", "1", "Last update: Mean of each head's entropy over log(number of legal choices), 0..1, over decisions with a choice.", "heads.entropy_normalised", True),
    Gauge("esper.ppo.last.head.clip_fraction", "1", "Last update: Share of each head's active decisions with `|ratio_h - 1| > clip_range`, 0..1.", "heads.clip_fraction", True),
    Gauge("esper.ppo.last.epochs", "{epoch}", "Last update: Epochs begun.", "epochs", False),
    Gauge("esper.ppo.last.epochs_planned", "{epoch}", "Last update: Epochs planned.", "epochs_planned", False),
    Gauge("esper.ppo.last.minibatches", "{minibatch}", "Last update: Optimizer steps taken.", "minibatches", False),
    Gauge("esper.ppo.last.minibatches_planned", "{minibatch}", "Last update: Optimizer steps planned.", "minibatches_planned", False),
    Gauge("esper.ppo.last.steps", "{step}", "Last update: Unforced environment steps in the rollout.", "steps", False),
    Gauge("esper.ppo.last.steps_forced", "{step}", "Last update: Steps with exactly one legal joint action.", "steps_forced", False),
    Gauge("esper.ppo.last.policy_loss", "{loss}", "Last update: Mean clipped surrogate loss over the minibatches taken.", "policy_loss", False),
    Gauge("esper.ppo.last.value_loss", "{loss}", "Last update: Mean value loss (0.5 * squared error) over the minibatches taken.", "value_loss", False),
    Gauge("esper.ppo.last.entropy", "{nat}", "Last update: Entropy per step, summed over active heads.", "entropy", False),
    Gauge("esper.ppo.last.entropy_normalised", "1", "Last update: Mean normalised entropy over active head-decisions, 0..1.", "entropy_normalised", False),
    Gauge("esper.ppo.last.clip_fraction", "1", "Last update: Share of unforced steps with `|joint ratio - 1| > clip_range`, mean over minibatches, 0..1.", "clip_fraction", False),
    Gauge("esper.ppo.last.explained_variance", "1", "Last update: 1 - Var(return - value) / Var(return); None when the returns do not vary.", "explained_variance", False),
    Gauge("esper.ppo.last.grad_norm", "{norm}", "Last update: Mean global gradient norm before clipping.", "grad_norm", False),
    Gauge("esper.ppo.last.grad_norm_max", "{norm}", "Last update: Largest global gradient norm before clipping.", "grad_norm_max", False),
    Gauge("esper.ppo.last.advantage_mean", "{reward}", "Last update: Mean advantage of the rollout before normalisation.", "advantage_mean", False),
    Gauge("esper.ppo.last.advantage_std", "{reward}", "Last update: Standard deviation of the rollout's advantages before normalisation.", "advantage_std", False),
    Gauge("esper.ppo.last.learning_rate", "{rate}", "Last update: Learning rate of the last optimizer step.", "learning_rate", False),
    Gauge("esper.ppo.last.clip_range", "{ratio}", "Last update: Clip range of the surrogate.", "clip_range", False),
    Gauge("esper.ppo.last.return_mean", "{reward}", "Last update: Mean undiscounted return of the episodes finished in the rollout.", "return_mean", False),
    Gauge("esper.ppo.last.return_min", "{reward}", "Last update: Smallest return of the episodes finished in the rollout.", "return_min", False),
    Gauge("esper.ppo.last.return_max", "{reward}", "Last update: Largest return of the episodes finished in the rollout.", "return_max", False),
    Gauge("esper.ppo.last.episode_length_mean", "{step}", "Last update: Mean length of the episodes finished in the rollout, in environment steps.", "episode_length_mean", False),
    Gauge("esper.ppo.last.return_mean_100", "{reward}", "Last update: Mean return of the last 100 episodes of the run.", "return_mean_100", False),
    Gauge("esper.ppo.last.rollout.duration", "s", "Last update: Seconds spent collecting the rollout.", "rollout_s", False),
    Gauge("esper.ppo.last.update.duration", "s", "Last update: Seconds spent in the update.", "update_s", False),
    Gauge("esper.ppo.last.throughput", "{step}/s", "Last update: Environment steps of the rollout per second of rollout and update together.", "steps_per_s", False),
)
"""Last values of an update, in the payload's order."""
# fmt: on
