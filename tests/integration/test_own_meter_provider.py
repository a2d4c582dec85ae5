"""A run inside an application that has set OpenTelemetry up itself: its metrics say whose they are and how it ended."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

# A process of its own: a global provider can be set only once.
APPLICATION = """
import json, sys
from pathlib import Path
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from esper_core import Session
from esper_core.config.schema import EsperConfig
from esper_core.events import PPOUpdatePayload, RunStarted
from esper_core.runs import create_run

reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))
run = create_run(Path(sys.argv[1]))
try:
    config = EsperConfig(sinks=("journal",))
    with Session(config, run=run, attempt=3, rank=0, install_signal_handlers=False) as session:
        session.emitter.emit_run_started(RunStarted(environment="E"))
        session.emitter.emit_ppo_update(PPOUpdatePayload(update_id=1, kl_divergence=0.01))
        if sys.argv[2] == "failed":
            raise ValueError("no")
except ValueError:
    pass
# The application's reader collects when it likes: here after the run has ended.
print(json.dumps([
    [metric.name, dict(point.attributes), getattr(point, "value", None)]
    for resource in reader.get_metrics_data().resource_metrics
    for scope in resource.scope_metrics
    for metric in scope.metrics
    for point in metric.data.data_points
]))
"""


@pytest.mark.parametrize("state", ["done", "failed"])
def test_an_applications_own_reader_hears_whose_the_points_are_and_how_the_run_ended(
    tmp_path: Path, state: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", APPLICATION, str(tmp_path), state], capture_output=True, text=True, check=True
    )
    points = json.loads(done.stdout)
    (run_id,) = {attributes["esper.run.id"] for _, attributes, _ in points}
    assert [path.name for path in tmp_path.iterdir()] == [run_id]
    assert {(attributes["esper.run.attempt"], attributes["esper.rank"]) for _, attributes, _ in points} == {(3, 0)}
    states = {attributes["esper.run.state"]: value for name, attributes, value in points if name == "esper.run.state"}
    assert [name for name, value in states.items() if value] == [state]
    assert len(states) == 8
    named = {name: value for name, attributes, value in points if len(attributes) == 3}
    assert named["esper.ppo.last.kl_divergence"] == 0.01
    assert named["esper.run.heartbeat"] > 0
    delivered = [value for name, attributes, value in points if name == "esper.sink.delivered"]
    assert delivered == [3]
