"""Events survive OTLP JSON and protobuf, alone, regrouped and among strangers."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from enum import Enum
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from esper_core.events import (
    PAYLOADS,
    Divergence,
    EarlyStop,
    HeadStats,
    PPOUpdatePayload,
    RunStarted,
    SinkStatusChanged,
    SpanRef,
    TelemetryEvent,
    TraceRef,
)
from esper_core.reading import open_run
from esper_core.semconv._attribute_json import attributes_json
from esper_core.semconv.attributes import (
    SPAN_NAMES,
    attribute_specs,
    event_attributes,
    payload_from_attributes,
    span_events,
)
from esper_core.semconv.codec import CodecError, decode, decode_request, decode_traces, encode, resource_of
from esper_core.semconv.failure import ERROR_TYPE
from esper_core.semconv.identity import SCHEMA_URL
from esper_core.semconv.otlp_json import attribute_pairs, dump

RESOURCE = {"service.name": "esper", "service.version": "0.1.0", "process.pid": 17, "ratio": 1.0, "flag": True}
# Whole events are slow to make, and a failing one is read easily as it is: shrinking one outlasts a test's time-out.
fast = settings(max_examples=30, phases=[Phase.explicit, Phase.reuse, Phase.generate])

# --- strategies, derived from the payloads' types: a new field needs no change here -------------

_SCALARS = {
    float: st.floats(),  # NaN and infinities included
    int: st.integers(-(2**63), 2**64),  # beyond int64 too: a seed may be
    bool: st.booleans(),
    str: st.text(max_size=12),
}


def value_strategy(hint: object) -> st.SearchStrategy[object]:
    origin = typing.get_origin(hint)
    if origin in {types.UnionType, typing.Union}:
        return st.one_of(*(value_strategy(part) for part in typing.get_args(hint)))
    if origin is typing.Literal:
        return st.sampled_from(typing.get_args(hint))
    if origin is tuple:
        return st.lists(value_strategy(typing.get_args(hint)[0]), max_size=4).map(tuple)
    if hint is type(None):
        return st.none()
    if isinstance(hint, type) and issubclass(hint, Enum):
        return st.sampled_from(list(hint))
    if dataclasses.is_dataclass(hint):
        return record_strategy(hint)
    return _SCALARS[hint]


def record_strategy(owner: type) -> st.SearchStrategy[object]:
    hints = typing.get_type_hints(owner)
    values = {item.name: value_strategy(hints[item.name]) for item in dataclasses.fields(owner)}
    return st.fixed_dictionaries(values).map(lambda found: owner(**found))


_id = st.integers(1, 2**64 - 1).map(lambda value: f"{value:016x}")


@st.composite
def event_strategy(draw: st.DrawFn, kind: str) -> TelemetryEvent:
    span_ids = draw(st.lists(_id, min_size=4, max_size=4, unique=True))
    start, end = sorted(draw(st.lists(st.integers(0, 2**63), min_size=2, max_size=2)))
    outer = draw(st.sampled_from([None, span_ids[3]]))
    own = SpanRef(name=SPAN_NAMES[kind], span_id=span_ids[0], parent_span_id=outer, start_ns=start, end_ns=end)
    spans = (own,)
    if kind == "ppo_updated" and draw(st.booleans()):
        iteration = dataclasses.replace(own, name="esper.iteration", span_id=span_ids[1])
        rollout = dataclasses.replace(own, name="esper.rollout", span_id=span_ids[2], parent_span_id=span_ids[1])
        own = dataclasses.replace(own, parent_span_id=span_ids[1])
        spans = (iteration, rollout, own) if draw(st.booleans()) else (iteration, own)
    return TelemetryEvent(
        time_ns=end,
        run_id=draw(st.text(min_size=1, max_size=12)),
        attempt=draw(st.integers(1, 2**64)),
        rank=draw(st.integers(0, 2**64)),
        marked=draw(st.booleans()),
        trace=TraceRef(trace_id=f"{draw(st.integers(1, 2**128 - 1)):032x}", spans=spans),
        payload=draw(record_strategy(PAYLOADS[kind])),
    )


any_event = st.sampled_from(list(PAYLOADS)).flatmap(event_strategy)


def event_of(payload: object, *, run_id: str = "r", number: int = 1, end_ns: int = 1_000) -> TelemetryEvent:
    own = SpanRef(name=SPAN_NAMES[payload.kind], span_id=f"{number:016x}", start_ns=end_ns - 1, end_ns=end_ns)
    return TelemetryEvent(
        time_ns=end_ns, run_id=run_id, trace=TraceRef(trace_id=f"{number:032x}", spans=(own,)), payload=payload
    )


# --- writing ------------------------------------------------------------------------------------


@fast
@given(any_event)
def test_a_template_writes_what_msgspec_writes(event: TelemetryEvent) -> None:
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
    def holds(event: TelemetryEvent) -> None:
        line = encode(event, RESOURCE)
        assert b"\n" not in line
        assert decode(line) == [event]
        assert decode_traces(json.loads(line)) == [event]
        assert decode_request(line, "application/json; charset=utf-8") == [event]

    holds()


@fast
@given(any_event)
def test_every_value_comes_back_with_its_declared_type(event: TelemetryEvent) -> None:
    (found,) = decode(encode(event, RESOURCE))
    for item in dataclasses.fields(event.payload):
        assert type(getattr(found.payload, item.name)) is type(getattr(event.payload, item.name)), item.name


@fast
@given(any_event)
def test_a_protobuf_request_decodes_to_the_same_event(event: TelemetryEvent) -> None:
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
def test_a_collector_may_regroup_spans_of_several_runs_in_any_order(events: list[TelemetryEvent]) -> None:
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
    assert [type(value) for value in attributes["esper.ppo.kl_by_epoch"]] == [float, float, float]


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
    ("kind", "name"), [(kind, item.name) for kind, owner in PAYLOADS.items() for item in dataclasses.fields(owner)]
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
        resource = {key: tuple(value) if isinstance(value, list) else value for key, value in resource_of(line).items()}
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


# --- strangers and damage -----------------------------------------------------------------------


def line_with(**changes: object) -> bytes:
    traces = json.loads(encode(event_of(PPOUpdatePayload(update_id=1)), {}))
    traces["resourceSpans"][0]["scopeSpans"][0]["spans"][0].update(changes)
    return json.dumps(traces).encode()


def test_spans_of_other_programs_are_skipped() -> None:
    assert decode(line_with(name="GET /")) == []
    assert decode(b"{}") == []
    assert decode(b'{"resourceSpans":[{"scopeSpans":[{}]},{}]}') == []
    stranger = json.loads(line_with(attributes=[]))
    stranger["resourceSpans"][0]["resource"] = {}
    assert decode_traces(stranger) == []  # a span that happens to be called esper.ppo.update


def test_an_update_without_its_ancestors_stands_alone() -> None:
    (found,) = decode(line_with(parentSpanId="00000000000000ff"))
    assert [span.name for span in found.trace.spans] == ["esper.ppo.update"]
    assert found.trace.own.parent_span_id == "00000000000000ff"


def test_run_attempt_and_rank_are_taken_from_the_resource_when_the_span_lacks_them() -> None:
    traces = json.loads(encode(event_of(PPOUpdatePayload(update_id=1)), {"esper.run.attempt": 3, "esper.rank": 2}))
    span = traces["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    span["attributes"] = [pair for pair in span["attributes"] if pair["key"].startswith("esper.ppo.")]
    (found,) = decode_traces(traces)
    assert (found.run_id, found.attempt, found.rank) == ("r", 3, 2)


def test_numbers_are_coerced_to_the_fields_type() -> None:
    attributes = {"esper.ppo.update_id": 3.0, "esper.ppo.kl_divergence": 1, "esper.ppo.steps": "12"}
    payload = payload_from_attributes("ppo_updated", attributes)
    assert payload == PPOUpdatePayload(update_id=3, kl_divergence=1.0, steps=12)
    assert type(payload.update_id) is int
    assert type(payload.kl_divergence) is float


def test_an_attribute_that_an_older_writer_did_not_have_is_its_default() -> None:
    assert payload_from_attributes("ppo_updated", {"esper.ppo.update_id": 1}) == PPOUpdatePayload(update_id=1)
    assert payload_from_attributes("run_started", {"esper.run.environment": "E"}) == RunStarted(environment="E")


@pytest.mark.parametrize(
    ("attributes", "named"),
    [
        ({}, "esper.ppo.update_id"),
        ({"esper.ppo.update_id": "seven"}, "esper.ppo.update_id"),
        ({"esper.ppo.update_id": 1.5}, "esper.ppo.update_id"),
        ({"esper.ppo.update_id": True}, "esper.ppo.update_id"),
        ({"esper.ppo.update_id": 1, "esper.ppo.health": "fine"}, "esper.ppo.health"),
        ({"esper.ppo.update_id": 1, "esper.ppo.outcome": "exploded"}, "esper.ppo.outcome"),
        ({"esper.ppo.update_id": 1, "esper.ppo.kl_joint": "0.1"}, "esper.ppo.kl_joint"),
        ({"esper.ppo.update_id": 1, "esper.ppo.kl_by_epoch": 0.1}, "esper.ppo.kl_by_epoch"),
        ({"esper.ppo.update_id": 1, "esper.ppo.device": 4}, "esper.ppo.device"),
        (
            {"esper.ppo.update_id": 1, "esper.ppo.head.name": ["a"], "esper.ppo.head.kl": [1.0, 2.0]},
            "esper.ppo.head.kl",
        ),
        ({"esper.ppo.update_id": 1, "esper.ppo.head.name": [None]}, "esper.ppo.head.name"),
        ({"esper.ppo.update_id": 1, "esper.ppo.early_stop.epoch": 1}, "esper.ppo.early_stop.minibatch"),
    ],
)
def test_a_broken_payload_is_one_error_that_names_the_attribute(attributes: dict[str, object], named: str) -> None:
    with pytest.raises(CodecError, match=named):
        payload_from_attributes("ppo_updated", attributes)


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b'{"resourceSpans": 3}',
        b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"name":"esper.ppo.update","traceId":"zz"}]}]}]}',
        line_with(traceId="abc"),
        line_with(traceId="g" * 32),
        line_with(startTimeUnixNano="soon"),
        line_with(attributes=[{"key": "esper.ppo.update_id", "value": {"intValue": "soon"}}]),
        line_with(attributes=[{"key": "esper.run.id", "value": {"stringValue": "r"}}]),
        b'{"a":' * 3000,
    ],
)
def test_damage_is_a_codec_error_and_nothing_else(damaged: bytes) -> None:
    with pytest.raises(CodecError):
        decode(damaged)


@settings(max_examples=40)
@given(st.data())
def test_a_torn_line_is_a_codec_error(data: st.DataObject) -> None:
    line = encode(event_of(PPOUpdatePayload(update_id=1)), RESOURCE)
    with pytest.raises(CodecError):
        decode(line[: data.draw(st.integers(0, len(line) - 1))])


def test_one_broken_span_does_not_cost_the_others_when_a_receiver_asks_so() -> None:
    good = json.loads(encode(event_of(PPOUpdatePayload(update_id=1)), {}))
    bad = json.loads(line_with(attributes=[{"key": "esper.run.id", "value": {"stringValue": "r"}}]))
    both = {"resourceSpans": bad["resourceSpans"] + good["resourceSpans"]}
    errors: list[CodecError] = []
    found = decode_traces(both, on_error=errors.append)
    assert [event.payload.update_id for event in found] == [1]
    assert "esper.ppo.update_id" in str(errors[0])
    with pytest.raises(CodecError, match=r"esper\.ppo\.update"):
        decode_traces(both)


def test_a_request_of_another_content_type_or_content_is_refused() -> None:
    with pytest.raises(CodecError, match="text/plain"):
        decode_request(b"{}", "text/plain")
    with pytest.raises(CodecError, match="not an OTLP traces request"):
        decode_request(b"\xff\xff\xff", "application/x-protobuf")
    assert decode_request(b"", "application/x-protobuf") == []  # the empty message


def test_decoding_json_does_not_import_protobuf() -> None:
    import subprocess
    import sys

    code = (
        "import sys, esper_core.semconv.codec as c; c.decode(b'{}');"
        "print([m for m in sys.modules if m.startswith(('google', 'opentelemetry', 'torch', 'textual'))])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=250, check=True)
    assert result.stdout.strip() == "[]"


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
