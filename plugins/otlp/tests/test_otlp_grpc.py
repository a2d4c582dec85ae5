"""Over gRPC: one call for each export, what became of it in words, and nothing lost behind an outage."""

from __future__ import annotations

import threading
import time
from concurrent import futures
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from opentelemetry._logs import LogRecord
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import (
    LogsServiceServicer,
    add_LogsServiceServicer_to_server,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import (
    MetricsServiceServicer,
    add_MetricsServiceServicer_to_server,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, TraceFlags

from esper_core.hooks import Secret
from esper_sink_otlp.config import OtlpConfig
from esper_sink_otlp.exporter import Exporter
from esper_sink_otlp.sender import Sender
from esper_sink_otlp.settings import QueueSettings, resolve
from esper_sink_otlp.spans import span_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def span(number: int) -> ReadableSpan:
    context = SpanContext(number + 1, number + 1, is_remote=False, trace_flags=TraceFlags(1))
    return ReadableSpan(name=f"span-{number}", context=context, resource=Resource({}), start_time=1, end_time=2)


def record(number: int) -> ReadableLogRecord:
    return ReadableLogRecord(LogRecord(timestamp=number, event_name="a", attributes={"b": 1}), resource=Resource({}))


@dataclass
class GrpcReceiver:
    """Answers as ``answer`` says: a status code, ``"ok"``, ``"hang"``; keeps span ids and records' times."""

    url: str = ""
    answer: Any = "ok"
    reject: int = 0
    calls: int = 0
    metadata: dict[str, Any] = field(default_factory=dict)
    kept: set[int] = field(default_factory=set)
    released: threading.Event = field(default_factory=threading.Event)

    def decide(self, context: grpc.ServicerContext) -> None:
        self.calls += 1
        self.metadata = dict(context.invocation_metadata())
        if self.answer == "hang":
            self.released.wait(250)
        elif self.answer != "ok":
            context.abort(self.answer, "as the test says")

    def export(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.decide(context)
        if hasattr(request, "resource_metrics"):
            return ExportMetricsServiceResponse()
        if hasattr(request, "resource_logs"):
            return self.export_logs(request)
        spans = [
            int.from_bytes(one.span_id, "big")
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for one in scope.spans
        ]
        self.kept.update(spans[self.reject :])
        made = ExportTraceServiceResponse()
        made.partial_success.rejected_spans = min(self.reject, len(spans))
        return made

    def export_logs(self, request: Any) -> Any:
        times = [
            one.time_unix_nano
            for resource in request.resource_logs
            for scope in resource.scope_logs
            for one in scope.log_records
        ]
        self.kept.update(times[self.reject :])
        made = ExportLogsServiceResponse()
        made.partial_success.rejected_log_records = min(self.reject, len(times))
        return made


@pytest.fixture
def server() -> Iterator[GrpcReceiver]:
    """Listens until the test ends."""
    found = GrpcReceiver()

    class Traces(TraceServiceServicer):
        Export = staticmethod(found.export)

    class Metrics(MetricsServiceServicer):
        Export = staticmethod(found.export)

    class Logs(LogsServiceServicer):
        Export = staticmethod(found.export)

    made = grpc.server(futures.ThreadPoolExecutor(4))
    add_TraceServiceServicer_to_server(Traces(), made)  # type: ignore[no-untyped-call]  # gRPC's generated code
    add_MetricsServiceServicer_to_server(Metrics(), made)  # type: ignore[no-untyped-call]  # gRPC's generated code
    add_LogsServiceServicer_to_server(Logs(), made)  # type: ignore[no-untyped-call]  # gRPC's generated code
    found.url = f"http://127.0.0.1:{made.add_insecure_port('127.0.0.1:0')}"
    made.start()
    yield found
    found.released.set()
    made.stop(0).wait(250)


def settings(url: str, signal: Any = "traces", **table: Any) -> Any:
    return resolve(OtlpConfig(protocol="grpc", endpoint=url, **{"timeout_s": 60.0, **table}), {}, signal)


def test_all_signals_arrive_with_their_headers(server: GrpcReceiver) -> None:
    for signal, payload in (("traces", [span(1)]), ("metrics", MetricsData([])), ("logs", [record(5)])):
        sender = Sender(settings(server.url, signal, headers={"X-Token": Secret("t")}), str)
        assert sender.send(payload, 60.0).ok
        sender.close()
        assert server.metadata["x-token"] == "t"
    assert server.kept == {2, 5}
    assert server.calls == 3


@pytest.mark.parametrize(
    ("code", "retryable", "words"),
    [
        (grpc.StatusCode.UNAVAILABLE, True, "is not available"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, True, "asks to slow down"),
        (grpc.StatusCode.UNAUTHENTICATED, True, "wants a token"),
        (grpc.StatusCode.PERMISSION_DENIED, True, "may not write"),
        (grpc.StatusCode.INVALID_ARGUMENT, False, "INVALID_ARGUMENT"),
        (grpc.StatusCode.INTERNAL, False, "INTERNAL"),
    ],
)
def test_one_call_for_each_export_and_its_cause(
    server: GrpcReceiver, code: grpc.StatusCode, retryable: bool, words: str
) -> None:
    server.answer = code
    sender = Sender(settings(server.url), str)
    answer = sender.send([span(1)], 60.0)
    sender.close()
    assert server.calls == 1
    assert (answer.ok, answer.code, answer.retryable) == (False, code.name, retryable)
    assert words in answer.cause


def test_a_silent_receiver_costs_the_time_that_is_left(server: GrpcReceiver) -> None:
    server.answer = "hang"
    sender = Sender(settings(server.url, timeout_s=250.0), str)
    answer = sender.send([span(1)], 0.3)
    sender.close()
    assert answer.code == "DEADLINE_EXCEEDED"
    assert answer.retryable
    assert answer.latency_s < 200


def test_closing_from_another_thread_ends_a_call(server: GrpcReceiver) -> None:
    server.answer = "hang"
    sender = Sender(settings(server.url, timeout_s=250.0), str)
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(sender.send([span(1)], 250.0)))
    thread.start()
    while not server.calls:
        time.sleep(0.01)
    sender.close()
    thread.join(250)
    assert not answers[0].ok


@pytest.mark.parametrize("answer", ["hang", grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED, "ok"])
def test_delivered_and_lost_add_up(server: GrpcReceiver, eventually: Callable[..., Any], answer: Any) -> None:
    server.answer = answer
    source = span_source(QueueSettings(queue_size=1000, batch_size=10, delay_s=0.01))
    exporter = Exporter(
        "traces",
        Sender(settings(server.url), str),
        source,
        timeout_s=60.0,
        batch_bytes=1 << 20,
        on_change=lambda _: None,
    )
    exporter.start()
    for number in range(40):
        source.put(span(number))
    assert eventually(lambda: server.calls)
    exporter.close(0.5)
    assert exporter.account.lost == 40 - len(server.kept)
    assert exporter.account.lost == (0 if answer == "ok" else 40)


def test_an_outage_costs_nothing(server: GrpcReceiver, eventually: Callable[..., Any]) -> None:
    server.answer = grpc.StatusCode.UNAVAILABLE
    source = span_source(QueueSettings(queue_size=1000, batch_size=10, delay_s=0.01))
    exporter = Exporter(
        "traces",
        Sender(settings(server.url), str),
        source,
        timeout_s=60.0,
        batch_bytes=1 << 20,
        on_change=lambda _: None,
    )
    exporter.start()
    for number in range(40):
        source.put(span(number))
    assert eventually(lambda: exporter.failures)
    server.answer = "ok"
    assert eventually(lambda: len(server.kept) == 40)
    assert exporter.close(250)
    assert exporter.account.lost == 0


@pytest.mark.parametrize(("signal", "make"), [("traces", span), ("logs", record)])
def test_partial_success_is_counted(server: GrpcReceiver, signal: str, make: Callable[[int], object]) -> None:
    server.reject = 3
    sender = Sender(settings(server.url, signal), str)
    answer = sender.send([make(number) for number in range(10)], 60.0)
    sender.close()
    assert answer.ok
    assert answer.rejected == 3
