"""Decoding what strangers wrote and what was damaged."""

from __future__ import annotations

import json

import pytest
from event_strategies import RESOURCE, event_of
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_core.events import PPOUpdatePayload, RunStarted
from esper_core.semconv.attributes import payload_from_attributes
from esper_core.semconv.codec import CodecError, decode, decode_request, decode_traces, encode


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
    assert isinstance(payload, PPOUpdatePayload)
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
