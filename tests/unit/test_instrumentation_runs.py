"""Metrics of several runs and sinks of one process: whose each point is, and for how long."""

from __future__ import annotations

import gc
import math
import weakref

from opentelemetry.sdk.metrics import MeterProvider
from present import present
from telemetry_pipeline import IDENTITY, Counts, Pipeline, hearing, update_payload

from esper_core.config.schema import OtelConfig
from esper_core.emitter import TelemetryEmitter
from esper_core.events import SinkStatusChanged
from esper_core.health import RunState
from esper_core.instrumentation.metrics import ObservedRuns
from esper_core.instrumentation.sink import Instrumentation


def test_run_status_is_reported_as_set(pipeline: Pipeline) -> None:
    assert "esper.run.state" not in pipeline.points()
    pipeline.instrumentation.set_run_status(heartbeat_s=100.5, progress_s=99.0, state=RunState.LIVE)
    pipeline.instrumentation.set_run_status(heartbeat_s=101.5)
    assert pipeline.value("esper.run.heartbeat") == 101.5
    assert pipeline.value("esper.run.last_progress") == 99.0
    states = {point.attributes["esper.run.state"]: point.value for point in pipeline.points()["esper.run.state"]}
    assert states.pop("live") == 1
    assert set(states.values()) == {0}
    assert len(states) == len(RunState) - 1


def test_sink_counts_are_read_when_a_reader_collects(pipeline: Pipeline) -> None:
    pipeline.sinks = [Counts("otlp", 5, 1, 2, queue=3), SinkStatusChanged(sink="journal", delivered=7)]
    assert pipeline.value("esper.sink.delivered", esper__sink__name="journal") == 7
    assert pipeline.value("esper.sink.lost", esper__sink__name="otlp") == 1
    assert pipeline.value("esper.sink.failures", esper__sink__name="otlp") == 2
    assert pipeline.value("esper.sink.queue", esper__sink__name="otlp") == 3
    assert pipeline.value("esper.sink.queue", esper__sink__name="journal") is None


def test_two_runs_of_one_process_keep_apart_and_the_ended_one_says_how_it_ended(pipeline: Pipeline) -> None:
    pipeline.instrumentation.set_run_status(heartbeat_s=1.0, state=RunState.LIVE)
    pipeline.update(update_payload(1))
    pipeline.instrumentation.set_run_status(state=RunState.DONE)
    pipeline.instrumentation.set_run_status(heartbeat_s=2.0, state=RunState.LIVE)  # a late heartbeat
    pipeline.instrumentation.close([Counts("otlp", 5, 1, 2)])
    second = Instrumentation(pipeline.meters, config=OtelConfig(), run_id="run-2")
    second.set_run_status(state=RunState.LIVE)
    TelemetryEmitter(hearing(second), run_id="run-2").emit_ppo_update(update_payload(9))
    points = pipeline.points()

    def by_run(name: str, **attributes: str) -> dict[str, float]:
        wanted = {key.replace("__", "."): value for key, value in attributes.items()}.items()
        return {
            point.attributes["esper.run.id"]: point.value
            for point in points[name]
            if wanted <= point.attributes.items()
        }

    assert by_run("esper.ppo.last.update_id") == {"run-1": 1, "run-2": 9}
    assert by_run("esper.ppo.early_stops") == {"run-1": 1, "run-2": 1}
    assert by_run("esper.run.state", esper__run__state="done") == {"run-1": 1, "run-2": 0}
    assert by_run("esper.run.heartbeat") == {"run-1": 2.0}
    assert by_run("esper.sink.lost") == {"run-1": 1}
    assert {point.attributes["esper.run.id"]: point.count for point in points["esper.ppo.update.duration"]} == {
        "run-1": 1
    }
    second.close()


def test_an_ended_run_is_reported_for_a_while_and_no_longer(pipeline: Pipeline) -> None:
    pipeline.update(update_payload(1))
    pipeline.instrumentation.close()
    assert pipeline.value("esper.ppo.last.update_id") == 1
    observed = pipeline.instrumentation._observed
    observed.ended_s = present(observed.ended_s) - ObservedRuns.ENDED_KEPT_S  # as if so much time had passed
    assert "esper.ppo.last.update_id" not in pipeline.points()


def test_of_many_ended_runs_the_newest_are_reported(pipeline: Pipeline) -> None:
    kept = ObservedRuns.ENDED_KEPT
    for number in range(kept + 10):
        run = Instrumentation(pipeline.meters, config=OtelConfig(), run_id=f"short-{number}")
        run.set_run_status(heartbeat_s=1.0)
        run.close()
    pipeline.instrumentation.set_run_status(heartbeat_s=1.0)
    found = [point.attributes["esper.run.id"] for point in pipeline.points()["esper.run.heartbeat"]]
    assert set(found) >= {"run-1", f"short-{kept + 9}"}
    assert "short-0" not in found
    assert len(found) <= kept + 2


def test_every_point_says_whose_it_is(pipeline: Pipeline) -> None:
    pipeline.sinks = [Counts("otlp", 1, 1, 1, queue=1)]
    pipeline.instrumentation.set_run_status(heartbeat_s=1.0, progress_s=1.0, state=RunState.LIVE)
    pipeline.update(update_payload(1, kl_max=math.nan))
    for name, points in pipeline.points().items():
        for point in points:
            assert point.attributes.items() >= IDENTITY.items(), name


def test_a_provider_is_not_kept_alive() -> None:
    provider = MeterProvider(shutdown_on_exit=False)
    Instrumentation(provider, config=OtelConfig()).close()
    gone = weakref.ref(provider)
    provider.shutdown()
    del provider
    gc.collect()
    assert gone() is None
