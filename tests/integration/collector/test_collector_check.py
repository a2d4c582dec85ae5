"""`esper sinks check` against a real Collector: an answer for each signal, or the cause in words."""

from __future__ import annotations

import random
import socket
import string
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, TraceFlags

from esper_core.hooks import Secret
from esper_sink_otlp import OtlpConfig
from esper_sink_otlp.sender import Sender
from esper_sink_otlp.settings import resolve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.collector

CONFIG = """
receivers:
  otlp/plain:
    protocols:
      grpc: {endpoint: "127.0.0.1:${env:PLAIN_GRPC}"}
      http: {endpoint: "127.0.0.1:${env:PLAIN_HTTP}"}
  otlp/token:
    protocols:
      grpc: {endpoint: "127.0.0.1:${env:TOKEN_GRPC}", auth: {authenticator: bearertokenauth}}
      http:
        endpoint: "127.0.0.1:${env:TOKEN_HTTP}"
        auth: {authenticator: bearertokenauth}
        max_request_body_size: 100000
  otlp/tls:
    protocols:
      grpc: {endpoint: "0.0.0.0:${env:TLS_GRPC}", tls: &tls {cert_file: "${env:CERT}", key_file: "${env:KEY}"}}
      http: {endpoint: "0.0.0.0:${env:TLS_HTTP}", tls: *tls}
  otlp/mtls:
    protocols:
      grpc: {endpoint: "127.0.0.1:${env:MTLS_GRPC}", tls: &mtls {<<: *tls, client_ca_file: "${env:CA}"}}
      http: {endpoint: "127.0.0.1:${env:MTLS_HTTP}", tls: *mtls}
exporters:
  file: {path: "${env:OUT}", flush_interval: 100ms}
extensions:
  health_check: {endpoint: "${env:ESPER_HEALTH}"}
  bearertokenauth: {token: secret}
service:
  extensions: [health_check, bearertokenauth]
  telemetry: {metrics: {level: none}}
  pipelines:
    traces: {receivers: [otlp/plain, otlp/token, otlp/tls, otlp/mtls], exporters: [file]}
    metrics: {receivers: [otlp/plain, otlp/token, otlp/tls, otlp/mtls], exporters: [file]}
"""
KINDS = ("PLAIN", "TOKEN", "TLS", "MTLS")


@pytest.fixture(scope="module")
def place(
    module_stage: Any, certificates: Any, helpers: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Any]]:
    """A Collector with every kind of door, and a port where somebody listens and never answers."""
    numbers = helpers.free_ports(len(KINDS) * 2)
    ports = {f"{kind}_{name}": numbers.pop() for kind in KINDS for name in ("HTTP", "GRPC")}
    out = tmp_path_factory.mktemp("out") / "out.jsonl"
    module_stage.collector(
        CONFIG,
        CERT=str(certificates.cert),
        KEY=str(certificates.key),
        CA=str(certificates.ca),
        OUT=str(out),
        **{name: str(port) for name, port in ports.items()},
    )
    with socket.create_server(("127.0.0.1", 0)) as silent:
        yield {**ports, "SILENT_HTTP": silent.getsockname()[1], "SILENT_GRPC": silent.getsockname()[1], "OUT": out}


CA = {"certificate": "CA"}
GOOD_TOKEN = {"headers": {"Authorization": "Bearer secret"}}
CASES = [
    pytest.param("http", "http://127.0.0.1:9", {}, "refuses the connection", id="refused"),
    pytest.param("http", "http://no-such-host.invalid:4318", {}, "the name of no-such-host.invalid", id="name"),
    pytest.param("http", "http://127.0.0.1:PLAIN_GRPC", {}, "is a gRPC port and was spoken to in HTTP", id="gRPC port"),
    pytest.param("http", "http://127.0.0.1:TOKEN_HTTP", {}, "401", id="no token"),
    pytest.param("http", "http://127.0.0.1:TOKEN_HTTP", GOOD_TOKEN, "", id="token"),
    pytest.param("http", "https://localhost:TLS_HTTP", {}, "is not trusted", id="TLS untrusted"),
    pytest.param("http", "https://localhost:TLS_HTTP", CA, "", id="TLS"),
    pytest.param("http", "https://127.0.0.2:TLS_HTTP", CA, "is for another name", id="TLS another name"),
    pytest.param("http", "http://localhost:TLS_HTTP", {}, "speaks TLS and was spoken to without it", id="no TLS"),
    pytest.param("http", "https://localhost:PLAIN_HTTP", CA, "does not speak it", id="TLS to a plain port"),
    pytest.param("http", "https://localhost:MTLS_HTTP", CA, "a client certificate", id="mTLS without"),
    pytest.param(
        *("http", "https://localhost:MTLS_HTTP", {**CA, "client_certificate": "CERT", "client_key": "KEY"}, ""),
        id="mTLS",
    ),
    pytest.param("http", "http://127.0.0.1:SILENT_HTTP", {}, "did not answer within 0.6 s", id="silent"),
    pytest.param("grpc", "http://127.0.0.1:9", {}, "refuses the connection", id="gRPC refused"),
    pytest.param("grpc", "http://no-such-host.invalid:1", {}, "the name of no-such-host.invalid", id="gRPC name"),
    pytest.param(
        "grpc", "http://127.0.0.1:PLAIN_HTTP", {}, "is an HTTP port and was spoken to in gRPC", id="HTTP port"
    ),
    pytest.param("grpc", "http://127.0.0.1:TOKEN_GRPC", {}, "401", id="gRPC no token"),
    pytest.param("grpc", "http://127.0.0.1:TOKEN_GRPC", GOOD_TOKEN, "", id="gRPC token"),
    pytest.param("grpc", "https://localhost:TLS_GRPC", {}, "is not trusted", id="gRPC TLS untrusted"),
    pytest.param("grpc", "https://localhost:TLS_GRPC", CA, "", id="gRPC TLS"),
    pytest.param("grpc", "https://127.0.0.2:TLS_GRPC", CA, "is for another name", id="gRPC TLS another name"),
    pytest.param("grpc", "https://localhost:PLAIN_GRPC", CA, "does not speak it", id="gRPC TLS to a plain port"),
    pytest.param("grpc", "https://localhost:MTLS_GRPC", CA, "a client certificate", id="gRPC mTLS without"),
    pytest.param(
        *("grpc", "https://localhost:MTLS_GRPC", {**CA, "client_certificate": "CERT", "client_key": "KEY"}, ""),
        id="gRPC mTLS",
    ),
    pytest.param("grpc", "http://127.0.0.1:SILENT_GRPC", {}, "did not answer within 0.6 s", id="gRPC silent"),
]


