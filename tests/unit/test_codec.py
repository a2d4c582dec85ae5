"""Events survive OTLP JSON and protobuf, alone, regrouped and among strangers."""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from pathlib import Path
from typing import Any

import pytest
from event_strategies import RESOURCE, any_event, event_of, event_strategy, record_strategy, value_strategy
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from esper_core.events import (
    PAYLOADS,
    Divergence,
    EarlyStop,
    HeadStats,
    PPOUpdatePayload,
    SinkStatusChanged,
    SpanRef,
    TelemetryEvent,
    TraceRef,
)
from esper_core.reading import open_run
from esper_core.semconv._attribute_json import attributes_json
from esper_core.semconv.attributes import attribute_specs, event_attributes, span_events
from esper_core.semconv.codec import decode, decode_request, decode_traces, encode, resource_of
from esper_core.semconv.failure import ERROR_TYPE
from esper_core.semconv.identity import SCHEMA_URL
from esper_core.semconv.otlp_json import attribute_pairs, dump

# Whole events are slow to make, and a failing one is read easily as it is: shrinking one outlasts a test's time-out.
OWNERS: dict[str, Any] = {**PAYLOADS}  # each is a dataclass, which their base is not
fast = settings(max_examples=30, phases=[Phase.explicit, Phase.reuse, Phase.generate])


# --- writing ------------------------------------------------------------------------------------


@fast
@given(any_event)
def test_a_template_writes_what_msgspec_writes(event: TelemetryEvent[Any]) -> None:
    attributes = event_attributes(event)
    odd = {
        **attributes,
        "100 %d": 1.0,
        'a "quote"': "50 %",
        "none": (),
        "mixed": (None, True, 2, 0.5, "x"),
        "last": -(2**63),
    }
    for some in (attributes, odd, {}, {"one": "text"}, {"one": 1e16}, {"lone": "\udcff"}):
        for _ in range(2):  # the first makes the template
            assert attributes_json(some) == dump(attribute_pairs(some))


# --- round trips --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(PAYLOADS))
def test_every_kind_survives_a_line_of_otlp_json(kind: str) -> None:
    @fast
    @given(event_strategy(kind))
    def holds(event: TelemetryEvent[Any]) -> None:
        line = encode(event, RESOURCE)
        assert b"\n" not in line
        assert decode(line) == [event]
        assert decode_traces(json.loads(line)) == [event]
        assert decode_request(line, "application/json; charset=utf-8") == [event]

    holds()


@fast
@given(any_event)
def test_every_value_comes_back_with_its_declared_type(event: TelemetryEvent[Any]) -> None:
    (found,) = decode(encode(event, RESOURCE))
    for item in dataclasses.fields(event.payload):
        assert type(getattr(found.payload, item.name)) is type(getattr(event.payload, item.name)), item.name


@fast
@given(any_event)
def test_a_protobuf_request_decodes_to_the_same_event(event: TelemetryEvent[Any]) -> None:
    assert decode_request(protobuf_of(encode(event, RESOURCE)), "application/x-protobuf") == [event]


def test_a_whole_number_beyond_int64_travels_as_text_in_every_place() -> None:
    huge = 2**63
    payload = PPOUpdatePayload(
        update_id=huge,
        env_steps=-huge,  # the least that fits
        non_finite=huge,
        heads=(HeadStats(name="a", decisions=huge),),
        early_stop=EarlyStop(epoch=huge, minibatch=huge, value=0.1, threshold=0.03),
    )
    own = SpanRef(name="esper.ppo.update", span_id="1" * 16, parent_span_id="2" * 16, start_ns=1, end_ns=2)
    iteration = dataclasses.replace(own, name="esper.iteration", span_id="2" * 16, parent_span_id=None)
    trace = TraceRef(trace_id="3" * 32, spans=(iteration, own))
    event = TelemetryEvent(time_ns=2, run_id="r", attempt=huge, rank=huge, trace=trace, payload=payload)
    line = encode(event, {"size": huge, "least": -huge})
    assert b'"intValue":"9223372036854775808"' not in line
    assert b'"intValue":"-9223372036854775808"' in line
    assert decode(line) == decode_request(protobuf_of(line), "application/x-protobuf") == [event]
    moments = {item.name: item.attributes for item in span_events(event)}
    assert moments["esper.ppo.non_finite"] == {"esper.ppo.non_finite": str(huge)}
    assert moments["esper.ppo.early_stop"]["esper.ppo.early_stop.epoch"] == str(huge)


def protobuf_of(line: bytes) -> bytes:
    """OTLP JSON as an OTLP protobuf request, through protobuf's own JSON reader."""
    from base64 import b64encode

    from google.protobuf.json_format import ParseDict
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    traces = json.loads(line)
    for group in traces["resourceSpans"]:
        for scope in group["scopeSpans"]:
            for span in scope["spans"]:
                for key in ("traceId", "spanId", "parentSpanId"):
                    if key in span:  # protobuf's JSON has base64 where OTLP has hex
                        span[key] = b64encode(bytes.fromhex(span[key])).decode()
    request: bytes = ParseDict(traces, ExportTraceServiceRequest()).SerializeToString()
    return request


