"""What the OTLP/HTTP listener refuses: wrong requests, bombs, damaged bodies, single bad spans."""

from __future__ import annotations

import contextlib
import gzip
import json
import zlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from otlp_requests import JSON, PROTOBUF, as_protobuf, post, read, request_of

pytest.importorskip("aiohttp", reason="pip install 'esper-sink-tui[listen]'")

from esper_sink_tui import intake
from esper_sink_tui.intake import RequestRefusedError, inflate
from esper_sink_tui.listen import Receiver
from esper_sink_tui.panels.sinks import sinks_panel

if TYPE_CHECKING:
    from sanctum_kit import Kit

    from esper_sink_tui.watch import Watch


@pytest.mark.parametrize(
    ("body", "headers", "path", "method", "status"),
    [
        (b"{}", JSON, "/", "POST", 404),
        (b"{}", JSON, "/v1/traces/", "POST", 404),
        (b"{}", JSON, "/v1/../v1/traces", "POST", 404),
        (b"", {}, "/v1/traces", "GET", 405),
        (b"", {}, "/v1/traces", "HEAD", 405),
        (b"x", {}, "/v1/traces", "PUT", 405),
        (b"{}", {"Content-Type": "text/plain"}, "/v1/traces", "POST", 415),
        (b"{}", {}, "/v1/traces", "POST", 415),
        (b"{}", {**JSON, "Content-Encoding": "br"}, "/v1/traces", "POST", 415),
        (b"not json", JSON, "/v1/traces", "POST", 400),
        (b'{"resourceSpans": 7}', JSON, "/v1/traces", "POST", 400),
        (b"\xff\xff\xff", PROTOBUF, "/v1/traces", "POST", 400),
        (b"not gzip", {**JSON, "Content-Encoding": "gzip"}, "/v1/traces", "POST", 400),
        (gzip.compress(b"{}", mtime=0)[:-3], {**JSON, "Content-Encoding": "gzip"}, "/v1/traces", "POST", 400),
    ],
)
def test_what_is_wrong_gets_its_status_and_harms_nothing(
    kit: Kit,
    receiver: Receiver,
    watch: Watch,
    body: bytes,
    headers: dict[str, str],
    path: str,
    method: str,
    status: int,
) -> None:
    got, _, answered = post(receiver, body, headers, path, method)
    assert got == status
    if status == 405:
        assert answered["Allow"] == "POST"
    assert receiver.refused == 1
    assert watch.all() == []
    assert post(receiver, request_of(kit.drift(1)), JSON)[0] == 200


def test_errors_are_answered_in_the_requests_own_encoding(receiver: Receiver) -> None:
    _, answer, headers = post(receiver, b"\xff\xff\xff", PROTOBUF)
    assert headers["Content-Type"] == "application/x-protobuf"
    assert answer[:1] == b"\x12"  # google.rpc.Status, field 2: the message
    _, answer, headers = post(receiver, b"nonsense", JSON)
    assert headers["Content-Type"] == "application/json"
    assert "message" in json.loads(answer)


def test_a_gzip_bomb_is_refused_within_its_limit(receiver: Receiver) -> None:
    bomb = gzip.compress(b"\0" * (intake.MAX_INFLATED + 1), compresslevel=9)
    assert len(bomb) < 40_000
    assert post(receiver, bomb, {**JSON, "Content-Encoding": "gzip"})[0] == 413


def test_a_bomb_of_many_members_is_one_bomb() -> None:
    with pytest.raises(RequestRefusedError) as refused:
        inflate(gzip.compress(b"\0" * 600) * 3, 1000)
    assert refused.value.status == 413
    assert inflate(gzip.compress(b"a") * 3, 1000) == b"aaa"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(body=st.binary(max_size=400), packed=st.booleans(), kind=st.sampled_from([JSON, PROTOBUF]))
def test_no_body_whatever_breaks_it(
    kit: Kit, receiver: Receiver, body: bytes, packed: bool, kind: dict[str, str]
) -> None:
    headers = {**kind, "Content-Encoding": "gzip"} if packed else kind
    assert post(receiver, body, headers)[0] in {200, 400, 413}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.data())
