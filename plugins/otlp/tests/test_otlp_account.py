"""Whatever the receiver does: delivered + lost == emitted, by the receiver's own count and the journal's.

``--account-table`` prints the figures of each plan.

The rule: an item is delivered when the receiver acknowledged it before the end, and lost otherwise. Where nobody can
know (a request read and then reset, an answer that comes after the deadline) it counts as lost, so that the receiver
may have more than the account says, and never less.
"""

from __future__ import annotations

import gzip
import random
import re
import socket
import struct
import threading
import time
from contextlib import suppress
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

from esper_core.config.schema import EsperConfig, OtelConfig, RunConfig
from esper_core.events import PPOUpdatePayload, RunStarted
from esper_core.host.session import Session
from esper_core.reading import open_run
from esper_core.runs import create_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SIGNALS = ("traces", "metrics", "logs")
STEPS = ("ok", "hang", "503", "429", "401", "404", "slow", "reset unread", "reset read", "partial")


@dataclass
class Plan:
    """What a receiver does to request after request, and how long the sink has at the end.

    Attributes:
        steps: for each request in turn; then ``then`` for ever.
        then: for every request after them.
        opens_s: nobody listens before this many seconds have passed.
        back_s: the steps end this long after the start, however many are left: the receiver is back.
        close_s: the sink's deadline at the end.
        host_s: the host's, of the whole run; by default long after the sink's.
        updates: PPO updates emitted, 20 ms apart.
    """

    steps: tuple[str, ...] = ()
    then: str = "ok"
    opens_s: float = 0.0
    back_s: float = 1e9
    close_s: float = 1.0
    host_s: float = 1000.0
    updates: int = 30


@dataclass
class Faulty:
    """A real HTTP receiver with a plan. It counts ids: of spans; times of updates' KL points; span and epoch of logs.

    Attributes:
        kept: ids it has.
        certain: when each was acknowledged without any fault, monotonic seconds.
    """

    plan: Plan
    kept: set[tuple[str, int]] = field(default_factory=set)
    certain: dict[tuple[str, int], float] = field(default_factory=dict)
    released: threading.Event = field(default_factory=threading.Event)
    began: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _seen: int = 0

    def step(self) -> str:
        with self._lock:
            self._seen += 1
            if time.monotonic() - self.began > self.plan.back_s or self._seen > len(self.plan.steps):
                return "ok" if time.monotonic() - self.began > self.plan.back_s else self.plan.then
            return self.plan.steps[self._seen - 1]

    def keep(self, ids: list[tuple[str, int]], *, certain: bool) -> None:
        with self._lock:
            self.kept.update(ids)
            if certain:
                self.certain.update((one, time.monotonic()) for one in ids if one not in self.certain)