@fast
@given(st.lists(any_event, max_size=4, unique_by=lambda event: event.trace.own.span_id))
def test_a_collector_may_regroup_spans_of_several_runs_in_any_order(events: list[TelemetryEvent[Any]]) -> None:
    groups = [json.loads(encode(event, RESOURCE))["resourceSpans"][0] for event in events]
    spans = [span for group in groups for span in group["scopeSpans"][0]["spans"]]
    ids = [(span["traceId"], span["spanId"]) for span in spans]
    if len(set(ids)) != len(ids):
        return
    one = {"resourceSpans": [{"scopeSpans": [{"spans": [span]} for span in reversed(spans)]}]}
    found = decode_traces(one)
    assert sorted(found, key=repr) == sorted(events, key=repr)


# --- what is on the wire ------------------------------------------------------------------------


def test_ids_are_hex_integers_are_strings_and_non_finite_numbers_have_their_proto_names() -> None:
    payload = PPOUpdatePayload(
        update_id=7,
        kl_divergence=math.nan,
        kl_joint=math.inf,
        kl_mean=-math.inf,
        kl_max=1.0,
        heads=(HeadStats(name="a", kl=None), HeadStats(name="b", kl=2.0)),
    )
    (group,) = json.loads(encode(event_of(payload, number=0xABC), {}))["resourceSpans"]
    (scope,) = group["scopeSpans"]
    (span,) = scope["spans"]
    values = {pair["key"]: pair["value"] for pair in span["attributes"]}
    assert span["traceId"] == "abc".rjust(32, "0")
    assert span["spanId"] == "abc".rjust(16, "0")
    assert span["startTimeUnixNano"] == "999"
    assert span["kind"] == 1
    assert scope["scope"]["name"] == "esper_core"
    assert values["esper.ppo.update_id"] == {"intValue": "7"}
    assert values["esper.ppo.kl_divergence"] == {"doubleValue": "NaN"}
    assert values["esper.ppo.kl_joint"] == {"doubleValue": "Infinity"}
    assert values["esper.ppo.kl_mean"] == {"doubleValue": "-Infinity"}
    assert values["esper.ppo.kl_max"] == {"doubleValue": 1.0}
    assert values["esper.ppo.head.kl"] == {"arrayValue": {"values": [{}, {"doubleValue": 2.0}]}}
    assert "esper.ppo.kl_last" not in values  # not measured, not a made-up 0
    assert "esper.ppo.head.share" not in values  # nothing but empty values


def test_a_float_field_that_holds_an_int_is_a_double_on_the_wire() -> None:
    attributes = event_attributes(event_of(PPOUpdatePayload(update_id=1, kl_divergence=0, kl_by_epoch=(0, 1, 0.5))))
    assert type(attributes["esper.ppo.kl_divergence"]) is float
    by_epoch = attributes["esper.ppo.kl_by_epoch"]
    assert isinstance(by_epoch, tuple)
    assert [type(value) for value in by_epoch] == [float, float, float]


def test_the_resource_keeps_its_types_and_gains_the_run() -> None:
    for resource in ({"x": 1}, {"x": 1.0}, {"x": True}, {"x": ("a", "b")}):
        found = resource_of(encode(event_of(PPOUpdatePayload(update_id=1)), resource))
        assert found["esper.run.id"] == "r"
        value = found["x"]
        assert (type(value), value) == (type(resource["x"]), resource["x"]) or value == ["a", "b"]


def test_text_that_utf8_cannot_hold_is_escaped_instead_of_losing_the_event() -> None:
    event = event_of(SinkStatusChanged(sink="file", message="no such file: caf\udce9.py"))
    (found,) = decode(encode(event, {}))
    assert found.payload.message == "no such file: caf\\udce9.py"


