"""Makes gauge points of an update's or evaluation's values, with its own time. Imports no OpenTelemetry package.

Live telemetry, the otlp sink and a replay make equal points from the same event.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from esper_core.events import PolicyEvaluated, PPOUpdatePayload
from esper_core.health import HealthLevel
from esper_core.semconv.attributes import common_attributes
from esper_core.semconv.names import EVALUATION_GAUGES, GAUGES, METRICS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from esper_core.events import Payload, TelemetryEvent
    from esper_core.semconv.attributes import AttributeValue
    from esper_core.semconv.names import Gauge

__all__ = ["DIVERGENCE", "GaugePoint", "divergence_values", "gauge_points", "gauge_values"]

DIVERGENCE: Final = METRICS["esper.policy.divergence"]
"""The gauge of an update's ``divergences``, made of the event like the last values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GaugePoint:
    """One point of a gauge, with the time of the event it comes from.

    Attributes:
        name: metric name.
        unit: the metric's unit.
        value: a finite number.
        attributes: attributes of the point: run, attempt, rank, and for example a head's name.
        time_ns: unix nanoseconds, the event's.
    """

    name: str
    unit: str
    value: float
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    time_ns: int


def gauge_points(event: TelemetryEvent[Payload]) -> list[GaugePoint]:
    """Make the gauge points of one event, with the event's own time: the same in live telemetry and in a replay.

    An update or an evaluation gives a point for every value that was measured and is finite; other kinds give none.
    """
    payload = event.payload
    if isinstance(payload, PPOUpdatePayload):
        found = [(gauge.name, gauge.unit, *point) for gauge in GAUGES for point in gauge_values(gauge, payload)]
        found += [(DIVERGENCE.name, DIVERGENCE.unit, *point) for point in divergence_values(payload)]
    elif isinstance(payload, PolicyEvaluated):
        found = [
            (gauge.name, gauge.unit, *point) for gauge in EVALUATION_GAUGES for point in gauge_values(gauge, payload)
        ]
    else:
        return []
    identity = common_attributes(run_id=event.run_id, attempt=event.attempt, rank=event.rank)
    return [
        GaugePoint(
            name=name,
            unit=unit,
            value=value,
            attributes={**identity, **own} if own else identity,
            time_ns=event.time_ns,
        )
        for name, unit, value, own in found
    ]


def gauge_values(gauge: Gauge, payload: PPOUpdatePayload | PolicyEvaluated) -> Iterator[tuple[float, dict[str, str]]]:
    """The finite points of one gauge: one, or one a head."""
    if not gauge.head:
        value = _number(getattr(payload, gauge.field))
        if value is not None:
            yield value, {}
        return
    name = gauge.field.partition(".")[2]
    for head in payload.heads if isinstance(payload, PPOUpdatePayload) else ():
        value = _number(getattr(head, name))
        if value is not None:
            yield value, {"esper.ppo.head.name": head.name}


def divergence_values(payload: PPOUpdatePayload) -> Iterator[tuple[float, dict[str, str]]]:
    """The finite points of an update's divergences: per decision and per step of each."""
    for item in payload.divergences:
        told = {f"esper.ppo.divergence.{part}": getattr(item, part) for part in _DIVERGENCE_PARTS}
        for scope, measured in (("weighted", item.per_decision), ("joint", item.per_step)):
            value = _number(measured)
            if value is not None:
                yield value, {**told, "esper.ppo.kl.scope": scope}


_DIVERGENCE_PARTS: Final = ("name", "reference", "estimator", "direction")


def _number(value: HealthLevel | float | None) -> float | None:
    """Convert a value to a finite number for an instrument, or None. A level becomes its severity."""
    if value is None:
        return None
    if isinstance(value, HealthLevel):
        return value.severity
    return value if math.isfinite(value) else None
