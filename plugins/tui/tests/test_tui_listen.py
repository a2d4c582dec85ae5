"""The OTLP/HTTP listener: the requests that it accepts, and its answers to all others."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import socket
import ssl
import subprocess
import zlib
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("aiohttp", reason="pip install 'esper-sink-tui[listen]'")

from esper_core.errors import UsageError
from esper_core.reading.system import system_text
from esper_core.runs.state import GPURecord, SystemRecord
from esper_core.semconv.codec import encode, encode_log_events
from esper_sink_tui import intake
from esper_sink_tui.addresses import is_loopback, parse_address
from esper_sink_tui.intake import RequestRefusedError, inflate
from esper_sink_tui.listen import Receiver
from esper_sink_tui.panels.sinks import sinks_panel
from esper_sink_tui.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Kit

JSON = {"Content-Type": "application/json"}
PROTOBUF = {"Content-Type": "application/x-protobuf"}


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def receiver(watch: Watch) -> Iterator[Receiver]:
    with Receiver(lambda events: watch.receive(events, where="OTLP"), reject=watch.reject, port=0) as receiver:
        yield receiver


def post(
    receiver: Receiver, body: bytes, headers: dict[str, str], path: str = "/v1/traces", method: str = "POST"
) -> tuple[int, bytes, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", receiver.port, timeout=250)
    with contextlib.closing(connection):
        connection.request(method, path, body=body, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers


def request_of(events: list[Any]) -> bytes:
    """An export request in JSON: the lines of a journal joined."""
    spans = [item for event in events for item in json.loads(encode(event, {"service.name": "esper"}))["resourceSpans"]]
    return json.dumps({"resourceSpans": spans}).encode()


def as_protobuf(body: bytes) -> bytes:
    """The same request in protobuf. Ids are hex in OTLP's JSON, base64 in protobuf's own."""
    from base64 import b64encode

    from google.protobuf.json_format import ParseDict
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    plain = json.loads(body)
    for resource in plain["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                for key in ("traceId", "spanId", "parentSpanId"):
                    if key in span:
                        span[key] = b64encode(bytes.fromhex(span[key])).decode()
    message = ParseDict(plain, ExportTraceServiceRequest())
    return bytes(message.SerializeToString())


def read(watch: Watch) -> Any:
    while watch.tick():
        pass
    return watch.model()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["json", "protobuf"])
def test_traces_become_the_same_events(kit: Kit, receiver: Receiver, watch: Watch, kind: str, packed: bool) -> None:
    events = kit.drift(12)
    body = request_of(events)
    headers = dict(JSON if kind == "json" else PROTOBUF)
    if kind == "protobuf":
        body = as_protobuf(body)
    if packed:
        body, headers["Content-Encoding"] = gzip.compress(body), "gzip"
    status, answer, _ = post(receiver, body, headers)
    assert (status, answer) == (200, b"{}" if kind == "json" else b"")
    model = read(watch)
    assert model.snapshot.tamiyo == kit.fed(events).snapshot().tamiyo
    assert model.snapshot.heads == kit.fed(events).snapshot().heads
    assert model.source == "OTLP"


@pytest.mark.parametrize("form", ["span", "log", "both"])
def test_the_screen_is_the_same_whatever_form_the_events_have(
    kit: Kit, receiver: Receiver, watch: Watch, form: str
) -> None:
    """Log events arrive in requests of their own; the spans' attributes have every value."""
    events = [
        replace(event, payload=replace(event.payload, kl_by_epoch=(0.01, 0.02)))
        if event.kind == "ppo_updated"
        else event
        for event in kit.drift(12)
    ]
    lines = [json.loads(encode(event, {}, with_events=form != "log")) for event in events]
    logs = [json.loads(line) for event in events if (line := encode_log_events(event, {}))] if form != "span" else []
    spans = {"resourceSpans": [item for line in lines for item in line["resourceSpans"]]}
    assert post(receiver, json.dumps(spans).encode(), JSON)[0] == 200
    for records in logs:
        assert post(receiver, json.dumps(records).encode(), JSON, "/v1/logs")[:2] == (200, b"{}")
    assert form == "span" or logs
    assert receiver.rejected == 0
    assert read(watch).snapshot.tamiyo == kit.fed(events).snapshot().tamiyo
    assert read(watch).snapshot.heads == kit.fed(events).snapshot().heads


def test_several_runs_at_once(kit: Kit, receiver: Receiver, watch: Watch) -> None:
    body = request_of([kit.event(kit.update(1), at=1, run_id=name) for name in ("run-a", "run-b")])
    assert post(receiver, body, JSON)[0] == 200
    read(watch)
    assert {row.run_id for row in watch.rows()} == {"run-a", "run-b"}


