"""Every name of Esper's telemetry: those derived from the fields of events, and here the metrics beyond them."""

from __future__ import annotations

from typing import Final, NamedTuple

from esper_core.events import EVENTS, About, PPOUpdatePayload, TelemetryEvent
from esper_core.semconv._plan import PayloadPlan, plan_of
from esper_core.semconv._plan_fields import AttributeSpec
from esper_core.semconv.failure import ERROR_TYPE, EXCEPTION_MESSAGE, EXCEPTION_TYPE, NON_FINITE, OTHER
from esper_core.semconv.identity import IDENTITY, SCHEMA_URL
from esper_core.semconv.span_events import EpochKL

__all__ = [
    "ATTRIBUTES",
    "ATTRIBUTE_GROUPS",
    "GAUGES",
    "METRICS",
    "SCHEMA_URL",
    "AttributeGroup",
    "Gauge",
    "Metric",
]

# --- attributes ---------------------------------------------------------------------------------


class AttributeGroup(NamedTuple):
    """A group of attributes that occur together.

    Attributes:
        id: ``attributes.<id>`` in the registry; for an event's own span the span's name.
        brief: one sentence.
        attributes: in the order of the fields.
    """

    id: str
    brief: str
    attributes: tuple[AttributeSpec, ...]


def _text(key: str, brief: str, *examples: str) -> AttributeSpec:
    return AttributeSpec(key=key, field="", type="string", optional=True, about=About(brief=brief, examples=examples))


_SCOPE: Final = AttributeSpec(
    key="esper.ppo.kl.scope",
    field="",
    type="string",
    optional=False,
    about=About(brief="What the KL is a mean over."),
    members=(("weighted", "per head-decision"), ("joint", "per unforced environment step")),
)
_FIELD: Final = AttributeSpec(
    key="esper.ppo.field",
    field="",
    type="string",
    optional=False,
    about=About(brief="The field of the update that was NaN or Inf.", examples=("kl_divergence", "heads.kl")),
)
_LIMIT_LEVEL: Final = AttributeSpec(
    key="esper.run.kl_limit.level",
    field="",
    type="string",
    optional=False,
    about=About(brief="The level that begins at the limit."),
    members=(("warning", "WARNING from here on"), ("critical", "CRITICAL from here on")),
)
ATTRIBUTE_GROUPS: Final = (
    AttributeGroup(
        "esper.common",
        "Identity that every span carries, and every metric point (run, attempt and rank), because under an "
        "application's own provider the resource lacks it.",
        PayloadPlan(TelemetryEvent, "esper", only=IDENTITY).specs,
    ),
    AttributeGroup(
        "esper.ppo.kl",
        "Attributes of the span event `esper.ppo.kl`, and of metrics of the KL.",
        (_SCOPE, *PayloadPlan(EpochKL, "esper.ppo.kl").specs),
    ),
    AttributeGroup(
        "error",
        "OpenTelemetry's own names, of a span that has failed and of its span event `exception`.",
        (
            _text(ERROR_TYPE, "What failed: an exception's class, `non_finite` or `_OTHER`.", NON_FINITE, OTHER),
            _text(EXCEPTION_TYPE, "The same, of the span event.", "RuntimeError", NON_FINITE),
            _text(EXCEPTION_MESSAGE, "What happened, as text.", "the simulator fell over"),
        ),
    ),
    AttributeGroup("esper.metrics", "Attributes that only metrics carry.", (_FIELD, _LIMIT_LEVEL)),
    *(
        AttributeGroup(
            spec.span,
            f"Attributes of the span `{spec.span}`: the fields of {spec.payload.__name__}.",
            plan_of(spec.payload).specs,
        )
        for spec in EVENTS.values()
    ),
)
ATTRIBUTES: Final[dict[str, str]] = {spec.key: spec.type for group in ATTRIBUTE_GROUPS for spec in group.attributes}
"""Attribute names and their types, as the registry writes them."""

# --- metrics ------------------------------------------------------------------------------------


class Metric(NamedTuple):
    """One metric: the parameters of its instrument.

    Attributes:
        name: metric name.
        instrument: ``counter``, ``updowncounter``, ``histogram`` or ``gauge``.
        unit: UCUM, or a word in braces.
        brief: one sentence.
        attributes: attributes of its points.
        cardinality: the largest number of series that one run makes.
    """

    name: str
    instrument: str
    unit: str
    brief: str
    attributes: tuple[str, ...] = ()
    cardinality: int | str = 1


