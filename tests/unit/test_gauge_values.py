"""Every gauge shows the field that its name says, and nothing else."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import replace
from typing import Any

import pytest

from esper_core.events import HeadStats, PolicyEvaluated, PPOUpdatePayload
from esper_core.health import HealthLevel
from esper_core.semconv.gauges import gauge_points
from esper_core.semconv.names import EVALUATION_GAUGES, GAUGES, METRICS
from esper_core.testing import make_event, make_update

OTHERWISE = {"rollout.duration": "rollout_s", "update.duration": "update_s", "throughput": "steps_per_s"}
"""Gauges whose names follow OpenTelemetry's customs instead of the field's name."""


def numbered(record: Any, first: int) -> Any:
    """The record with another number in each numeric field."""
    numeric = [field.name for field in dataclasses.fields(record) if field.type in {"int", "float", "float | None"}]
    return replace(record, **{name: first + index for index, name in enumerate(numeric)})


def update() -> PPOUpdatePayload:
    """Every number another one, with two heads."""
    heads = (numbered(HeadStats(name="slot"), 1000), numbered(HeadStats(name="operations"), 2000))
    payload: PPOUpdatePayload = numbered(make_update(1), 1)
    return replace(payload, heads=heads, health=HealthLevel.CRITICAL)


@pytest.mark.parametrize("gauge", GAUGES, ids=lambda gauge: gauge.name)
def test_a_gauge_shows_its_field(gauge: Any) -> None:
    payload = update()
    points = [point for point in gauge_points(make_event(payload)) if point.name == gauge.name]
    name = gauge.name.removeprefix("esper.ppo.last.")
    if name.startswith("head."):
        field = name.removeprefix("head.")
        assert [(point.attributes["esper.ppo.head.name"], point.value) for point in points] == [
            (head.name, getattr(head, field)) for head in payload.heads
        ]
        return
    (point,) = points
    expected = payload.health.severity if name == "health" else getattr(payload, OTHERWISE.get(name, name))
    assert (point.value, point.unit) == (expected, gauge.unit)


def test_the_gauges_of_an_evaluation_show_its_returns() -> None:
    payload = PolicyEvaluated(
        update_id=9, return_mean=4.0, return_std=1.5, return_min=2.0, best_return_mean=math.inf, episode_length_mean=7.0
    )
    event = make_event(payload)
    assert {point.name: (point.value, point.unit, point.time_ns) for point in gauge_points(event)} == {
        f"esper.eval.last.{field}": (getattr(payload, field), unit, event.time_ns)
        for field, unit in (
            *((name, "{reward}") for name in ("return_mean", "return_std", "return_min")),
            ("episode_length_mean", "{step}"),
        )
    }


def test_gauges_and_other_metrics_have_names_of_their_own() -> None:
    names = [*(gauge.name for gauge in (*GAUGES, *EVALUATION_GAUGES)), *METRICS]
    assert len(names) == len(set(names))
