"""What an SDK receives of spans and log events: they equal the journal's."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Literal

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from present import attributes_of, present
from telemetry_pipeline import Pipeline, hearing, update_payload, whole

from esper_core.config.schema import OtelConfig
from esper_core.emitter import TelemetryEmitter
from esper_core.events import (
    EpisodeFinished,
    Payload,
    RunFinished,
    RunStarted,
    SinkLoss,
    SinkStatusChanged,
    TelemetryEvent,
)
from esper_core.health import HealthLevel, RunState
from esper_core.host.otel.played import ended_spans
from esper_core.semconv.codec import decode_request, encode
from esper_core.semconv.identity import SCHEMA_URL

if TYPE_CHECKING:
    from collections.abc import Mapping

RESOURCE = {"service.name": "esper"}


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


def exported(span: ReadableSpan) -> dict[str, Any]:
    """A span of the SDK in the form of the journal's."""
    context = present(span.get_span_context())
    return {
        "traceId": f"{context.trace_id:032x}",
        "spanId": f"{context.span_id:016x}",
        "parentSpanId": f"{span.parent.span_id:016x}" if span.parent else None,
        "name": span.name,
        "kind": span.kind.value + 1,
        "start": span.start_time,
        "end": span.end_time,
        "attributes": typed(attributes_of(span)),
        "events": [(event.name, event.timestamp, typed(attributes_of(event))) for event in span.events],
        "links": len(span.links),
        "status": (span.status.status_code.value, span.status.description or ""),
    }


def typed(attributes: Mapping[str, object]) -> dict[str, tuple[str, str]]:
    return {key: (type(value).__name__, repr(value)) for key, value in attributes.items()}


def journaled(event: TelemetryEvent[Payload]) -> list[dict[str, Any]]:
    """The spans of a journal line."""

    none: Any = None

    def plain(value: dict[str, Any]) -> object:
        (kind, found) = next(iter(value.items()), ("none", none))
        if kind == "intValue":
            return int(found)
        if kind == "doubleValue":
            return float(found)
        return tuple(plain(item) for item in found["values"]) if kind == "arrayValue" else found

    def attributes(pairs: list[dict[str, Any]]) -> dict[str, tuple[str, str]]:
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
    assert {present(span.instrumentation_scope).schema_url for span in replayed} == {SCHEMA_URL}
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
    assert isinstance(span, ReadableSpan)
    assert dict(attributes_of(span)) == {}
    assert event.trace.own.span_id != f"{span.get_span_context().span_id:016x}"


def test_span_events_stay_within_the_sdks_limit_and_keep_the_last_epochs_and_the_stop(pipeline: Pipeline) -> None:
    pipeline.update(update_payload(kl_by_epoch=tuple(index / 1e6 for index in range(500))))
    (span,) = [span for span in pipeline.spans.get_finished_spans() if span.name == "esper.ppo.update"]
    assert len(span.events) == 128
    assert span.dropped_events == 0
    assert span.events[-1].name == "esper.ppo.early_stop"
    assert attributes_of(span.events[-2])["esper.ppo.kl.epoch"] == 500
    assert len(attributes_of(span)["esper.ppo.kl_by_epoch"]) == 500


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
    assert attributes_of(span).get("error.type") == kind
    assert span.status.is_ok is (kind is None)
    assert span.status.description == message
    assert [(event.name, dict(attributes_of(event))) for event in span.events] == (
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
    assert "error.type" not in attributes_of(good)
    assert not bad.status.is_ok
    assert attributes_of(bad)["error.type"] == "non_finite"
    assert bad.events[-1].name == "exception"


# --- log events ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("events", "on_span", "as_log"), [("span", 3, 0), ("log", 0, 3), ("both", 3, 3)])
def test_events_go_to_the_span_the_log_or_both(
    events: Literal["span", "log", "both"], on_span: int, as_log: int
) -> None:
    pipeline = Pipeline(OtelConfig(events=events))
    event = pipeline.update(update_payload())
    (span,) = [span for span in pipeline.spans.get_finished_spans() if span.name == "esper.ppo.update"]
    records = [item.log_record for item in pipeline.logs.get_finished_logs()]
    assert len(span.events) == on_span
    assert len(records) == as_log
    if records:
        assert [record.event_name for record in records] == ["esper.ppo.kl", "esper.ppo.kl", "esper.ppo.early_stop"]
        assert [present(record.severity_number).name for record in records] == ["INFO", "INFO", "WARN"]
        assert {record.timestamp for record in records} == {event.time_ns}
        assert {attributes_of(record)["esper.ppo.update_id"] for record in records} == {1}  # it stands alone
        assert {attributes_of(record)["esper.run.id"] for record in records} == {"run-1"}
        assert {record.span_id for record in records} == {present(span.get_span_context()).span_id}