def test_the_same_request_twice_changes_nothing(kit: Kit, receiver: Receiver, watch: Watch) -> None:
    body = request_of(kit.drift(3))
    for _ in range(2):
        assert post(receiver, body, JSON)[0] == 200
    model = read(watch)
    assert len(model.snapshot.tamiyo.kl_divergence_history) == 3
    assert model.snapshot.duplicates == 3


def test_traces_of_others_are_accepted_and_show_nothing(receiver: Receiver, watch: Watch) -> None:
    span = {"traceId": "1" * 32, "spanId": "2" * 16, "name": "GET /", "startTimeUnixNano": "1", "endTimeUnixNano": "2"}
    body = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}).encode()
    assert post(receiver, body, JSON)[0] == 200
    assert watch.all() == []


@pytest.mark.parametrize("path", ["/v1/metrics", "/v1/logs"])
def test_metrics_and_logs_are_taken_and_dropped(receiver: Receiver, path: str) -> None:
    assert post(receiver, b"{}", JSON, path)[0] == 200
    assert receiver.ignored == 1


def test_what_a_trainer_takes_of_its_machine_is_seen_over_otlp(kit: Kit, watch: Watch) -> None:
    """As our instrumentation sends it, in protobuf; and as another sender may, in JSON and in parts."""
    encoder = pytest.importorskip("opentelemetry.exporter.otlp.proto.common.metrics_encoder", reason="the encoder")
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    from esper_core.instrumentation.system import create_system

    gpu = GPURecord(id="g", name="H100", utilization=0.5, memory=2 << 30, memory_limit=80 << 30)
    use = SystemRecord(cpu_cores=0.5, cpu_count=2, memory=300 << 20, gpus=(gpu,))
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    runs = [SimpleNamespace(identity={"esper.run.id": "run-a", "esper.rank": rank}, system=use) for rank in (0, 1)]
    create_system(provider.get_meter("esper_core"), runs)
    body = encoder.encode_metrics(reader.get_metrics_data()).SerializeToString()
    provider.shutdown()

    def point(rank: int, value: object) -> dict[str, object]:
        attributes = [{"key": "esper.rank", "value": {"intValue": str(rank)}}]
        return {"attributes": attributes, "timeUnixNano": str(10**18 * 2), "asInt": value}

    memory = {"name": "process.memory.usage", "sum": {"dataPoints": [point(0, str(412 << 20)), point(1, 7)]}}
    resource = {"attributes": [{"key": "esper.run.id", "value": {"stringValue": "run-a"}}]}
    later = {"resourceMetrics": [{"resource": resource, "scopeMetrics": [{"metrics": [memory]}]}]}
    with Receiver(lambda events: watch.receive(events, where="OTLP"), measure=watch.measured, port=0) as receiver:
        assert post(receiver, body, PROTOBUF, "/v1/metrics")[0] == 200, "of a run that is not known yet"
        assert post(receiver, request_of(kit.drift(3)), JSON)[0] == 200
        for sent, kind, shown in (
            (body, PROTOBUF, "CPU 25%  mem 300 MiB  GPU 50% 2.00 GiB"),
            (json.dumps(later).encode(), JSON, "CPU 25%  mem 412 MiB  GPU 50% 2.00 GiB"),
        ):
            assert post(receiver, sent, kind, "/v1/metrics")[0] == 200
            found = watch.watched()
            assert found is not None
            assert system_text(found.source.life(found.snapshot, 0).system) == shown
        for broken in (b"\xff", b'{"resourceMetrics": 1}', json.dumps(later).replace('"7"', "x").encode()[:-1]):
            kind = PROTOBUF if broken == b"\xff" else JSON
            assert post(receiver, broken, kind, "/v1/metrics")[0] == 400
        assert receiver.ignored == 0


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


