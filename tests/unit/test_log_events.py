"""Log events as OTLP JSON: what the journal has beside the spans' lines."""

from __future__ import annotations

import json
import math
from base64 import b64encode
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from esper_core.events import PAYLOADS, EarlyStop, PPOUpdatePayload, RunFinished
from esper_core.health import RunState
from esper_core.semconv.codec import decode, encode, encode_log_events, resource_of
from esper_core.semconv.log_events import log_events
from esper_core.testing import make_event, one_of_each

if TYPE_CHECKING:
    from esper_core.semconv.attributes import AttributeValue

RESOURCE: dict[str, AttributeValue] = {"service.name": "esper", "size": 1, "rate": 1.0, "on": True}
STOP = EarlyStop(epoch=1, minibatch=3, value=0.05, threshold=0.03)


def update(**fields: Any) -> Any:
    return make_event(PPOUpdatePayload(**{"update_id": 1, "kl_by_epoch": (0.01, 0.02), **fields}))


def test_a_line_of_log_events_is_read_as_no_event_and_no_damage() -> None:
    line = encode_log_events(update(kl_by_epoch=(0.01, math.nan)), RESOURCE)
    assert decode(line) == []
    assert resource_of(line) == {}
    assert b"\n" not in line


def test_a_line_of_log_events_is_a_request_that_protobuf_knows() -> None:
    payload = PPOUpdatePayload(update_id=2**70, kl_by_epoch=(0.01, math.inf), early_stop=STOP, non_finite=2)
    event = replace(make_event(PPOUpdatePayload(update_id=1), marked=True), payload=payload)
    plain = json.loads(encode_log_events(event, RESOURCE))
    for record in plain["resourceLogs"][0]["scopeLogs"][0]["logRecords"]:
        for key in ("traceId", "spanId"):  # hex in OTLP's JSON, base64 in protobuf's own
            record[key] = b64encode(bytes.fromhex(record[key])).decode()
    (group,) = ParseDict(plain, ExportLogsServiceRequest()).resource_logs
    records = group.scope_logs[0].log_records
    assert [(record.event_name, record.severity_text, record.severity_number) for record in records] == [
        ("esper.ppo.kl", "INFO", 9),
        ("esper.ppo.kl", "INFO", 9),
        ("esper.ppo.early_stop", "WARN", 13),
        ("esper.ppo.non_finite", "ERROR", 17),
        ("exception", "ERROR", 17),
    ]
    for record in records:
        found = {pair.key: pair.value for pair in record.attributes}
        assert found["esper.run.id"].string_value == event.run_id
        assert found["esper.ppo.update_id"].string_value == str(2**70)  # beyond 64 bits it is text
        assert found["esper.marked"].bool_value
        assert (record.trace_id.hex(), record.span_id.hex()) == (event.trace.trace_id, event.trace.own.span_id)
        assert record.time_unix_nano == record.observed_time_unix_nano == event.time_ns
    assert {pair.key for pair in group.resource.attributes} >= {"esper.run.id", *RESOURCE}


@pytest.mark.parametrize("kind", sorted(set(PAYLOADS) - {"ppo_updated"}))
def test_other_kinds_have_none(kind: str) -> None:
    (event,) = [item for item in one_of_each() if item.kind == kind]
    assert log_events(event) == ()
    assert encode_log_events(event, {}) == b""


def test_a_failed_run_has_its_exception() -> None:
    event = make_event(RunFinished(state=RunState.FAILED, reason="ValueError: no"))
    (found,) = log_events(event)
    assert (found.name, found.severity.text) == ("exception", "ERROR")
    assert found.attributes["exception.type"] == "ValueError"
    assert "esper.ppo.update_id" not in found.attributes


def test_a_line_without_span_events_decodes_to_the_same_event() -> None:
    event = update(early_stop=STOP, non_finite=3)
    bare, whole = encode(event, RESOURCE, with_events=False), encode(event, RESOURCE)
    assert b'"events":' not in bare
    assert b'"events":' in whole
    assert decode(bare) == decode(whole) == [event]
