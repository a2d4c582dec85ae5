"""What an SDK receives of metrics: they equal the payload, never a NaN, and each is in the registry."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from present import attributes_of, present
from telemetry_pipeline import IDENTITY, Counts, Pipeline, hearing, update_payload

from esper_core.config.schema import OtelConfig
from esper_core.emitter import TelemetryEmitter
from esper_core.events import (
    Divergence,
    EpisodeFinished,
    HeadStats,
    PolicyEvaluated,
    PPOUpdatePayload,
    RunStarted,
    SpanRef,
    TelemetryEvent,
    TraceRef,
)
from esper_core.health import HealthLevel, KLLimits, RunState
from esper_core.instrumentation.pending import KL_BOUNDARIES, Pending
from esper_core.instrumentation.sink import Instrumentation
from esper_core.semconv.gauges import gauge_points
from esper_core.semconv.names import EVALUATION_GAUGES, GAUGES, METRICS

if TYPE_CHECKING:
    import pytest


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


def test_the_schema_and_scope_of_the_metrics_are_named(pipeline: Pipeline) -> None:
    pipeline.update(update_payload())
    (resource,) = present(pipeline.reader.get_metrics_data()).resource_metrics
    (scope,) = resource.scope_metrics
    assert scope.scope.name == "esper_core"
    assert present(scope.scope.schema_url).startswith("https://")


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
    exported: list[MetricsData] = []

    class Keep(MetricExporter):
        def export(self, metrics_data: MetricsData, timeout_millis: float = 0, **_: object) -> MetricExportResult:
            exported.append(metrics_data)
            return MetricExportResult.SUCCESS

        def shutdown(self, timeout_millis: float = 0, **_: object) -> None: ...

        def force_flush(self, timeout_millis: float = 0) -> bool:
            return True

    meters = MeterProvider([PeriodicExportingMetricReader(Keep())], shutdown_on_exit=False)
    TelemetryEmitter(hearing(Instrumentation(meters, config=OtelConfig()))).emit_ppo_update(update_payload())
    meters.shutdown()
    (data,) = exported
    found = {metric.name: metric for scope in data.resource_metrics[0].scope_metrics for metric in scope.metrics}
    points: dict[str, Any] = {name: found[name].data.data_points[0] for name in found}
    assert points["esper.ppo.head.kl_divergence"].count == 1
    assert points["esper.ppo.early_stops"].value == 1


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
    (resource,) = present(pipeline.reader.get_metrics_data()).resource_metrics
    emitted = {metric.name: metric for scope in resource.scope_metrics for metric in scope.metrics}
    known = {spec.name: (spec.unit, {*IDENTITY, *spec.attributes}) for spec in METRICS.values()}
    known |= {gauge.name: (gauge.unit, {*IDENTITY}) for gauge in EVALUATION_GAUGES}
    known |= {
        gauge.name: (gauge.unit, {*IDENTITY, "esper.ppo.head.name"} if gauge.head else {*IDENTITY}) for gauge in GAUGES
    }
    found = {
        name: (metric.unit, {key for point in metric.data.data_points for key in attributes_of(point)})
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