def ids_of(path: str, body: bytes) -> list[tuple[str, int]]:
    if path.endswith("traces"):
        traces = ExportTraceServiceRequest.FromString(body)
        return [
            ("span", int.from_bytes(span.span_id, "big"))
            for resource in traces.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
    if path.endswith("logs"):
        logs = ExportLogsServiceRequest.FromString(body)
        return [
            ("log", log_id(record.span_id.hex(), epoch_of(record)))
            for resource in logs.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]
    metrics = ExportMetricsServiceRequest.FromString(body)
    return [
        ("update", point.time_unix_nano)
        for resource in metrics.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == "esper.ppo.last.kl_divergence"
        for point in metric.gauge.data_points
    ]


def log_id(span_id: str, epoch: int) -> int:
    """A log record has no id of its own; an update has one for each epoch."""
    return int(span_id, 16) * 100 + epoch


def wire(message: Any) -> bytes:
    body: bytes = message.SerializeToString()
    return body


def epoch_of(record: Any) -> int:
    assert record.event_name == "esper.ppo.kl"
    epoch: int = next(item.value.int_value for item in record.attributes if item.key == "esper.ppo.kl.epoch")
    return epoch


class Handler(BaseHTTPRequestHandler):
    """Does what the plan's step says."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        step = self.server.faulty.step()
        if step == "reset unread":
            self.reset()
            return
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.take(step, ids_of(self.path, body))

    def take(self, step: str, ids: list[tuple[str, int]]) -> None:
        faulty = self.server.faulty
        if step == "hang":
            faulty.released.wait(250)
            self.close_connection = True
        elif step == "reset read":
            faulty.keep(ids, certain=False)
            self.reset()
        elif step == "slow":
            faulty.released.wait(0.4)
            faulty.keep(ids, certain=False)
            self.answer(200)
        elif step in {"ok", "partial"}:
            taken = ids if step == "ok" else ids[1:]
            faulty.keep(taken, certain=True)
            self.answer(200, self.partial(len(ids) - len(taken)))
        else:
            self.answer(int(step))

    def partial(self, rejected: int) -> bytes:
        if self.path.endswith("traces"):
            spans = ExportTraceServiceResponse()
            spans.partial_success.rejected_spans = rejected
            return wire(spans)
        if self.path.endswith("logs"):
            logs = ExportLogsServiceResponse()
            logs.partial_success.rejected_log_records = rejected
            return wire(logs)
        points = ExportMetricsServiceResponse()
        points.partial_success.rejected_data_points = rejected
        return wire(points)

    def answer(self, status: int, content: bytes = b"") -> None:
        with suppress(OSError):  # the sink has gone
            self.send_response(status)
            if status == 429:
                self.send_header("retry-after", "0.3")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def finish(self) -> None:
        with suppress(OSError, ValueError):
            super().finish()

    def log_message(self, *arguments: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, faulty: Faulty) -> None:
        super().__init__(("127.0.0.1", 0), Handler, bind_and_activate=False)
        self.faulty = faulty

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that ends in the middle is the plan."""

    def shutdown_request(self, request: Any) -> None:
        with suppress(OSError):
            super().shutdown_request(request)


@pytest.fixture
def serve() -> Iterator[Any]:
    """Starts a receiver with a plan: ``serve(plan) -> (Faulty, url)``."""
    ends: list[Any] = []

    def start(plan: Plan) -> tuple[Faulty, str]:
        faulty = Faulty(plan)
        server = Server(faulty)
        server.server_bind()  # nobody listens yet: connections are refused

        opened = threading.Event()

        def listen() -> None:
            if not faulty.released.wait(plan.opens_s):
                server.server_activate()
                opened.set()
                server.serve_forever(0.02)

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        ends.append((faulty, server, thread, opened))
        return faulty, f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for faulty, server, thread, opened in ends:
        faulty.released.set()
        # A run may end before its receiver was to open. Then nobody serves, and shutdown() would wait for ever.
        while thread.is_alive() and not opened.wait(0.02):
            pass
        if opened.is_set():
            server.shutdown()
        server.server_close()
        thread.join(250)


@dataclass
class Outcome:
    """What the journal says was emitted, by signal, and what the run's report says was lost.

    Attributes:
        emitted: ids, by signal.
        delivered: how many items the sink's line in the log calls sent, by signal.
        lost: items that the report calls lost, of all signals, by the sink or by the host in front of it.
        closing_at: monotonic seconds at which the end began.
        close_s: how long it took.
    """

    emitted: dict[str, set[tuple[str, int]]]
    delivered: dict[str, int]
    lost: int
    closing_at: float
    close_s: float


def train(base: Path, urls: dict[str, str], plan: Plan) -> Outcome:
    """A run whose signals go to a receiver each, or all to one."""
    table = {
        **{f"{signal}_endpoint": f"{url}/v1/{signal}" for signal, url in urls.items()},
        "signals": tuple(urls),
        "delay_s": 0.05,
        "update_interval_s": 0.05,
        "interval_s": 0.2,
        "batch_size": 20,
        "timeout_s": 5.0,
        "close_timeout_s": plan.close_s,
    }
    config = EsperConfig(
        sinks=("journal", "otlp"),
        sink={"otlp": table},
        run=RunConfig(close_timeout_s=plan.host_s),
        otel=OtelConfig(events="log"),
    )
    with Session(config, run=create_run(base), install_signal_handlers=False) as session:
        session.emitter.emit_run_started(RunStarted(environment="toy"))
        for number in range(1, plan.updates + 1):
            session.emitter.begin_rollout(number)
            session.emitter.begin_update(number)
            session.emitter.emit_ppo_update(
                PPOUpdatePayload(update_id=number, kl_divergence=0.01, kl_joint=0.01, kl_by_epoch=(0.005, 0.01))
            )
            time.sleep(0.02)
        closing_at = time.monotonic()
    assert session.run is not None
    reports = [item for item in session.report.sinks if item.name.partition("/")[0] == "otlp"]
    assert plan.host_s < plan.close_s or not any(item.cut_off for item in reports)
    emitted: dict[str, set[tuple[str, int]]] = {signal: set() for signal in SIGNALS}
    for event in open_run(str(session.run.path)).events():
        emitted["traces"] |= {("span", int(span.span_id, 16)) for span in event.trace.spans}
        if event.kind == "ppo_updated":
            emitted["metrics"].add(("update", event.time_ns))
            emitted["logs"] |= {("log", log_id(event.trace.own.span_id, epoch)) for epoch in (1, 2)}
    told = dict(re.findall(r"(traces|metrics|logs): (\d+) sent in", session.run.log_path.read_text()))
    delivered = {signal: int(told[signal]) for signal in SIGNALS}
    return Outcome(emitted, delivered, sum(item.lost for item in reports), closing_at, session.report.close_s)


def check(faulty: Faulty, plan: Plan, outcome: Outcome, *signals: str) -> None:
    """What the sink calls delivered lies between what was surely acknowledged and what the receiver has.

    Together with the report's loss it is what was emitted, of all signals.
    """
    assert sum(outcome.delivered.values()) + outcome.lost == sum(map(len, outcome.emitted.values()))
    emitted = set[tuple[str, int]]().union(*(outcome.emitted[signal] for signal in signals))
    delivered = sum(outcome.delivered[signal] for signal in signals)
    assert faulty.kept <= emitted
    if outcome.close_s < min(plan.close_s, plan.host_s):  # the sink ended by itself, and so has read every answer
        certain = len(faulty.certain)
    else:
        certain = sum(moment < outcome.closing_at - 0.2 for moment in faulty.certain.values())
    words = f"emitted {len(emitted)}, delivered {delivered}, receiver {len(faulty.kept)}, certain {certain}"
    assert certain <= delivered <= len(faulty.kept), words
    if plan.then in {"404", "partial"} or {"404", "partial", "hang"} & set(plan.steps):
        return
    if delivered == len(emitted):
        assert faulty.kept == emitted


NAMED = {
    "nothing is wrong": Plan(),
    "nobody listens": Plan(opens_s=1e6),
    "nobody listens at first": Plan(opens_s=0.4),
    "it hangs": Plan(then="hang"),
    "it hangs once": Plan(steps=("hang",), close_s=0.5),
    "503": Plan(then="503"),
    "503, and back shortly before the end": Plan(then="503", back_s=0.5),
    "503, and back during the end": Plan(then="503", back_s=0.8, close_s=2.5),
    "429 with Retry-After": Plan(steps=("429", "429", "ok", "429")),
    "a wrong token": Plan(then="401"),
    "no such path": Plan(then="404"),
    "slow": Plan(then="slow"),
    "slow, and no time at the end": Plan(then="slow", close_s=0.1),
    "reset before it was read": Plan(steps=("reset unread", "ok", "reset unread", "reset unread")),
    "read, then reset": Plan(steps=("reset read", "reset read", "ok", "reset read")),
    "read, then reset, always": Plan(then="reset read"),
    "partial success": Plan(then="partial"),
    "no time at all at the end": Plan(close_s=0.001),
    "it hangs, and the host cuts the sink off": Plan(then="hang", close_s=200.0, host_s=0.2),
    "503, and the host cuts the sink off at once": Plan(then="503", close_s=200.0, host_s=0.001),
}


@pytest.mark.parametrize("name", NAMED)
def test_what_is_emitted_is_delivered_or_lost(
    serve: Any, tmp_path: Path, record_property: Callable[[str, object], None], name: str
) -> None:
    """Each signal has a receiver of its own, all with the same plan."""
    plan = NAMED[name]
    receivers = {signal: serve(plan) for signal in SIGNALS}
    outcome = train(tmp_path, {signal: url for signal, (_, url) in receivers.items()}, plan)
    rows = [
        [name, signal, (emitted := len(outcome.emitted[signal])), len(faulty.kept), emitted - outcome.delivered[signal]]
        for signal, (faulty, _) in receivers.items()
    ]
    record_property("account", rows)
    for signal, (faulty, _) in receivers.items():
        check(faulty, plan, outcome, signal)


@pytest.mark.parametrize("seed", range(12))
def test_any_plan_adds_up(serve: Any, tmp_path: Path, seed: int) -> None:
    """All signals at once, faults in any order, the deadline anywhere."""
    draw = random.Random(seed)
    plan = Plan(
        steps=tuple(draw.choice(STEPS) for _ in range(draw.randrange(12))),
        then=draw.choice(("ok", *STEPS)),
        opens_s=draw.choice((0.0, 0.0, 0.3)),
        back_s=draw.choice((0.4, 0.7, 1e9)),
        close_s=draw.choice((0.01, 0.3, 1.0)),
        updates=draw.randrange(5, 40),
        host_s=draw.choice((1000.0, 1000.0, 0.1)),
    )
    faulty, url = serve(plan)
    check(faulty, plan, train(tmp_path, dict.fromkeys(SIGNALS, url), plan), *SIGNALS)


def test_spans_that_are_being_encoded_when_time_is_over_are_counted(serve: Any, tmp_path: Path) -> None:
    """906 of 906 were lost once, and the summary said nothing: they had been taken and not yet sent."""
    plan = Plan(close_s=0.01, updates=200)
    faulty, url = serve(plan)
    table: dict[str, Any] = {"signals": ["traces"], "delay_s": 1000.0, "batch_size": 2000, "batch_bytes": 99_000_000}
    config = EsperConfig(
        sinks=("journal", "otlp"), sink={"otlp": {**table, "endpoint": url, "close_timeout_s": plan.close_s}}
    )
    with Session(config, run=create_run(tmp_path), install_signal_handlers=False) as session:
        for number in range(1, plan.updates + 1):
            session.emitter.emit_ppo_update(PPOUpdatePayload(update_id=number, kl_divergence=0.01))
    assert session.run is not None
    emitted = sum(len(event.trace.spans) for event in open_run(str(session.run.path)).events())
    lost = next(item for item in session.report.sinks if item.name == "otlp").lost
    assert emitted - lost <= len(faulty.kept)
    assert lost + len(faulty.kept) >= emitted