def test_the_sdks_own_exporters_get_no_error(kit: Kit, watch: Watch) -> None:
    """Traces are counted, metrics ignored: a sender of all signals with a token needs no configuration of its own."""
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the stock exporter")
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricExportResult
    from opentelemetry.sdk.trace.export import SpanExportResult

    from esper_core.host.otel.played import ended_spans

    with Receiver(lambda events: watch.receive(events, where="OTLP"), port=0, token="s3cret") as receiver:
        headers = {"Authorization": "Bearer s3cret"}
        traces = OTLPSpanExporter(f"{receiver.url}/v1/traces", headers=headers, compression=Compression.Gzip)
        events = kit.drift(12)
        spans = [span for event in events for span in ended_spans(event, {"service.name": "esper"})]
        assert traces.export(spans) is SpanExportResult.SUCCESS
        reader = InMemoryMetricReader()
        provider = MeterProvider([reader], shutdown_on_exit=False)
        provider.get_meter("a").create_counter("b").add(1)
        data = reader.get_metrics_data()
        assert data is not None
        metrics = OTLPMetricExporter(f"{receiver.url}/v1/metrics", headers=headers)
        assert metrics.export(data) is MetricExportResult.SUCCESS
        traces.shutdown()
        metrics.shutdown()
        provider.shutdown()
        assert (receiver.accepted, receiver.ignored, receiver.refused) == (1, 1, 0)
    assert read(watch).snapshot.tamiyo == kit.fed(events).snapshot().tamiyo


def test_a_run_that_was_heard_of_leaves_nothing_to_index(kit: Kit, receiver: Receiver, watch: Watch) -> None:
    """The reading thread would go on without a rest."""
    post(receiver, request_of(kit.drift(3)), JSON)
    read(watch)
    assert watch.selected
    assert not watch.extend_index()


# --- one bad span costs that span ---------------------------------------------------------------


def spoiled(kit: Kit, how: str) -> dict[str, Any]:
    """A request of eight updates, the third of which is spoiled."""
    plain = json.loads(request_of(kit.drift(8)))
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


def test_a_token_is_asked_for(kit: Kit, watch: Watch) -> None:
    body = request_of(kit.drift(1))
    with Receiver(lambda events: watch.receive(events, where="OTLP"), port=0, token="s3cret") as receiver:
        for given_header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "s3cret"}):
            status, answer, headers = post(receiver, body, {**JSON, **given_header})
            assert status == 401
            assert headers["WWW-Authenticate"] == "Bearer"
            assert b"s3cret" not in answer
        for scheme in ("Bearer", "bearer"):
            assert post(receiver, body, {**JSON, "Authorization": f"{scheme} s3cret"})[0] == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "example.org", ""])
def test_beyond_loopback_it_needs_a_token_or_tls(host: str) -> None:
    with pytest.raises(UsageError, match="refusing to listen"):
        Receiver(lambda events: True, host=host, port=0)


def test_beyond_loopback_with_a_token_it_listens(kit: Kit) -> None:
    with Receiver(lambda events: True, host="0.0.0.0", port=0, token="t") as receiver:
        assert post(receiver, request_of(kit.drift(1)), {**JSON, "Authorization": "Bearer t"})[0] == 200


def test_tls(kit: Kit, tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(cert)]
    words += ["-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    try:
        subprocess.run(words, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    with Receiver(lambda events: True, port=0, tls=(cert, key)) as receiver:
        assert receiver.url.startswith("https://")
        context = ssl.create_default_context(cafile=str(cert))
        connection = http.client.HTTPSConnection("127.0.0.1", receiver.port, context=context, timeout=250)
        with contextlib.closing(connection):
            connection.request("POST", "/v1/traces", body=request_of(kit.drift(1)), headers=JSON)
            assert connection.getresponse().status == 200
        with socket.create_connection(("127.0.0.1", receiver.port), timeout=250) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")  # no TLS: cut off, and the next one is served
            with contextlib.suppress(ConnectionResetError):
                client.recv(10)
        with contextlib.closing(connection):
            connection.request("POST", "/v1/traces", body=request_of(kit.drift(1)), headers=JSON)
            assert connection.getresponse().status == 200


def test_a_broken_certificate_is_one_error(tmp_path: Path) -> None:
    broken = tmp_path / "cert.pem"
    broken.write_text("no certificate")
    with pytest.raises(UsageError, match="cannot use"):
        Receiver(lambda events: True, port=0, tls=(broken, broken))


def test_a_taken_port_is_one_error(receiver: Receiver) -> None:
    with pytest.raises(UsageError, match="cannot listen on"):
        Receiver(lambda events: True, port=receiver.port)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:4318", ("127.0.0.1", 4318)),
        ("127.0.0.1", ("127.0.0.1", 4318)),
        (":9000", ("127.0.0.1", 9000)),
        ("localhost:", ("localhost", 4318)),
        ("[::1]:9000", ("::1", 9000)),
        ("[::1]", ("::1", 4318)),
        ("::1", ("::1", 4318)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address
    assert is_loopback(address[0])


@pytest.mark.parametrize("text", ["127.0.0.1:port", "127.0.0.1:70000", "127.0.0.1:-1"])
def test_no_addresses(text: str) -> None:
    with pytest.raises(UsageError, match="cannot listen"):
        parse_address(text)
