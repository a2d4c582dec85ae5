"""What an SDK receives: spans that equal the journal's, metrics that equal the payload, and never a NaN."""

from __future__ import annotations

import dataclasses
import gc
import json
import math
import subprocess
import sys
import weakref
from typing import TYPE_CHECKING

import pytest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    InMemoryMetricReader,
    MetricExporter,
    MetricExportResult,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from esper_core.config.schema import OtelConfig
from esper_core.emitter import TelemetryEmitter
from esper_core.events import (
    Divergence,
    EarlyStop,
    EpisodeFinished,
    HeadStats,
    PolicyEvaluated,
    PPOUpdatePayload,
    RunFinished,
    RunStarted,
    SinkLoss,
    SinkStatusChanged,
    SpanRef,
    TelemetryEvent,
    TraceRef,
)
from esper_core.health import HealthLevel, KLLimits, RunState, update_level
from esper_core.hooks import SinkContext, SinkHooks, hookimpl
from esper_core.host.deliver.hub import Hub
from esper_core.host.otel.played import ended_spans
from esper_core.instrumentation.metrics import ObservedRuns
from esper_core.instrumentation.pending import KL_BOUNDARIES, Pending
from esper_core.instrumentation.sink import Instrumentation
from esper_core.semconv.codec import decode_request, encode
from esper_core.semconv.gauges import gauge_points
from esper_core.semconv.identity import SCHEMA_URL
from esper_core.semconv.names import EVALUATION_GAUGES, GAUGES, METRICS

if TYPE_CHECKING:
    from collections.abc import Iterator

RESOURCE = {"service.name": "esper"}
IDENTITY = {"esper.run.id": "run-1", "esper.run.attempt": 2, "esper.rank": 1}


def update_payload(update_id: int = 1, **changes: object) -> PPOUpdatePayload:
    heads = (
        HeadStats(name="operations", kl=0.012, decisions=64, weight=1.0, share=0.9, entropy=1.1, clip_fraction=0.1),
        HeadStats(name="slot", kl=None, decisions=0, weight=0.0),
    )
    values: dict[str, object] = {
        "env_steps": 512,
        "outcome": "early_stopped",
        "reason": "KL over the limit",
        "kl_divergence": 0.012,
        "kl_joint": 0.02,
        "kl_by_epoch": (0.01, 0.031),
        "early_stop": EarlyStop(epoch=2, minibatch=1, value=0.031, threshold=0.03, head="operations"),
        "target_kl": 0.02,
        "stop_threshold": 0.03,
        "heads": heads,
        "steps": 60,
        "steps_forced": 4,
        "clamped": 2,
        "non_finite": 0,
        "policy_loss": -0.01,
        "episodes": 3,
        "return_mean_100": 101.5,
        "episode_length_mean": 20.0,
        "minibatches": 7,
        "value_loss": 0.5,
        "entropy": 0.69,
    }
    return PPOUpdatePayload(update_id=update_id, **(values | changes))


def hearing(observer: object) -> SinkHooks:
    """The caller of a hub that hands everything to one observer."""
    hub = Hub([], SinkContext(run_id="run-1", episodes=True))
    hub.add_first("observer", observer)
    return hub.hooks


def whole(emitter: TelemetryEmitter, payload: PPOUpdatePayload, rollout_steps: int = 0) -> PPOUpdatePayload:
    """The payload with the level and the times that its recorder would give it."""
    times = emitter.end_update(payload.update_id)
    return dataclasses.replace(
        payload,
        health=update_level(payload.kl_divergence, kl_joint=payload.kl_joint, non_finite=payload.non_finite),
        rollout_s=times.rollout_s,
        update_s=times.update_s,
        steps_per_s=times.rate(rollout_steps),
    )


