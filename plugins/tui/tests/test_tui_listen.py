"""The OTLP/HTTP listener: the requests that it accepts, and its answers to all others."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import socket
import ssl
import subprocess
import threading
import zlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper_core.errors import UsageError
from esper_core.semconv.codec import encode
from esper_sink_tui import listen
from esper_sink_tui.listen import Receiver, RequestRefusedError, inflate, is_loopback, parse_address
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
    with Receiver(lambda events: watch.receive(events, where="OTLP"), port=0) as receiver:
        yield receiver


def post(
    receiver: Receiver, body: bytes, headers: dict[str, str], path: str = "/v1/traces", method: str = "POST"
) -> tuple[int, bytes, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", receiver.port, timeout=10)
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


@pytest.mark.parametrize("length", [str(listen.MAX_BODY + 1), "1" * 5000])
def test_a_body_that_is_too_large_is_refused_before_it_is_read(receiver: Receiver, length: str) -> None:
    with socket.create_connection(("127.0.0.1", receiver.port), timeout=10) as client:
        client.sendall(b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
        client.sendall(f"Content-Length: {length}\r\n\r\n".encode())
        assert client.recv(100).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    "length", ["", "Content-Length: -1\r\n", "Content-Length: x\r\n", "Content-Length: \u00b2\r\n"]
)
def test_a_body_without_a_length_is_refused(receiver: Receiver, length: str) -> None:
    with socket.create_connection(("127.0.0.1", receiver.port), timeout=10) as client:
        client.sendall(b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
        client.sendall(f"{length}\r\n".encode())
        assert client.recv(100).startswith(b"HTTP/1.1 411")


def test_a_client_that_never_sends_its_body_is_cut_off(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "TIMEOUT_S", 0.2)
    monkeypatch.setattr(listen._Handler, "timeout", 0.2)
    with socket.create_connection(("127.0.0.1", receiver.port), timeout=10) as client:
        client.sendall(
            b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
        )
        assert client.recv(100).startswith(b"HTTP/1.1 408")


def test_a_gzip_bomb_is_refused_within_its_limit(receiver: Receiver) -> None:
    bomb = gzip.compress(b"\0" * (listen.MAX_INFLATED + 1), compresslevel=9)
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
        connection = http.client.HTTPSConnection("127.0.0.1", receiver.port, context=context, timeout=10)
        with contextlib.closing(connection):
            connection.request("POST", "/v1/traces", body=request_of(kit.drift(1)), headers=JSON)
            assert connection.getresponse().status == 200
        with socket.create_connection(("127.0.0.1", receiver.port), timeout=10) as client:
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


def test_too_many_connections_are_turned_away(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver._server._room = threading.BoundedSemaphore(1)
    with socket.create_connection(("127.0.0.1", receiver.port), timeout=10) as first:
        first.sendall(b"POST /v1/traces HTTP/1.1\r\n")
        for _ in range(100):
            if receiver._server._room._value == 0:
                break
            threading.Event().wait(0.02)
        address = ("127.0.0.1", receiver.port)
        with socket.create_connection(address, timeout=10) as second, contextlib.suppress(ConnectionResetError):
            assert second.recv(12) == b"HTTP/1.1 503"


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
