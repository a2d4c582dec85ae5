"""The opt-in second set of names, rl.*."""

from __future__ import annotations

import math

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from esper_core.config.schema import OtelConfig
from esper_core.emitter import TelemetryEmitter
from esper_core.events import PPOUpdatePayload, RunStarted
from esper_core.hooks import SinkContext
from esper_core.host.deliver.hub import Hub
from esper_core.instrumentation.rl import rl_resource
from esper_core.instrumentation.sink import Instrumentation


def run(config: OtelConfig) -> tuple[dict[str, list], dict[str, dict], MeterProvider]:
    """One update through the SDK: points by metric name, attributes by span name."""
    spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    meters = MeterProvider([reader], shutdown_on_exit=False)
    instrumentation = Instrumentation(meters, config=config)
    hub = Hub([], SinkContext(run_id="r"))
    hub.add_first("instrumentation", instrumentation)
    emitter = TelemetryEmitter(hub.hooks, run_id="r", tracer=tracers.get_tracer("t"))
    emitter.emit_run_started(RunStarted(environment="CartPole-v1"))
    emitter.begin_rollout(1)
    emitter.begin_update(1)
    times = emitter.end_update(1)
    emitter.emit_ppo_update(
        PPOUpdatePayload(
            update_id=1,
            rollout_s=times.rollout_s,
            update_s=times.update_s,
            steps=60,
            steps_forced=4,
            episodes=3,
            minibatches=8,
            policy_loss=-0.1,
            value_loss=0.5,
            kl_divergence=math.nan,
            entropy=0.6,
            return_mean_100=22.0,
            episode_length_mean=21.0,
        )
    )
    data = reader.get_metrics_data()
    points = {
        metric.name: list(metric.data.data_points)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    instrumentation.close()
    return points, {span.name: dict(span.attributes) for span in spans.get_finished_spans()}, meters


def test_without_the_option_no_rl_name_is_emitted() -> None:
    points, spans, _ = run(OtelConfig())
    assert [name for name in points if name.startswith("rl.")] == []
    assert [key for attributes in spans.values() for key in attributes if key.startswith("rl.")] == []


def test_the_option_adds_the_proposals_metrics_and_keeps_espers() -> None:
    points, _, _ = run(OtelConfig(semconv=("esper", "rl")))
    assert "esper.ppo.updates" in points
    assert points["rl.sample.samples"][0].value == 64
    assert points["rl.sample.episodes"][0].value == 3
    assert points["rl.train.steps"][0].value == 8
    assert points["rl.environment.reward.mean"][0].value == 22.0
    assert points["rl.environment.episode.length.mean"][0].value == 21.0
    losses = {point.attributes["rl.loss.type"]: point.value for point in points["rl.train.loss"]}
    assert losses == {"policy": -0.1, "value": 0.5, "entropy": 0.6}  # a NaN reaches no instrument
    parts = [points[f"rl.{name}.duration"][0] for name in ("sample", "train", "loop")]
    assert [point.count for point in parts] == [1, 1, 1]
    assert math.isclose(parts[0].sum + parts[1].sum, parts[2].sum)


def test_the_option_adds_the_proposals_attributes_to_the_spans() -> None:
    _, spans, _ = run(OtelConfig(semconv=("esper", "rl")))
    assert spans["esper.run.started"]["rl.environment.name"] == "CartPole-v1"
    assert spans["esper.ppo.update"]["rl.loop.iteration"] == 1
    assert spans["esper.ppo.update"]["rl.algorithm"] == "PPO"
    assert spans["esper.ppo.update"]["esper.ppo.update_id"] == 1


def test_the_resource_names_system_run_algorithm_and_environment() -> None:
    found = rl_resource(run_id="r", environment="E")
    assert {"rl.system": "esper", "rl.run.id": "r", "rl.algorithm": "PPO", "rl.environment.name": "E"}.items() <= (
        found.items()
    )