def same(one: object, other: object) -> bool:
    """Equal, with NaN equal to NaN."""
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other or repr(one) == repr(other) == "nan"


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, item.name) for kind, owner in OWNERS.items() for item in dataclasses.fields(owner)]
)
def test_each_field_is_on_the_wire_under_its_own_attributes(kind: str, name: str) -> None:
    """Two payloads that differ in one field differ in that field's attributes and in no others, and both come back."""

    @settings(max_examples=5, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
    @given(record_strategy(PAYLOADS[kind]), st.data())
    def holds(payload: typing.Any, data: st.DataObject) -> None:
        hint = typing.get_type_hints(PAYLOADS[kind])[name]
        other = dataclasses.replace(payload, **{name: data.draw(value_strategy(hint))})
        first, second = (event_attributes(event_of(item)) for item in (payload, other))
        own = {spec.key for spec in attribute_specs(kind) if spec.field.partition(".")[0] == name}
        differing = {key for key in first.keys() | second.keys() if not same(first.get(key), second.get(key))}
        differing.discard(ERROR_TYPE)  # derived from several fields
        assert differing <= own
        assert bool(differing) == (payload != other)
        assert decode(encode(event_of(other), {})) == [event_of(other)]

    holds()


def test_a_recorded_run_is_written_again_to_the_byte() -> None:
    """The example run was recorded when span events carried the update's id, the KL's scope and a level of an epoch,
    when every run was judged on the weighted KL, and before spans had a status and a schema; all else is as it was.
    """
    dropped = {"esper.ppo.update_id", "esper.ppo.kl.scope", "esper.ppo.kl.health"}
    folder = Path(__file__).parents[2] / "docs" / "examples" / "runs" / "drift" / "telemetry"
    lines = [line for path in sorted(folder.glob("*.jsonl")) for line in path.read_bytes().splitlines()]
    assert len(lines) > 20
    for line in lines:
        (event,) = decode(line)
        resource: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in resource_of(line).items()
        }
        recorded = json.loads(line)
        (scope,) = recorded["resourceSpans"][0]["scopeSpans"]
        for moment in (moment for span in scope["spans"] for moment in span.get("events", [])):
            moment["attributes"] = [pair for pair in moment["attributes"] if pair["key"] not in dropped]
        written = json.dumps(recorded, separators=(",", ":"), ensure_ascii=False)
        made = json.loads(encode(event, resource))
        (scope,) = made["resourceSpans"][0]["scopeSpans"]
        assert scope.pop("schemaUrl") == SCHEMA_URL
        newer = {ERROR_TYPE, "esper.run.kl_on", "esper.run.ranks"}
        for span in scope["spans"]:
            span["attributes"] = [pair for pair in span["attributes"] if pair["key"] not in newer]
            if span.pop("status", None) is not None:
                kept = [moment for moment in span.pop("events") if moment["name"] != "exception"]
                span.update({"events": kept} if kept else {})
        assert json.dumps(made, separators=(",", ":"), ensure_ascii=False) == written


def test_what_older_writers_did_not_know_reads_as_they_meant_it() -> None:
    run = open_run(Path(__file__).parents[2] / "docs" / "examples" / "runs" / "drift")
    updates = [event.payload for event in run.updates()]
    assert len(updates) > 20
    for update in updates:
        assert (update.kl_measured, update.granularity, update.library) == ("after_last_step", "step", "")
        assert (update.divergences, update.joint_would_stop, update.library_kl) == ((), None, None)
        assert {head.kind for head in update.heads} == {"categorical"}


def test_what_goes_without_saying_is_not_written_and_comes_back() -> None:
    plain = HeadStats(name="a"), HeadStats(name="b")
    mixed = HeadStats(name="a"), HeadStats(name="b", kind="gaussian")
    for heads, written in ((plain, None), (mixed, ("categorical", "gaussian"))):
        event = event_of(PPOUpdatePayload(update_id=1, heads=heads, kl_measured="after_last_step"))
        attributes = event_attributes(event)
        assert attributes.get("esper.ppo.head.kind") == written
        assert "esper.ppo.kl_measured" not in attributes
        assert decode(encode(event, {})) == [event]
    told = event_attributes(event_of(PPOUpdatePayload(update_id=1, kl_measured="in_loop", granularity="token")))
    assert (told["esper.ppo.kl_measured"], told["esper.ppo.granularity"]) == ("in_loop", "token")


def test_divergences_are_parallel_arrays() -> None:
    others = (
        Divergence(name="objective/kl", estimator="k1", per_decision=-0.5, per_step=-20.0),
        Divergence(name="sampler_kl", reference="sampler", direction="reference_policy", per_decision=0.25),
    )
    event = event_of(PPOUpdatePayload(update_id=1, divergences=others))
    attributes = {
        key.removeprefix("esper.ppo.divergence."): value
        for key, value in event_attributes(event).items()
        if ".divergence." in key
    }
    assert attributes == {
        "name": ("objective/kl", "sampler_kl"),
        "reference": ("reference_model", "sampler"),
        "estimator": ("k1", "k3"),
        "direction": ("policy_reference", "reference_policy"),
        "per_decision": (-0.5, 0.25),
        "per_step": (-20.0, None),
    }
    assert decode(encode(event, {})) == [event]


# --- the plan -----------------------------------------------------------------------------------


def test_no_two_fields_of_a_payload_share_an_attribute() -> None:
    for kind in PAYLOADS:
        keys = [spec.key for spec in attribute_specs(kind)]
        assert len(set(keys)) == len(keys), kind


def test_fields_that_may_be_none_have_none_as_default() -> None:
    """A missing attribute is read as the field's default; for these it must mean: not measured."""
    for owner in (*PAYLOADS.values(), HeadStats, EarlyStop):
        hints = typing.get_type_hints(owner)
        for item in dataclasses.fields(owner):
            if type(None) in typing.get_args(hints[item.name]):
                assert item.default is None, f"{owner.__name__}.{item.name}"


def test_an_update_fits_the_sdks_default_attribute_limit() -> None:
    assert len(attribute_specs("ppo_updated")) + 4 <= 128