class Pipeline:
    """The instrumentation, and a witness of what every sink was given, behind the host's hub."""

    event_kinds = "all"

    @hookimpl
    def esper_event(self, event: TelemetryEvent) -> None:
        self.events.append(event)
        self.instrumentation.esper_event(event)

    def __init__(self, config: OtelConfig) -> None:
        self.spans = InMemorySpanExporter()
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self.spans))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.logs = InMemoryLogRecordExporter()
        self.loggers = LoggerProvider(shutdown_on_exit=False)
        self.loggers.add_log_record_processor(SimpleLogRecordProcessor(self.logs))
        self.events: list[TelemetryEvent] = []
        self.instrumentation = Instrumentation(
            self.meters,
            sdk_logger_provider=self.loggers,
            config=config,
            sink_status=lambda: self.sinks,
            run_id="run-1",
            attempt=2,
            rank=1,
        )
        self.sinks: list[object] = []
        self.emitter = TelemetryEmitter(
            hearing(self),
            run_id="run-1",
            attempt=2,
            rank=1,
            tracer=self.tracers.get_tracer("esper_core"),
            episode_spans=config.episodes,
        )

    def update(self, payload: PPOUpdatePayload, rollout_steps: int = 64) -> TelemetryEvent:
        self.emitter.begin_rollout(payload.update_id)
        self.emitter.begin_update(payload.update_id)
        return self.emitter.emit_ppo_update(whole(self.emitter, payload, rollout_steps))

    def points(self) -> dict[str, list[object]]:
        data = self.reader.get_metrics_data()
        return {
            metric.name: list(metric.data.data_points)
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def value(self, name: str, **attributes: str) -> float | None:
        wanted = IDENTITY | {key.replace("__", "."): value for key, value in attributes.items()}
        for point in self.points().get(name, ()):
            if dict(point.attributes) == wanted:
                return point.value
        return None


@pytest.fixture
def pipeline() -> Iterator[Pipeline]:
    found = Pipeline(OtelConfig())
    yield found
    found.instrumentation.close()


def emit_everything(pipeline: Pipeline) -> None:
    emitter = pipeline.emitter
    emitter.emit_run_started(RunStarted(environment="CartPole-v1", heads=("a",), versions=("python==3.11",)))
    emitter.begin_rollout(1)
    emitter.emit_episode_finished(EpisodeFinished(episode=1, episode_return=9.0, length=9, truncated=True))
    emitter.begin_update(1)
    payload = update_payload(1, kl_divergence=0.05, grad_norm=math.nan, non_finite=0)
    emitter.emit_ppo_update(whole(emitter, payload, 64))
    emitter.emit_sink_status(SinkStatusChanged(sink="journal", state="failing", lost=2, message="disk full"))
    emitter.emit_ppo_update(whole(emitter, update_payload(2, kl_divergence=math.nan, non_finite=3)))
    emitter.emit_run_finished(RunFinished(state=RunState.DONE, updates=1, lost=(SinkLoss(sink="journal", lost=2),)))
    emitter.emit_run_finished(RunFinished(state=RunState.FAILED, reason="ValueError: no", updates=1))


def exported(span: object) -> dict[str, object]:
    """A span of the SDK in the form of the journal's."""
    context = span.get_span_context()
    return {
        "traceId": f"{context.trace_id:032x}",
        "spanId": f"{context.span_id:016x}",
        "parentSpanId": f"{span.parent.span_id:016x}" if span.parent else None,
        "name": span.name,
        "kind": span.kind.value + 1,
        "start": span.start_time,
        "end": span.end_time,
        "attributes": typed(span.attributes),
        "events": [(event.name, event.timestamp, typed(event.attributes)) for event in span.events],
        "links": len(span.links),
        "status": (span.status.status_code.value, span.status.description or ""),
    }


def typed(attributes: object) -> dict[str, tuple[str, str]]:
    return {key: (type(value).__name__, repr(value)) for key, value in attributes.items()}


def journaled(event: TelemetryEvent) -> list[dict[str, object]]:
    """The spans of a journal line."""

    def plain(value: dict[str, object]) -> object:
        (kind, found) = next(iter(value.items()), ("none", None))
        if kind == "intValue":
            return int(found)
        if kind == "doubleValue":
            return float(found)
        return tuple(plain(item) for item in found["values"]) if kind == "arrayValue" else found

    def attributes(pairs: list[dict]) -> dict[str, tuple[str, str]]:
        return typed({pair["key"]: plain(pair["value"]) for pair in pairs})

    (group,) = json.loads(encode(event, RESOURCE))["resourceSpans"]
    return [
        {
            "traceId": span["traceId"],
            "spanId": span["spanId"],
            "parentSpanId": span.get("parentSpanId"),
            "name": span["name"],
            "kind": span["kind"],
            "start": int(span["startTimeUnixNano"]),
            "end": int(span["endTimeUnixNano"]),
            "attributes": attributes(span["attributes"]),
            "events": [
                (item["name"], int(item["timeUnixNano"]), attributes(item["attributes"]))
                for item in span.get("events", ())
            ],
            "links": 0,
            "status": (span.get("status", {}).get("code", 0), span.get("status", {}).get("message", "")),
        }
        for span in group["scopeSpans"][0]["spans"]
    ]


# --- spans --------------------------------------------------------------------------------------


def test_what_the_sdk_exports_equals_what_the_journal_writes_span_by_span() -> None:
    pipeline = Pipeline(OtelConfig(episodes=True))
    emit_everything(pipeline)
    from_sdk = {span["spanId"]: span for span in map(exported, pipeline.spans.get_finished_spans())}
    from_journal = {span["spanId"]: span for event in pipeline.events for span in journaled(event)}
    assert len(pipeline.events) == 9
    assert from_sdk == from_journal
    replayed = [span for event in pipeline.events for span in ended_spans(event, RESOURCE)]
    assert {span["spanId"]: span for span in map(exported, replayed)} == from_journal
    assert {span.instrumentation_scope.schema_url for span in replayed} == {SCHEMA_URL}
    assert sorted({span["name"] for span in from_sdk.values()}) == [
        "esper.episode",
        "esper.iteration",
        "esper.policy.health_changed",
        "esper.ppo.update",
        "esper.rollout",
        "esper.run.finished",
        "esper.run.started",
        "esper.sink.status",
    ]


def test_what_the_otlp_exporter_sends_decodes_to_the_events_that_sinks_were_given() -> None:
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

    pipeline = Pipeline(OtelConfig(episodes=True))
    emit_everything(pipeline)
    body = encode_spans(pipeline.spans.get_finished_spans()).SerializeToString()
    found = decode_request(body, "application/x-protobuf")
    by_id = {event.trace.own.span_id: event for event in found}
    assert by_id == {event.trace.own.span_id: event for event in pipeline.events}


def test_episodes_have_no_span_unless_asked_for(pipeline: Pipeline) -> None:
    pipeline.emitter.emit_episode_finished(EpisodeFinished(episode=1, episode_return=9.0, length=9))
    assert pipeline.spans.get_finished_spans() == ()


def test_an_applications_own_span_is_never_written_to() -> None:
    pipeline = Pipeline(OtelConfig())
    silent = TelemetryEmitter(hearing(pipeline), run_id="r")  # no tracer: its spans are no-ops
    with pipeline.tracers.get_tracer("app").start_as_current_span("app") as span:
        event = silent.emit_ppo_update(update_payload())
    assert dict(span.attributes) == {}
    assert event.trace.own.span_id != f"{span.get_span_context().span_id:016x}"


def test_span_events_stay_within_the_sdks_limit_and_keep_the_last_epochs_and_the_stop(pipeline: Pipeline) -> None:
    pipeline.update(update_payload(kl_by_epoch=tuple(index / 1e6 for index in range(500))))
    (span,) = [span for span in pipeline.spans.get_finished_spans() if span.name == "esper.ppo.update"]
    assert len(span.events) == 128
    assert span.dropped_events == 0
    assert span.events[-1].name == "esper.ppo.early_stop"
    assert span.events[-2].attributes["esper.ppo.kl.epoch"] == 500
    assert len(span.attributes["esper.ppo.kl_by_epoch"]) == 500


@pytest.mark.parametrize(
    ("payload", "kind", "message"),
    [
        (RunFinished(state=RunState.FAILED, reason="ValueError: a: b"), "ValueError", "a: b"),
        (RunFinished(state=RunState.FAILED, reason="RuntimeError"), "RuntimeError", "RuntimeError"),
        (RunFinished(state=RunState.FAILED, reason="the disk is gone"), "_OTHER", "the disk is gone"),
        (
            RunFinished(state=RunState.FAILED, reason="2 losses", health=HealthLevel.NON_FINITE),
            "non_finite",
            "2 losses",
        ),
        (RunFinished(state=RunState.FAILED), "_OTHER", "the run failed"),
        (RunFinished(state=RunState.STOPPED, reason="SIGINT"), None, None),
        (RunFinished(state=RunState.DONE), None, None),
    ],
)
def test_a_failed_runs_span_has_status_error(payload: RunFinished, kind: str | None, message: str | None) -> None:
    pipeline = Pipeline(OtelConfig())
    pipeline.emitter.emit_run_finished(payload)
    (span,) = pipeline.spans.get_finished_spans()
    assert span.attributes.get("error.type") == kind
    assert span.status.is_ok is (kind is None)
    assert span.status.description == message
    assert [(event.name, dict(event.attributes)) for event in span.events] == (
        [] if kind is None else [("exception", {"exception.type": kind, "exception.message": message})]
    )


@pytest.mark.parametrize("changes", [{"non_finite": 3}, {"kl_divergence": math.nan}])
def test_a_non_finite_updates_span_has_status_error_and_others_have_none(
    pipeline: Pipeline, changes: dict[str, object]
) -> None:
    pipeline.update(update_payload(1))
    pipeline.update(update_payload(2, **changes))
    good, bad = [span for span in pipeline.spans.get_finished_spans() if span.name == "esper.ppo.update"]
    assert good.status.is_ok
    assert "error.type" not in good.attributes
    assert not bad.status.is_ok
    assert bad.attributes["error.type"] == "non_finite"
    assert bad.events[-1].name == "exception"


# --- log events ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("events", "on_span", "as_log"), [("span", 3, 0), ("log", 0, 3), ("both", 3, 3)])
def test_events_go_to_the_span_the_log_or_both(events: str, on_span: int, as_log: int) -> None:
    pipeline = Pipeline(OtelConfig(events=events))
    event = pipeline.update(update_payload())
    (span,) = [span for span in pipeline.spans.get_finished_spans() if span.name == "esper.ppo.update"]
    records = [item.log_record for item in pipeline.logs.get_finished_logs()]
    assert len(span.events) == on_span
    assert len(records) == as_log
    if records:
        assert [record.event_name for record in records] == ["esper.ppo.kl", "esper.ppo.kl", "esper.ppo.early_stop"]
        assert [record.severity_number.name for record in records] == ["INFO", "INFO", "WARN"]
        assert {record.timestamp for record in records} == {event.time_ns}
        assert {record.attributes["esper.ppo.update_id"] for record in records} == {1}  # it stands alone
        assert {record.attributes["esper.run.id"] for record in records} == {"run-1"}
        assert {record.span_id for record in records} == {span.get_span_context().span_id}


# --- metrics ------------------------------------------------------------------------------------


def test_histograms_take_the_kl_weighted_joint_and_by_head(pipeline: Pipeline) -> None:
    pipeline.update(update_payload())
    points = pipeline.points()
    by_scope = {point.attributes["esper.ppo.kl.scope"]: point for point in points["esper.ppo.kl_divergence"]}
    assert (by_scope["weighted"].sum, by_scope["joint"].sum) == (0.012, 0.02)
    assert by_scope["weighted"].explicit_bounds == KL_BOUNDARIES
    assert {0.015, 0.03} <= set(KL_BOUNDARIES)
    by_head = {point.attributes["esper.ppo.head.name"]: point for point in points["esper.ppo.head.kl_divergence"]}
    assert set(by_head) == {"operations"}  # an idle head gives no point
    assert by_head["operations"].count == 1
    assert points["esper.ppo.rollout.duration"][0].count == 1
    assert points["esper.ppo.update.duration"][0].sum > 0


def test_counters_begin_at_zero_and_count_what_the_payload_says(pipeline: Pipeline) -> None:
    assert pipeline.value("esper.ppo.updates", esper__ppo__outcome="skipped") == 0
    assert pipeline.value("esper.ppo.early_stops") == 0
    for number in (1, 2):
        pipeline.update(update_payload(number, non_finite=5))
    assert pipeline.value("esper.ppo.updates", esper__ppo__outcome="early_stopped") == 2
    assert pipeline.value("esper.ppo.early_stops") == 2
    assert pipeline.value("esper.ppo.episodes") == 6
    assert pipeline.value("esper.ppo.steps") == 128
    assert pipeline.value("esper.ppo.clamped") == 4
    assert pipeline.value("esper.ppo.non_finite") == 10


def test_gauges_show_the_last_update_and_only_what_was_measured(pipeline: Pipeline) -> None:
    pipeline.update(update_payload(1, kl_divergence=0.001))
    pipeline.update(update_payload(2, kl_divergence=0.016))
    assert pipeline.value("esper.ppo.last.kl_divergence") == 0.016
    assert pipeline.value("esper.ppo.last.update_id") == 2
    assert pipeline.value("esper.ppo.last.health") == HealthLevel.WARNING.severity
    assert pipeline.value("esper.ppo.last.head.kl", esper__ppo__head__name="operations") == 0.012
    assert pipeline.value("esper.ppo.last.head.kl", esper__ppo__head__name="slot") is None
    assert pipeline.value("esper.ppo.last.head.decisions", esper__ppo__head__name="slot") == 0
    assert "esper.ppo.last.grad_norm" not in pipeline.points()


def test_the_policys_level_calms_after_three_good_updates(pipeline: Pipeline) -> None:
    seen = []
    for number, kl in enumerate((0.001, 0.05, 0.001, 0.001, 0.001), start=1):
        pipeline.update(update_payload(number, kl_divergence=kl))
        seen.append(pipeline.value("esper.policy.health"))
    assert seen == [1, 3, 3, 3, 1]


def test_updates_are_counted_by_their_own_level(pipeline: Pipeline) -> None:
    """A gauge shows what is at the moment of a collection; these updates fall between two of them."""
    pipeline.points()
    for number, kl in enumerate((0.001, 0.02, 0.05, 0.05, float("nan"), None), start=1):
        pipeline.update(update_payload(number, kl_divergence=kl))
    counted = {level: pipeline.value("esper.policy.updates", esper__ppo__health=level) for level in HealthLevel}
    assert counted == {"unknown": 1, "healthy": 1, "warning": 1, "critical": 2, "non_finite": 1}


def test_every_level_is_counted_from_zero_on(pipeline: Pipeline) -> None:
    assert [pipeline.value("esper.policy.updates", esper__ppo__health=level) for level in HealthLevel] == [0] * 5


def test_nan_and_inf_reach_no_instrument_and_are_counted_by_field(
    pipeline: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    head = HeadStats(name="slot", kl=math.inf, decisions=4)
    pipeline.update(update_payload(kl_divergence=math.nan, kl_joint=-math.inf, heads=(head,), non_finite=9))
    points = pipeline.points()
    assert "esper.ppo.kl_divergence" not in points
    assert "esper.ppo.head.kl_divergence" not in points
    assert "esper.ppo.last.kl_divergence" not in points
    assert pipeline.value("esper.ppo.non_finite") == 9
    assert pipeline.value("esper.ppo.non_finite_fields", esper__ppo__field="kl_divergence") == 1
    assert pipeline.value("esper.ppo.non_finite_fields", esper__ppo__field="heads.kl") == 1
    assert pipeline.value("esper.ppo.last.health") == HealthLevel.NON_FINITE.severity
    assert caplog.records == []  # the SDK had nothing to complain about


def test_an_estimate_just_below_zero_is_recorded_as_zero(pipeline: Pipeline, caplog: pytest.LogCaptureFixture) -> None:
    pipeline.update(update_payload(kl_divergence=-1e-9))
    assert pipeline.points()["esper.ppo.kl_divergence"][0].count == 1
    assert caplog.records == []


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


@dataclasses.dataclass
class Counts:
    sink: str
    delivered: int
    lost: int
    failures: int
    queue: int | None = None


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
    pipeline.instrumentation._observed.ended_s -= ObservedRuns.ENDED_KEPT_S  # as if so much time had passed
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


def test_the_schema_and_scope_of_the_metrics_are_named(pipeline: Pipeline) -> None:
    pipeline.update(update_payload())
    (resource,) = pipeline.reader.get_metrics_data().resource_metrics
    (scope,) = resource.scope_metrics
    assert scope.scope.name == "esper_core"
    assert scope.scope.schema_url.startswith("https://")


def test_what_waits_for_a_collection_is_in_it_however_many_updates_came_before(pipeline: Pipeline) -> None:
    """More than ``Pending.LIMIT`` updates between two collections, and a few after: all are counted."""
    updates = Pending.LIMIT + 3
    for number in range(1, updates + 1):
        pipeline.update(update_payload(number))
    points = pipeline.points()
    assert points["esper.ppo.head.kl_divergence"][0].count == updates
    assert points["esper.ppo.update.duration"][0].count == updates
    assert pipeline.value("esper.ppo.updates", esper__ppo__outcome="early_stopped") == updates


def test_the_last_updates_are_in_the_export_at_shutdown() -> None:
    exported: list[object] = []

    class Keep(MetricExporter):
        def export(self, data: object, timeout_millis: float = 0, **_: object) -> MetricExportResult:
            exported.append(data)
            return MetricExportResult.SUCCESS

        def shutdown(self, timeout_millis: float = 0, **_: object) -> None: ...

        def force_flush(self, timeout_millis: float = 0) -> bool:
            return True

    meters = MeterProvider([PeriodicExportingMetricReader(Keep())], shutdown_on_exit=False)
    TelemetryEmitter(hearing(Instrumentation(meters, config=OtelConfig()))).emit_ppo_update(update_payload())
    meters.shutdown()
    (data,) = exported
    found = {metric.name: metric for scope in data.resource_metrics[0].scope_metrics for metric in scope.metrics}
    assert found["esper.ppo.head.kl_divergence"].data.data_points[0].count == 1
    assert found["esper.ppo.early_stops"].data.data_points[0].value == 1


def test_readers_that_collect_while_the_trainer_emits_lose_and_double_nothing() -> None:
    from threading import Event, Thread

    pipeline = Pipeline(OtelConfig())
    done = Event()

    def collect() -> None:
        while not done.is_set():
            pipeline.reader.get_metrics_data()

    threads = [Thread(target=collect, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(1, 201):
        pipeline.update(update_payload(number))
    done.set()
    for thread in threads:
        thread.join(timeout=250)
        assert not thread.is_alive()
    assert pipeline.value("esper.ppo.early_stops") == 200
    assert pipeline.points()["esper.ppo.head.kl_divergence"][0].count == 200
    pipeline.instrumentation.close()


def test_the_kls_exemplars_lead_to_its_update(pipeline: Pipeline) -> None:
    event = pipeline.update(update_payload())
    for point in pipeline.points()["esper.ppo.kl_divergence"]:
        (exemplar,) = point.exemplars
        assert f"{exemplar.span_id:016x}" == event.trace.own.span_id


# --- gauges for a replay ------------------------------------------------------------------------

EVALUATED = PolicyEvaluated(
    update_id=2,
    return_mean=4.0,
    return_std=1.0,
    return_min=2.0,
    return_max=6.0,
    episode_length_mean=7.0,
    best_return_mean=5.0,
)


def test_gauge_points_are_what_live_gauges_show_with_the_events_time(pipeline: Pipeline) -> None:
    others = (Divergence(name="objective/kl", per_decision=0.1), Divergence(name="teacher", per_step=math.nan))
    event = pipeline.update(update_payload(kl_joint=math.inf, divergences=others))
    evaluated = pipeline.emitter.emit(EVALUATED)
    assert evaluated is not None
    points = gauge_points(event)
    names = {*(gauge.name for gauge in (*GAUGES, *EVALUATION_GAUGES)), "esper.policy.divergence"}
    live = {
        (name, frozenset(point.attributes.items())): point.value
        for name, found in pipeline.points().items()
        if name in names
        for point in found
    }
    assert pipeline.value("esper.eval.last.return_mean") == 4.0
    assert {point.time_ns for point in gauge_points(evaluated)} == {evaluated.time_ns}
    points_of_both = [*points, *gauge_points(evaluated)]
    assert {(point.name, frozenset(point.attributes.items())): point.value for point in points_of_both} == live
    assert {point.time_ns for point in points} == {event.time_ns}
    assert {point.unit for point in points if point.name == "esper.ppo.last.kl_divergence"} == {"{nat}"}


def test_a_divergence_from_something_else_is_a_gauge_of_its_own_and_may_be_negative(pipeline: Pipeline) -> None:
    reference = Divergence(name="objective/kl", estimator="k1", per_decision=-0.01, per_step=-0.4)
    sampler = Divergence(name="sampler_kl", reference="sampler", estimator="k3", direction="reference_policy")
    pipeline.update(update_payload(divergences=(reference, sampler)))
    told = {
        "esper.ppo.divergence.name": "objective/kl",
        "esper.ppo.divergence.reference": "reference_model",
        "esper.ppo.divergence.estimator": "k1",
        "esper.ppo.divergence.direction": "policy_reference",
    }
    found = {point.attributes["esper.ppo.kl.scope"]: point for point in pipeline.points()["esper.policy.divergence"]}
    assert {scope: point.value for scope, point in found.items()} == {"weighted": -0.01, "joint": -0.4}
    for scope, point in found.items():
        assert dict(point.attributes) == IDENTITY | told | {"esper.ppo.kl.scope": scope}
    pipeline.update(update_payload(2))
    assert "esper.policy.divergence" not in pipeline.points(), "the last update had none"


def test_other_events_have_no_gauge_points() -> None:
    own = SpanRef(name="esper.episode", span_id="1" * 16, start_ns=1, end_ns=1)
    payload = EpisodeFinished(episode=1, episode_return=1.0, length=1)
    event = TelemetryEvent(time_ns=1, run_id="r", trace=TraceRef(trace_id="1" * 32, spans=(own,)), payload=payload)
    assert gauge_points(event) == []


# --- on the API alone ---------------------------------------------------------------------------


def test_importing_and_using_it_needs_no_sdk_no_torch_and_no_logs_api() -> None:
    code = """
import sys
from esper_core.config.schema import OtelConfig
from esper_core.emitter import TelemetryEmitter
from esper_core.events import PPOUpdatePayload
from esper_core.hooks import SinkContext
from esper_core.host.deliver.hub import Hub
from esper_core.instrumentation.sink import Instrumentation
instrumentation = Instrumentation(config=OtelConfig())
hub = Hub([], SinkContext(run_id="r"))
hub.add_first("instrumentation", instrumentation)
TelemetryEmitter(hub.hooks).emit_ppo_update(PPOUpdatePayload(update_id=1, kl_divergence=0.1))
found = [m for m in sys.modules if m.startswith(("opentelemetry.sdk", "opentelemetry._logs", "torch", "textual"))]
sys.exit(", ".join(found) or 0)
"""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=250, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")


# --- the registry -------------------------------------------------------------------------------


def test_every_emitted_metric_is_in_the_registry_with_its_unit_and_attributes_and_the_reverse(
    pipeline: Pipeline,
) -> None:
    full = {
        gauge.field: 0.5
        for gauge in GAUGES
        if not gauge.head and "float" in str(PPOUpdatePayload.__annotations__[gauge.field])
    }
    pipeline.sinks = [Counts("otlp", 1, 1, 1, queue=1)]
    pipeline.instrumentation.set_run_status(heartbeat_s=1.0, progress_s=1.0, state=RunState.LIVE)
    head = HeadStats(
        name="a", kl=0.1, weight=1.0, share=1.0, entropy=0.1, entropy_normalised=0.1, clip_fraction=0.1, decisions=1
    )
    pipeline.update(update_payload(1, kl_max=math.nan))
    other = Divergence(name="objective/kl", per_decision=0.1, per_step=2.0)
    pipeline.update(update_payload(2, stop_window=2, heads=(head,), divergences=(other,), **full))
    pipeline.emitter.emit(EVALUATED)
    (resource,) = pipeline.reader.get_metrics_data().resource_metrics
    emitted = {metric.name: metric for scope in resource.scope_metrics for metric in scope.metrics}
    known = {spec.name: (spec.unit, {*IDENTITY, *spec.attributes}) for spec in METRICS.values()}
    known |= {gauge.name: (gauge.unit, {*IDENTITY}) for gauge in EVALUATION_GAUGES}
    known |= {
        gauge.name: (gauge.unit, {*IDENTITY, "esper.ppo.head.name"} if gauge.head else {*IDENTITY}) for gauge in GAUGES
    }
    found = {
        name: (metric.unit, {key for point in metric.data.data_points for key in point.attributes})
        for name, metric in emitted.items()
    }
    assert found == known
    for name, metric in emitted.items():
        kind = METRICS[name].instrument if name in METRICS else "gauge"
        total = "counter" if getattr(metric.data, "is_monotonic", True) else "updowncounter"
        assert {"Histogram": "histogram", "Sum": total, "Gauge": "gauge"}[type(metric.data).__name__] == kind


def test_the_limits_of_the_run_are_a_gauge_by_level(pipeline: Pipeline) -> None:
    def shown() -> dict[tuple[str, str], float]:
        return {
            (point.attributes["esper.run.kl_limit.level"], point.attributes["esper.run.kl_on"]): point.value
            for point in pipeline.points()["esper.run.kl_limit"]
        }

    assert shown() == {("warning", "weighted"): 0.015, ("critical", "weighted"): 0.03}
    pipeline.emitter.window.limits = KLLimits(on="joint", warning=0.05, critical=0.1)
    pipeline.emitter.emit_run_started(RunStarted(environment="mine"))
    assert shown() == {("warning", "joint"): 0.05, ("critical", "joint"): 0.1}


def test_the_policy_s_gauge_says_what_the_verdict_says_of_one_head(pipeline: Pipeline) -> None:
    heads = (HeadStats(name="busy", kl=0.004, decisions=1000), HeadStats(name="slot", kl=0.06, decisions=100))
    pipeline.update(update_payload(1, health=HealthLevel.HEALTHY, heads=heads))
    assert pipeline.value("esper.policy.health") == HealthLevel.WARNING.severity
