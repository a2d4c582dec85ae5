"""A scripted OTLP receiver on a free loopback port, and events to send it."""

from __future__ import annotations

import gzip
import os
import threading
import time
import zlib
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from esper_core.events import HeadStats, PPOUpdatePayload, SpanRef, TelemetryEvent, TraceRef

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
    from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric, NumberDataPoint
    from opentelemetry.proto.trace.v1.trace_pb2 import Span


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--account-table", action="store_true", help="print what became of each fault plan's items")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The account of each fault plan: the journal's count, the receiver's own, and the run's report."""
    config = terminalreporter.config
    if not config.getoption("--account-table", default=False):
        return
    rows = sorted(
        row
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        if report.when == "call"
        for row in dict(report.user_properties).get("account", [])
    )
    terminalreporter.write_line("| fault plan | signal | emitted | delivered | lost | unaccounted | lost, yet there |")
    terminalreporter.write_line("|---|---|---|---|---|---|---|")
    for name, signal, emitted, delivered, lost in rows:
        over = delivered + lost - emitted
        cells = (name, signal, emitted, delivered, lost, max(0, -over), max(0, over))
        terminalreporter.write_line(f"| {' | '.join(map(str, cells))} |")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables of the person who runs the tests change nothing."""
    for name in list(os.environ):
        if name.startswith(("ESPER_", "OTEL_", "REQUESTS_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@dataclass
class Receiver:
    """Answers as ``answer`` says: a status, or ``hang``; keeps what it took.

    Attributes:
        answer: status for the next requests, or ``"hang"``.
        script: statuses for the very next requests, before ``answer`` holds.
        headers: sent with an answer that is not 200.
        reject: spans or points to call rejected in a 200 (partial success).
        longest: requests with more bytes are answered 413.
        requests: path and headers of each.
        moments: monotonic seconds at which each came.
        hanging: requests that hang now.
        echo: text sent with an answer that is not 200.
        clock_behind_s: how far its clock, as its Date headers tell it, is behind this machine's.
    """

    url: str = ""
    answer: int | str = 200
    script: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    reject: int = 0
    longest: int | None = None
    echo: str = ""
    clock_behind_s: float = 0.0
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    moments: list[float] = field(default_factory=list)
    hanging: int = 0
    traces: list[ExportTraceServiceRequest] = field(default_factory=list)
    metrics: list[ExportMetricsServiceRequest] = field(default_factory=list)
    logs: list[ExportLogsServiceRequest] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def spans(self) -> list[Span]:
        return [
            span
            for request in self.traces
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def records(self) -> list[LogRecord]:
        return [
            record
            for request in self.logs
            for resource in request.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]

    def all_metrics(self) -> list[Metric]:
        return [
            metric
            for request in self.metrics
            for resource in request.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]

    def points(self, name: str) -> list[NumberDataPoint]:
        return [point for metric in self.all_metrics() if metric.name == name for point in metric.gauge.data_points]

    def take(self, path: str, body: bytes) -> None:
        if path.endswith("traces"):
            self.traces.append(ExportTraceServiceRequest.FromString(body))
        elif path.endswith("logs"):
            self.logs.append(ExportLogsServiceRequest.FromString(body))
        else:
            self.metrics.append(ExportMetricsServiceRequest.FromString(body))


def _partial(path: str, receiver: Receiver) -> bytes:
    made: Any
    if path.endswith("traces"):
        made = ExportTraceServiceResponse()
        made.partial_success.rejected_spans = receiver.reject
    elif path.endswith("logs"):
        made = ExportLogsServiceResponse()
        made.partial_success.rejected_log_records = receiver.reject
    else:
        made = ExportMetricsServiceResponse()
        made.partial_success.rejected_data_points = receiver.reject
    made.partial_success.error_message = f"too many attributes{receiver.echo}"
    content: bytes = made.SerializeToString()
    return content


def _handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            encoding = self.headers.get("content-encoding")
            unpack: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.decompress, "deflate": zlib.decompress}
            body = unpack.get(encoding or "", bytes)(body)
            receiver.moments.append(time.monotonic())
            receiver.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            answer = receiver.script.pop(0) if receiver.script else receiver.answer
            if answer == "hang":
                receiver.hanging += 1
                receiver.released.wait(250)
                receiver.hanging -= 1
                self.close_connection = True
                return
            status = int(answer)
            if receiver.longest is not None and len(body) > receiver.longest:
                status = 413
            content = receiver.echo.encode() if status != 200 else b""
            if status == 200:
                receiver.take(self.path, body)
                if receiver.reject:
                    content = _partial(self.path, receiver)
            self.send_response(status)
            for name, value in (receiver.headers if status != 200 else {}).items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def date_time_string(self, timestamp: float | None = None) -> str:
            return super().date_time_string((time.time() if timestamp is None else timestamp) - receiver.clock_behind_s)

        def log_message(self, *arguments: object) -> None:
            pass

    return Handler


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Listens until the test ends."""
    found = Receiver()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(found))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield found
    found.released.set()
    server.shutdown()
    server.server_close()
    thread.join(250)


@pytest.fixture
def update() -> Callable[..., TelemetryEvent[PPOUpdatePayload]]:
    """Makes update events, by default now."""

    def make(update_id: int = 1, *, time_ns: int | None = None, **fields: Any) -> TelemetryEvent[PPOUpdatePayload]:
        moment = time.time_ns() if time_ns is None else time_ns
        values: dict[str, Any] = {
            "kl_divergence": 0.01 * update_id,
            "kl_joint": 0.02,
            "heads": (HeadStats(name="slot", kl=0.01, decisions=4), HeadStats(name="tempo", kl=0.02, decisions=2)),
            **fields,
        }
        span = SpanRef(
            name="esper.ppo.update",
            span_id=f"{update_id:016x}",
            parent_span_id=None,
            start_ns=moment - 1_000_000,
            end_ns=moment,
        )
        return TelemetryEvent(
            time_ns=moment,
            run_id="run-1",
            attempt=1,
            rank=0,
            trace=TraceRef(trace_id=f"{update_id:032x}", spans=(span,)),
            payload=PPOUpdatePayload(update_id=update_id, **values),
        )

    return make


def eventually(check: Callable[[], Any], timeout_s: float = 250.0) -> Any:
    """Wait until a check holds; the time guards against hanging."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if found := check():
            return found
        time.sleep(0.01)
    return check()


@pytest.fixture(name="eventually")
def eventually_fixture() -> Callable[..., Any]:
    """``eventually`` as a fixture: tests import nothing from each other."""
    return eventually
