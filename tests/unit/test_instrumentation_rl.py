"""The opt-in second set of names, rl.*."""

from __future__ import annotations

import math
from typing import Any

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from present import attributes_of, present

from esper_core.config.schema import OtelConfig
from esper_core.emitter import TelemetryEmitter
from esper_core.events import PPOUpdatePayload, RunStarted
from esper_core.hooks import SinkContext
from esper_core.host.deliver.hub import Hub
from esper_core.instrumentation.rl import rl_resource
from esper_core.instrumentation.sink import Instrumentation
from esper_core.semconv.codec import CodecError, decode_request
from esper_core.semconv.identity import SCHEMA_URL
from esper_core.semconv.rl import RL_ATTRIBUTES, RL_METRICS, RL_SPANS

PROTOBUF = "application/x-protobuf"
TIMES = {"rl.loop": "esper.iteration", "rl.sample": "esper.rollout", "rl.train": "esper.ppo.update"}


def recorded(config: OtelConfig, *, rollout: bool = True, **fields: Any) -> list[ReadableSpan]:
    """The spans of one run's start and one update."""
    spans = InMemorySpanExporter()
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    meters = MeterProvider(shutdown_on_exit=False)
    hub = Hub([], SinkContext(run_id="r"))
    instrumentation = Instrumentation(meters, tracer_provider=tracers, config=config)
    hub.add_first("instrumentation", instrumentation)
    emitter = TelemetryEmitter(hub.hooks, run_id="r", tracer=tracers.get_tracer("t"), complete=instrumentation.complete)
    emitter.emit_run_started(RunStarted(environment="CartPole-v1"))
    if rollout:
        emitter.begin_rollout(1)
    emitter.begin_update(1)
    emitter.end_update(1)
    emitter.emit_ppo_update(PPOUpdatePayload(update_id=1, steps=60, steps_forced=4, **fields))
    return list(spans.get_finished_spans())


def run(config: OtelConfig) -> tuple[dict[str, list[Any]], dict[str, dict[str, Any]], MeterProvider]:
    """One update through the SDK: points by metric name, attributes by span name."""
    spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    meters = MeterProvider([reader], shutdown_on_exit=False)
    instrumentation = Instrumentation(meters, tracer_provider=tracers, config=config)
    hub = Hub([], SinkContext(run_id="r"))
    hub.add_first("instrumentation", instrumentation)
    emitter = TelemetryEmitter(hub.hooks, run_id="r", tracer=tracers.get_tracer("t"), complete=instrumentation.complete)
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
    data = present(reader.get_metrics_data())
    points = {
        metric.name: list(metric.data.data_points)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    instrumentation.close()
    return points, {span.name: dict(attributes_of(span)) for span in spans.get_finished_spans()}, meters


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


def test_spans_of_the_proposals_names_have_the_times_of_espers_and_stand_in_their_trace() -> None:
    spans = {span.name: span for span in recorded(OtelConfig(semconv=("esper", "rl")))}
    assert not {span.name for span in recorded(OtelConfig())} & {span.name for span in RL_SPANS}
    loop = spans["rl.loop"]
    assert present(loop.parent).span_id == spans["esper.iteration"].context.span_id
    for name, times_of in (
        ("rl.loop", "esper.iteration"),
        ("rl.sample", "esper.rollout"),
        ("rl.train", "esper.ppo.update"),
    ):
        made, own = spans[name], spans[times_of]
        assert (made.start_time, made.end_time) == (own.start_time, own.end_time)
        assert made.context.trace_id == own.context.trace_id
        assert name == "rl.loop" or present(made.parent).span_id == loop.context.span_id
        scope = present(made.instrumentation_scope)
        assert (scope.name, scope.schema_url) == ("esper_core.rl", SCHEMA_URL)
        listed = next(span.attributes for span in RL_SPANS if span.name == name)
        assert set(attributes_of(made)) == {*listed, "esper.run.id", "esper.run.attempt", "esper.rank"}
        assert attributes_of(made)["rl.loop.iteration"] == 1
    assert attributes_of(spans["rl.sample"])["rl.sample.batch_size"] == 64
    assert all(span.status.status_code is StatusCode.UNSET for span in spans.values())


def test_a_failed_update_fails_the_proposals_spans_too() -> None:
    spans = {span.name: span for span in recorded(OtelConfig(semconv=("esper", "rl")), non_finite=2)}
    for name, code in (("rl.loop", StatusCode.ERROR), ("rl.train", StatusCode.ERROR), ("rl.sample", StatusCode.UNSET)):
        assert spans[name].status.status_code is code
        assert attributes_of(spans[name]).get("error.type") == ("non_finite" if code is StatusCode.ERROR else None)


def test_an_update_without_a_rollout_has_a_loop_and_a_train_span() -> None:
    names = [span.name for span in recorded(OtelConfig(semconv=("esper", "rl")), rollout=False)]
    assert "rl.sample" not in names
    assert {"rl.loop", "rl.train"} <= set(names)


def test_readers_of_espers_spans_pass_the_others_over() -> None:
    """What Sanctum's listener and a replay are given: every span of the iteration, in one request."""
    spans = recorded(OtelConfig(semconv=("esper", "rl")))
    unread: list[CodecError] = []
    events = decode_request(encode_spans(spans).SerializeToString(), PROTOBUF, on_error=unread.append)
    assert [event.kind for event in events] == ["run_started", "ppo_updated"]
    assert not unread


def test_every_metric_and_attribute_of_the_proposal_is_in_the_registry_and_none_becomes_a_ratio() -> None:
    """Prometheus appends ``_ratio`` to a gauge of unit 1, and ``_total`` alone to a counter of it."""
    points, spans, _ = run(OtelConfig(semconv=("esper", "rl")))
    assert {name for name in points if name.startswith("rl.")} == set(RL_METRICS)
    assert all(spec.unit != "1" for spec in RL_METRICS.values())
    known = {spec.key for spec in RL_ATTRIBUTES.attributes}
    emitted = {key for attributes in spans.values() for key in attributes if key.startswith("rl.")}
    measured = {key for name in RL_METRICS for point in points[name] for key in point.attributes}
    assert emitted | set(rl_resource(run_id="r", environment="E")) | {"rl.loss.type"} == known
    assert {key for key in measured if key.startswith("rl.")} == {"rl.loss.type"}