_HEADS: Final = "number of heads"
_SINKS: Final = "number of sinks"
_HEAD: Final = ("esper.ppo.head.name",)
_SINK: Final = ("esper.sink.name",)
_METRICS: Final = (
    Metric(
        "esper.ppo.kl_divergence",
        "histogram",
        "{nat}",
        "KL of every update, weighted (per head-decision) and joint (per step). Bucket boundaries contain"
        " 0.015 and 0.03; a bucket includes its upper bound while the verdict is `>=`, so alert on the "
        "gauges.",
        ("esper.ppo.kl.scope",),
        2,
    ),
    Metric(
        "esper.ppo.head.kl_divergence",
        "histogram",
        "{nat}",
        "KL of every update per active decision, by head; a head without active decisions gives no point.",
        _HEAD,
        _HEADS,
    ),
    Metric("esper.ppo.rollout.duration", "histogram", "s", "Time spent collecting one rollout."),
    Metric("esper.ppo.update.duration", "histogram", "s", "Time spent in one update."),
    Metric("esper.ppo.updates", "counter", "{update}", "PPO updates, by how they ended.", ("esper.ppo.outcome",), 4),
    Metric("esper.ppo.early_stops", "counter", "{stop}", "Updates stopped before their planned minibatches."),
    Metric("esper.ppo.episodes", "counter", "{episode}", "Finished episodes."),
    Metric("esper.ppo.steps", "counter", "{step}", "Environment steps of the rollouts, unforced and forced."),
    Metric("esper.ppo.clamped", "counter", "{ratio}", "Active log-ratios beyond +-20 that were clamped."),
    Metric(
        "esper.ppo.non_finite",
        "counter",
        "{value}",
        "Active log-ratios, losses and gradients that were NaN or Inf during updates.",
    ),
    Metric(
        "esper.ppo.non_finite_fields",
        "counter",
        "{value}",
        "Reported numbers that were NaN or Inf and are therefore in no other metric, by field.",
        ("esper.ppo.field",),
        "fields that were ever NaN or Inf, at most 40",
    ),
    Metric(
        "esper.policy.health",
        "gauge",
        "{level}",
        "The policy's level, the worst of the last three updates, at least warning while one head is at critical: 0 "
        "unknown, 1 healthy, 2 warning, 3 critical, 4 non-finite.",
    ),
    Metric(
        "esper.run.kl_limit",
        "gauge",
        "{nat}",
        "The limits that the run's KL is judged by, and which KL they are on.",
        ("esper.run.kl_limit.level", "esper.run.kl_on"),
        2,
    ),
    Metric(
        "esper.policy.updates",
        "counter",
        "{update}",
        "PPO updates, by each update's own level: the gauge misses what happens between two collections.",
        ("esper.ppo.health",),
        5,
    ),
    Metric(
        "esper.policy.divergence",
        "gauge",
        "{nat}",
        "Last update: divergence of the policy from something else than the behaviour policy, such as a reference "
        "model, per decision (scope weighted) and per step (scope joint). It sets no level; a k1 may be negative.",
        (*(f"esper.ppo.divergence.{part}" for part in ("name", "reference", "estimator", "direction")), _SCOPE.key),
        "2 for each divergence",
    ),
    Metric("esper.run.heartbeat", "gauge", "s", "Time of the trainer's last sign of life, unix seconds."),
    Metric("esper.run.last_progress", "gauge", "s", "Time of the trainer's last progress, unix seconds."),
    Metric(
        "esper.run.state",
        "updowncounter",
        "{state}",
        "1 for the state the run is in, 0 for every other.",
        ("esper.run.state",),
        8,
    ),
    Metric("esper.sink.delivered", "counter", "{event}", "Events delivered to the sink.", _SINK, _SINKS),
    Metric("esper.sink.lost", "counter", "{event}", "Events the sink lost.", _SINK, _SINKS),
    Metric("esper.sink.failures", "counter", "{call}", "Calls of the sink that raised.", _SINK, _SINKS),
    Metric("esper.sink.queue", "updowncounter", "{event}", "Events waiting for the sink.", _SINK, _SINKS),
)
METRICS: Final[dict[str, Metric]] = {metric.name: metric for metric in _METRICS}
"""Metrics that are more than the last value of a field."""

# --- gauges -------------------------------------------------------------------------------------


class Gauge(NamedTuple):
    """The gauge of one field of an update; with ``head`` it has one point per head."""

    name: str
    unit: str
    brief: str
    field: str
    head: bool


def _gauges() -> tuple[Gauge, ...]:
    """The gauges that the fields of an update declare, in the payload's order.

    Raises:
        TypeError: a field of another event declares one, or a field that is no number.
    """
    update = EVENTS[PPOUpdatePayload.kind]
    found = []
    for event in EVENTS.values():
        for spec in plan_of(event.payload).specs:
            wanted = spec.about.gauge
            if not wanted:
                continue
            if event is not update or not (spec.type in _NUMBERS or spec.members):
                raise TypeError(f"{spec.key}: only numbers and levels of an update can be gauges")
            last = wanted if isinstance(wanted, str) else spec.key.removeprefix(f"{event.namespace}.")
            found.append(
                Gauge(
                    name=f"{event.namespace}.last.{last}",
                    unit=spec.about.unit,
                    brief=f"Last update: {spec.about.brief}",
                    field=spec.field,
                    head=spec.type.endswith("[]"),
                )
            )
    return tuple(found)


_NUMBERS: Final = ("int", "double", "int[]", "double[]")
GAUGES: Final = _gauges()
"""Last values of an update, in the payload's order."""