def sender(
    place: dict[str, Any], certificates: Any, protocol: str, endpoint: str, table: dict[str, Any], timeout_s: float
) -> Any:
    for name, port in sorted(place.items(), key=lambda item: -len(item[0])):
        endpoint = endpoint.replace(name, str(port))
    files = {"CA": certificates.ca, "CERT": certificates.cert, "KEY": certificates.key}
    plain: dict[str, Any] = {
        key: str(files[value]) if isinstance(value, str) else value for key, value in table.items()
    }
    headers = {name: Secret(value) for name, value in plain.pop("headers", {}).items()}
    config = OtlpConfig(
        protocol="grpc" if protocol == "grpc" else "http/protobuf",
        endpoint=endpoint,
        timeout_s=timeout_s,
        headers=headers,
        **plain,
    )
    return Sender(resolve(config, {}, "traces"), str)


@pytest.mark.parametrize(("protocol", "endpoint", "table", "words"), CASES)
def test_the_cause_in_words(
    place: dict[str, Any], certificates: Any, protocol: str, endpoint: str, table: dict[str, Any], words: str
) -> None:
    # For an endpoint that never answers, this is the time after which send must return; elsewhere it is only a limit.
    timeout_s = 0.6 if "SILENT" in endpoint else 250.0
    made = sender(place, certificates, protocol, endpoint, table, timeout_s)
    answer = made.send([], timeout_s)
    made.close()
    if words:
        assert not answer.ok
        assert words in answer.cause
        assert answer.hint
    else:
        assert answer.ok, answer


@pytest.mark.parametrize(
    ("protocol", "door", "size"), [("http", "TOKEN_HTTP", 200_000), ("grpc", "TOKEN_GRPC", 5 << 20)]
)
def test_what_is_too_large_is_known_as_such(
    place: dict[str, Any], certificates: Any, protocol: str, door: str, size: int
) -> None:
    letters = random.Random(0).choices(string.ascii_letters, k=size)  # compressed, it is still too large
    context = SpanContext(1, 1, is_remote=False, trace_flags=TraceFlags(1))
    span = ReadableSpan(name="x", context=context, attributes={"long": "".join(letters)}, start_time=1, end_time=2)
    made = sender(place, certificates, protocol, f"http://127.0.0.1:{door}", GOOD_TOKEN, 250.0)
    answer = made.send([span], 250.0)
    made.close()
    assert not answer.ok
    assert answer.divisible
    assert "larger than the receiver takes" in answer.cause


def test_the_command_prints_endpoint_protocol_answer_and_latency(
    place: dict[str, Any], tmp_path: Path, helpers: Any
) -> None:
    """One marked span and one marked point of a metric arrive."""
    check = ("sinks", "check", "--sinks", "otlp", "--set")
    for protocol, port in (("http/protobuf", place["PLAIN_HTTP"]), ("grpc", place["PLAIN_GRPC"])):
        where = f"http://127.0.0.1:{port}"
        done = helpers.esper(
            *check, f"sink.otlp.endpoint={where}", "--set", f"sink.otlp.protocol={protocol}", cwd=tmp_path
        )
        for signal in ("traces", "metrics"):
            (line,) = [item for item in done.stdout.splitlines() if f"{signal}:" in item]
            assert str(port) in line
            assert f"({protocol})" in line
            assert ("OK in" if protocol == "grpc" else "HTTP 200 in") in line
            assert line.endswith(" ms")
    # The Collector answers when it has taken a request in, and writes its file a moment later.
    text = helpers.wait_for(
        lambda: (
            place["OUT"].exists()
            and (written := place["OUT"].read_text()).count('"esper.ppo.last.kl_divergence"') >= 2
            and written.count('"name":"esper.ppo.update"') >= 2
            and written.endswith("\n")
            and written
        ),
        "both marked updates",
    )
    marks = [span for span in helpers.spans_in(place["OUT"]) if span["name"] == "esper.ppo.update"]
    assert len(marks) == 2
    assert all({"key": "esper.marked", "value": {"boolValue": True}} in span["attributes"] for span in marks)
    assert '"esper.ppo.last.kl_divergence"' in text
    assert '{"key":"esper.marked","value":{"stringValue":"true"}}' in text


def test_the_command_fails_with_the_cause_and_the_next_step(
    place: dict[str, Any], tmp_path: Path, helpers: Any
) -> None:
    endpoint = f"sink.otlp.endpoint=http://127.0.0.1:{place['PLAIN_GRPC']}"
    done = helpers.esper("sinks", "check", "--sinks", "otlp", "--set", endpoint, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "is a gRPC port and was spoken to in HTTP" in done.stdout
    assert 'use port 4318 for OTLP/HTTP, or set protocol = "grpc"' in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