def test_no_damaged_request_breaks_it(kit: Kit, receiver: Receiver, watch: Watch, data: st.DataObject) -> None:
    body = bytearray(request_of(kit.drift(1)))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    assert post(receiver, bytes(body), JSON)[0] in {200, 400}
    assert read(watch) is not None


@given(st.binary(max_size=300), st.integers(1, 200))
def test_inflating_never_exceeds_its_limit(body: bytes, limit: int) -> None:
    packed = gzip.compress(body)
    if len(body) <= limit:
        assert inflate(packed, limit) == body
    else:
        with pytest.raises(RequestRefusedError):
            inflate(packed, limit)
    with contextlib.suppress(RequestRefusedError, zlib.error):
        inflate(body, limit)


def spoiled(kit: Kit, how: str) -> dict[str, Any]:
    """A request of eight updates, the third of which is spoiled."""
    plain: dict[str, Any] = json.loads(request_of(kit.drift(8)))
    own = [
        span
        for group in plain["resourceSpans"]
        for scope in group["scopeSpans"]
        for span in scope["spans"]
        if span["name"] == "esper.ppo.update"
    ]
    span = own[2]
    value = next(pair for pair in span["attributes"] if pair["key"] == "esper.ppo.kl_divergence")
    if how == "value":
        value["value"] = {"stringValue": "garbage"}
    elif how == "id":
        span["spanId"] = span["spanId"][:8]
    elif how == "time":
        span["endTimeUnixNano"] = "9" * 400  # no float holds it: the state of the run could not be computed
    elif how == "number":
        value["value"] = {"intValue": "9" * 400}
    elif how == "shape":
        span["attributes"] = 7
    else:
        value["value"] = {"doubleValue": {}}
    return plain


@pytest.mark.parametrize("how", ["value", "id", "time", "number", "shape", "type"])
def test_one_bad_span_costs_that_span(kit: Kit, receiver: Receiver, watch: Watch, how: str) -> None:
    """Kind 19: one bad span cost its whole batch."""
    status, answer, _ = post(receiver, json.dumps(spoiled(kit, how)).encode(), JSON)
    assert status == 200
    partial = json.loads(answer)["partialSuccess"]
    assert partial["rejectedSpans"] == "1"
    assert "span" in partial["errorMessage"]
    assert (receiver.accepted, receiver.rejected, receiver.refused) == (1, 1, 0)
    model = read(watch)
    assert [item.update_id for item in model.snapshot.recent] == [1, 2, 4, 5, 6, 7, 8]
    assert model.corrupt == 1
    assert any("1 unread" in str(line) for line in sinks_panel(model, 60, 8))


@pytest.mark.parametrize("how", ["value", "id"])
def test_one_bad_span_in_protobuf_costs_that_span(kit: Kit, receiver: Receiver, watch: Watch, how: str) -> None:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    body = as_protobuf(json.dumps(spoiled(kit, how)).encode())
    status, answer, _ = post(receiver, body, PROTOBUF)
    assert status == 200
    partial = ExportTraceServiceResponse.FromString(answer).partial_success
    assert partial.rejected_spans == 1
    assert "span esper.ppo.update" in partial.error_message
    assert [item.update_id for item in read(watch).snapshot.recent] == [1, 2, 4, 5, 6, 7, 8]


def test_many_bad_spans_are_counted_and_none_is_taken(kit: Kit, receiver: Receiver, watch: Watch) -> None:
    """Kind 19: what was refused was shown nowhere."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    bad = spoiled(kit, "value")
    bad["resourceSpans"] = [group for group in bad["resourceSpans"] if "garbage" in json.dumps(group)] * 300
    status, answer, _ = post(receiver, as_protobuf(json.dumps(bad).encode()), PROTOBUF)
    assert status == 200
    assert ExportTraceServiceResponse.FromString(answer).partial_success.rejected_spans == 300
    assert watch.all() == []
    assert "300 spans could not be decoded" in watch.model().notice


def test_a_viewer_that_is_behind_says_so(kit: Kit) -> None:
    with Receiver(lambda events: False, port=0) as receiver:
        status, _, headers = post(receiver, request_of(kit.drift(1)), JSON)
        assert status == 503
        assert headers["Retry-After"] == "1"
