"""The second set of names, ``rl.*``: those of an open proposal to OpenTelemetry, as far as Esper can fill them.

Source: open-telemetry/semantic-conventions-genai#88 and the draft beside it, read in November 2026. Neither is stable,
and the draft's own registry is not published: types, attributes and metrics are the draft's, units are ours, in seconds
or braces, so that Prometheus appends no ``_ratio`` to a loss. Not filled, because nothing here has them:
``rl.model.name``, ``rl.environment.type``, ``rl.agent.count``, ``rl.reward.*``, ``rl.sync.*``, ``rl.train.tokens``,
``rl.train.mfu``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from esper_core.events import About
from esper_core.semconv._plan_fields import AttributeSpec
from esper_core.semconv.identity import SCOPE_NAME as CORE_SCOPE
from esper_core.semconv.names import AttributeGroup, Metric

if TYPE_CHECKING:
    from esper_core.semconv._scalars import AttributeType

__all__ = [
    "ALGORITHM",
    "BATCH_SIZE",
    "ENVIRONMENT",
    "ITERATION",
    "LOOP_SPAN",
    "LOSSES",
    "LOSS_TYPE",
    "RL_ATTRIBUTES",
    "RL_METRICS",
    "RL_SPANS",
    "RUN",
    "SAMPLE_SPAN",
    "SCOPE_NAME",
    "SYSTEM",
    "SYSTEM_VERSION",
    "TRAIN_SPAN",
    "RLSpan",
]

SCOPE_NAME: Final = f"{CORE_SCOPE}.rl"

SYSTEM: Final = "rl.system"
SYSTEM_VERSION: Final = "rl.system.version"
RUN: Final = "rl.run.id"
ALGORITHM: Final = "rl.algorithm"
ENVIRONMENT: Final = "rl.environment.name"
ITERATION: Final = "rl.loop.iteration"
BATCH_SIZE: Final = "rl.sample.batch_size"
LOSS_TYPE: Final = "rl.loss.type"
LOSSES: Final = (
    ("policy", "policy_loss"),
    ("value", "value_loss"),
    ("kl_divergence", "kl_divergence"),
    ("entropy", "entropy"),
)
"""``rl.loss.type`` and the field of the update that has it."""


def _attribute(key: str, kind: AttributeType, brief: str, *examples: str | int) -> AttributeSpec:
    return AttributeSpec(key=key, field="", type=kind, optional=False, about=About(brief=brief, examples=examples))


RL_ATTRIBUTES: Final = AttributeGroup(
    "rl",
    'Names of an open proposal to OpenTelemetry, with `[otel] semconv = ["esper", "rl"]`: on the resource, on the '
    "spans `rl.*` and on that of the update.",
    (
        _attribute(SYSTEM, "string", "The trainer: `esper`.", "esper"),
        _attribute(SYSTEM_VERSION, "string", "Version of the trainer.", "0.1.0"),
        _attribute(RUN, "string", "Id of the run, as `esper.run.id`.", "20261125-101500-cartpole-3f2a"),
        _attribute(ALGORITHM, "string", "The algorithm: `PPO`.", "PPO"),
        _attribute(ENVIRONMENT, "string", "Id of the environment, as `esper.run.environment`.", "CartPole-v1"),
        _attribute(ITERATION, "int", "Number of the iteration, as `esper.ppo.update_id`.", 12),
        _attribute(BATCH_SIZE, "int", "Environment steps of the rollout.", 2048),
        AttributeSpec(
            key=LOSS_TYPE,
            field="",
            type="string",
            optional=False,
            about=About(brief="Which loss it is."),
            members=tuple((kind, f"`esper.ppo.{name}`") for kind, name in LOSSES),
        ),
    ),
)
RL_METRICS: Final = {
    metric.name: metric
    for metric in (
        Metric("rl.loop.duration", "histogram", "s", "Total time for one iteration."),
        Metric("rl.sample.duration", "histogram", "s", "Time spent collecting the rollout."),
        Metric("rl.train.duration", "histogram", "s", "Time spent in the update."),
        Metric("rl.sample.samples", "counter", "{sample}", "Environment steps."),
        Metric("rl.sample.episodes", "counter", "{episode}", "Finished episodes."),
        Metric("rl.train.steps", "counter", "{step}", "Optimizer steps."),
        Metric("rl.train.loss", "gauge", "{loss}", "Last loss, by type.", (LOSS_TYPE,), len(LOSSES)),
        Metric("rl.environment.reward.mean", "gauge", "{reward}", "Mean return of the last 100 episodes."),
        Metric("rl.environment.episode.length.mean", "gauge", "{step}", "Mean steps per episode."),
    )
}


class RLSpan(NamedTuple):
    """A span of the proposal: name, one sentence, attributes."""

    name: str
    brief: str
    attributes: tuple[str, ...]


_COMMON: Final = (RUN, ALGORITHM, ENVIRONMENT, ITERATION)
LOOP_SPAN: Final = "rl.loop"
SAMPLE_SPAN: Final = "rl.sample"
TRAIN_SPAN: Final = "rl.train"
RL_SPANS: Final = (
    RLSpan(LOOP_SPAN, "one iteration; a child of `esper.iteration`, with its times.", _COMMON),
    RLSpan(SAMPLE_SPAN, "collecting the rollout, a child of `rl.loop`.", (*_COMMON, BATCH_SIZE)),
    RLSpan(TRAIN_SPAN, "the update, a child of `rl.loop`.", _COMMON),
)
