"""How many trainers one Collector, and one ``esper sanctum --listen``, can take: simulated trainers over loopback.

Run it with otelcol and prometheus on PATH::

    python tests/benchmarks/fleet.py                          # 10, 100 and 1000 trainers, 20 s each, both targets
    python tests/benchmarks/fleet.py --trainers 100 --every 1 --seconds 30 --target gateway

Each trainer has a connection of its own (TLS and a token to the gateway) and sends, after every update, what the otlp
sink sends: one request with the iteration's three spans, one with every gauge, histogram and counter. The gateway runs
collector-config/gateway.yaml, with a real Prometheus behind it and a Collector that throws the kept traces away.
CPU is counted in seconds of the process, so that a busy machine does not change it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import pty
import resource
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource

from esper_core import ids
from esper_core.config.schema import OtelConfig
from esper_core.events import HeadStats, PPOUpdatePayload, SpanRef, TelemetryEvent, TraceRef
from esper_core.health import classify_kl
from esper_core.host.otel.played import ended_spans
from esper_core.instrumentation.sink import Instrumentation
from esper_core.semconv.gauges import gauge_points
from esper_sink_otlp.points import joined, of_process, without_event_gauges

if TYPE_CHECKING:
    from collections.abc import Iterator

    from esper_core.host.otel.resource import ResourceValue

CONFIG = Path(__file__).parents[2] / "collector-config"
TOKEN = "fleet"
HEADS = ("operations", "slot", "blueprint", "tempo", "tempo_offset")
STORE = """
receivers: {otlp: {protocols: {grpc: {endpoint: "127.0.0.1:%d"}}}}
exporters: {nop: {}}
extensions: {health_check: {endpoint: "127.0.0.1:%d"}}
service:
  extensions: [health_check]
  telemetry: {metrics: {level: none}}
  pipelines: {traces: {receivers: [otlp], exporters: [nop]}}
"""


# --- what a trainer sends -----------------------------------------------------------------------


def update_event(run_id: str, update_id: int, kl: float) -> TelemetryEvent[PPOUpdatePayload]:
    """An update as the default task measures it: five heads, everything filled in."""
    now = time.time_ns()
    trace, iteration, rollout, update = f"{ids.new_trace_id():032x}", *(f"{ids.new_span_id():016x}" for _ in range(3))
    heads = tuple(
        HeadStats(
            name=name,
            kl=kl * (index + 1) / 3,
            decisions=900 - 150 * index,
            weight=0.9 - 0.15 * index,
            share=0.2,
            entropy=0.8,
            entropy_normalised=0.6,
            clip_fraction=0.1,
        )
        for index, name in enumerate(HEADS)
    )
    payload = PPOUpdatePayload(
        update_id=update_id,
        env_steps=update_id * 1024,
        kl_divergence=kl,
        kl_joint=kl * 3,
        kl_first_minibatch=1e-8,
        kl_mean=kl / 2,
        kl_max=kl * 1.2,
        kl_last=kl,
        kl_by_epoch=(kl / 4, kl / 2, kl * 0.8, kl),
        target_kl=0.02,
        stop_threshold=0.03,
        stop_window=1,
        ratio_max=1.6,
        health=classify_kl(kl),
        heads=heads,
        epochs=4,
        epochs_planned=4,
        minibatches=16,
        minibatches_planned=16,
        steps=1000,
        steps_forced=24,
        policy_loss=-0.01,
        value_loss=0.5,
        entropy=3.1,
        entropy_normalised=0.6,
        clip_fraction=0.12,
        explained_variance=0.7,
        grad_norm=0.6,
        grad_norm_max=1.9,
        advantage_mean=0.01,
        advantage_std=1.1,
        learning_rate=3e-4,
        clip_range=0.2,
        episodes=8,
        return_mean=1.5,
        return_min=0.1,
        return_max=3.0,
        episode_length_mean=128.0,
        return_mean_100=1.4,
        rollout_s=3.0,
        update_s=1.0,
        steps_per_s=256.0,
    )
    spans = (
        SpanRef(name="esper.iteration", span_id=iteration, parent_span_id=None, start_ns=now - 4 * 10**9, end_ns=now),
        SpanRef(
            name="esper.rollout",
            span_id=rollout,
            parent_span_id=iteration,
            start_ns=now - 4 * 10**9,
            end_ns=now - 10**9,
        ),
        SpanRef(name="esper.ppo.update", span_id=update, parent_span_id=iteration, start_ns=now - 10**9, end_ns=now),
    )
    return TelemetryEvent(
        time_ns=now, run_id=run_id, attempt=1, rank=0, trace=TraceRef(trace_id=trace, spans=spans), payload=payload
    )


class Trainer:
    """One simulated trainer: its own resource, and requests made from templates, so that a thousand fit one process."""

    def __init__(self, number: int) -> None:
        self.run_id = f"fleet-{number:04d}"
        described: dict[str, ResourceValue] = {
            "service.name": "esper",
            "service.instance.id": f"{ids.new_trace_id():032x}",
            "esper.run.id": self.run_id,
            "esper.run.attempt": 1,
            "esper.rank": 0,
            "esper.run.environment": "morphogenesis",
            "host.name": f"h{number % 50}",
        }
        event = update_event(self.run_id, 1, 0.004)
        self._traces = encode_spans(ended_spans(event, described))
        self._spans = [
            span
            for resource_spans in self._traces.resource_spans
            for scope in resource_spans.scope_spans
            for span in scope.spans
        ]
        self._metrics = metrics_template(event, described)
        self._points = [
            (metric.name, point)
            for resource_metrics in self._metrics.resource_metrics
            for scope in resource_metrics.scope_metrics
            for metric in scope.metrics
            for point in getattr(metric, metric.WhichOneof("data")).data_points
        ]
        self.update = 0

    @property
    def points(self) -> int:
        """Metric points a request."""
        return len(self._points)

    def next(self) -> tuple[bytes, bytes]:
        """The two requests of the next update."""
        self.update += 1
        now = time.time_ns()
        trace = ids.new_trace_id().to_bytes(16)
        names = {span.name: ids.new_span_id().to_bytes(8) for span in self._spans}
        for span in self._spans:
            span.trace_id, span.span_id = trace, names[span.name]
            span.parent_span_id = b"" if span.name == "esper.iteration" else names["esper.iteration"]
            span.start_time_unix_nano, span.end_time_unix_nano = now - 10**9, now
            for event in span.events:
                event.time_unix_nano = now
        for name, point in self._points:
            point.time_unix_nano = now
            if name == "esper.run.heartbeat":
                point.as_double = now / 1e9
            elif name == "esper.ppo.last.update_id":
                point.as_int = self.update
        return self._traces.SerializeToString(), self._metrics.SerializeToString()


def metrics_template(event: TelemetryEvent[PPOUpdatePayload], described: dict[str, Any]) -> Any:
    """What one collection of a real trainer holds, encoded by the SDK and the sink's own code."""
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader], resource=Resource(described), shutdown_on_exit=False)
    instrumentation = Instrumentation(provider, config=OtelConfig())
    instrumentation.set_run_status(heartbeat_s=time.time(), progress_s=time.time())
    instrumentation.esper_event(event)
    data = reader.get_metrics_data()
    assert data is not None
    (collected,) = data.resource_metrics
    gauges = of_process(collected.resource, gauge_points(event))
    return encode_metrics(joined((without_event_gauges(collected), gauges)))


# --- the load -----------------------------------------------------------------------------------


@dataclass
class Load:
    """What was sent and how it was answered."""

    requests: int = 0
    spans: int = 0
    updates: int = 0
    bytes: int = 0
    refused: int = 0
    errors: int = 0
    late: int = 0
    latencies: list[float] = field(default_factory=list)


class Connection:
    """HTTP/1.1 kept open, as a trainer keeps it."""

    def __init__(self, port: int, context: ssl.SSLContext | None) -> None:
        self._port = port
        self._context = context
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: bytes) -> int:
        """Status of the answer."""
        if self._streams is None:
            name = "localhost" if self._context else None
            self._streams = await asyncio.open_connection(
                "127.0.0.1", self._port, ssl=self._context, server_hostname=name
            )
        reader, writer = self._streams
        try:
            writer.write(
                f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
                f"Content-Type: application/x-protobuf\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            await writer.drain()
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = next((line.split(":")[1] for line in head.split("\r\n") if line.startswith("content-length")), "0")
            await reader.readexactly(int(length))
        except (OSError, asyncio.IncompleteReadError):
            writer.close()
            self._streams = None
            raise
        return int(head.split(" ", 2)[1])


async def train(
    trainer: Trainer,
    port: int,
    context: ssl.SSLContext | None,
    *,
    every_s: float,
    begin: float,
    end: float,
    load: Load,
    metrics: bool,
) -> None:
    """One trainer's life: an update every so often, from its own moment on."""
    connection = Connection(port, context)
    due = begin
    while due < end:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        load.late += time.monotonic() - due > every_s
        for path, body in zip(("/v1/traces", "/v1/metrics"), trainer.next(), strict=True):
            if path == "/v1/metrics" and not metrics:
                continue
            began = time.monotonic()
            try:
                status = await connection.post(path, body)
            except (OSError, asyncio.IncompleteReadError):
                load.errors += 1
                continue
            load.latencies.append(time.monotonic() - began)
            load.requests += 1
            load.bytes += len(body)
            load.refused += status != 200
            if status == 200 and path == "/v1/traces":
                load.spans += 3
            elif status == 200:
                load.updates += 1
        due += every_s


async def play(
    trainers: list[Trainer], port: int, context: ssl.SSLContext | None, *, every_s: float, seconds: float, metrics: bool
) -> Load:
    """All trainers, spread evenly over the interval."""
    load = Load()
    start = time.monotonic() + 0.5
    await asyncio.gather(
        *(
            train(
                trainer,
                port,
                context,
                every_s=every_s,
                begin=start + every_s * index / len(trainers),
                end=start + seconds,
                load=load,
                metrics=metrics,
            )
            for index, trainer in enumerate(trainers)
        )
    )
    return load


# --- the programs -------------------------------------------------------------------------------


@dataclass
class Program:
    """A running program, and what it has used."""

    process: subprocess.Popen[bytes]

    def cpu_s(self) -> float:
        """CPU seconds so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_mib(self) -> float:
        """Resident memory now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS"))

    def stop(self) -> None:
        """End it."""
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.process.kill()


def ports(count: int) -> list[int]:
    """Free loopback ports."""
    with contextlib.ExitStack() as stack:
        return [stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(count)]


def start(argv: list[str], home: Path, ready: str, env: dict[str, str] | None = None) -> Program:
    """Start a program and wait until it answers."""
    log = (home / f"{Path(argv[0]).name}-{len(list(home.glob('*.log')))}.log").open("wb")
    program = Program(subprocess.Popen(argv, cwd=home, env=os.environ | (env or {}), stdout=log, stderr=log))
    until = time.monotonic() + 20
    while time.monotonic() < until:
        with contextlib.suppress(OSError), urllib.request.urlopen(ready, timeout=1):
            return program
        time.sleep(0.05)
    program.stop()
    raise SystemExit(f"{argv[0]} did not start: {Path(log.name).read_text()[-2000:]}")


def certificates(home: Path) -> None:
    """A key and a certificate that is its own authority."""
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-keyout",
            "key.pem",
            "-out",
            "cert.pem",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
        ],
        cwd=home,
        check=True,
        capture_output=True,
    )


def own_metric(port: int, name: str) -> float:
    """A sum over one of the Collector's own metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.split("{")[0] in {name, f"{name}_total"})


@dataclass
class Figures:
    """One row of the table."""

    trainers: int
    load: Load
    seconds: float
    cpu_s: float
    rss_mib: float
    lost_spans: float
    lost_updates: float
    beside: str = ""

    def row(self) -> str:
        """The row."""
        millis = sorted(1000 * item for item in self.load.latencies) or [0.0]
        return (
            f"{self.trainers:>8}  {self.load.updates or self.load.spans / 3:>7.0f}  "
            f"{self.load.requests / self.seconds:>7.0f}  {self.load.bytes / self.seconds / 1e6:>6.2f}  "
            f"{self.cpu_s / self.seconds:>9.3f}  {self.rss_mib:>7.0f}  {statistics.median(millis):>6.1f}  "
            f"{millis[int(len(millis) * 0.99)]:>6.1f}  {self.load.refused + self.load.errors:>7}  "
            f"{self.lost_spans:>10.0f}  {self.lost_updates:>12.0f}  {self.beside}"
        )


HEAD = (
    f"{'trainers':>8}  {'updates':>7}  {'req/s':>7}  {'MB/s':>6}  {'CPU cores':>9}  {'RSS MiB':>7}  {'p50 ms':>6}  "
    f"{'p99 ms':>6}  {'refused':>7}  {'lost spans':>10}  {'lost updates':>12}"
)


def gateway(count: int, every_s: float, seconds: float) -> Figures:
    """One gateway, a Prometheus and a trace store, and so many trainers."""
    with tempfile.TemporaryDirectory(prefix="esper-fleet-") as folder, contextlib.ExitStack() as stack:
        home = Path(folder)
        certificates(home)
        store_port, store_health, prom, grpc, http, health, own = ports(7)
        (home / "store.yaml").write_text(STORE % (store_port, store_health))
        otelcol = shutil.which("otelcol") or "otelcol"
        store = start([otelcol, "--config=store.yaml"], home, f"http://127.0.0.1:{store_health}")
        stack.callback(store.stop)
        prometheus = start(
            [
                shutil.which("prometheus") or "prometheus",
                f"--config.file={CONFIG / 'prometheus' / 'prometheus.yml'}",
                f"--storage.tsdb.path={home / 'data'}",
                f"--web.listen-address=127.0.0.1:{prom}",
                "--web.enable-otlp-receiver",
                "--enable-feature=exemplar-storage",
            ],
            home,
            f"http://127.0.0.1:{prom}/-/ready",
        )
        stack.callback(prometheus.stop)
        collector = start(
            [otelcol, f"--config={CONFIG / 'gateway.yaml'}"],
            home,
            f"http://127.0.0.1:{health}",
            {
                "ESPER_OTLP_GRPC": f"127.0.0.1:{grpc}",
                "ESPER_OTLP_HTTP": f"127.0.0.1:{http}",
                "ESPER_HEALTH": f"127.0.0.1:{health}",
                "ESPER_COLLECTOR_METRICS_PORT": str(own),
                "ESPER_STORAGE": str(home / "queue"),
                "ESPER_TLS_CERT": str(home / "cert.pem"),
                "ESPER_TLS_KEY": str(home / "key.pem"),
                "ESPER_GATEWAY_TOKEN": TOKEN,
                "ESPER_TRACES": f"127.0.0.1:{store_port}",
                "ESPER_PROMETHEUS": f"http://127.0.0.1:{prom}/api/v1/otlp/v1/metrics",
            },
        )
        stack.callback(collector.stop)
        trainers = [Trainer(number) for number in range(count)]
        context = ssl.create_default_context(cafile=str(home / "cert.pem"))
        before = collector.cpu_s(), prometheus.cpu_s()
        load = asyncio.run(play(trainers, http, context, every_s=every_s, seconds=seconds, metrics=True))
        used = collector.cpu_s() - before[0], prometheus.cpu_s() - before[1]
        memory = collector.rss_mib()
        accepted = own_metric(own, "otelcol_receiver_accepted_spans")
        query = urllib.parse.urlencode({"query": "sum(count_over_time(esper_ppo_last_update_id[1h]))"})
        stored = 0.0
        for _ in range(40):
            with urllib.request.urlopen(f"http://127.0.0.1:{prom}/api/v1/query?{query}", timeout=10) as answer:
                found = json.load(answer)["data"]["result"]
            stored = float(found[0]["value"][1]) if found else 0.0
            if stored >= load.updates:
                break
            time.sleep(0.5)
        beside = (
            f"{trainers[0].points} points a request; Prometheus {used[1] / seconds:.3f} cores, "
            f"{prometheus.rss_mib():.0f} MiB"
        )
        return Figures(count, load, seconds, used[0], memory, load.spans - accepted, load.updates - stored, beside)


def sanctum(count: int, every_s: float, seconds: float) -> Figures:
    """One ``esper sanctum --listen`` on a terminal of its own, and so many trainers."""
    (port,) = ports(1)
    main, other = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "esper_core", "sanctum", "--listen", f"127.0.0.1:{port}", "--token", TOKEN],
        stdin=other,
        stdout=other,
        stderr=other,
        env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "160", "LINES": "45"},
        start_new_session=True,
    )
    os.close(other)
    screen = bytearray()
    reader = threading.Thread(target=lambda: screen.extend(b"".join(_drain(main))), daemon=True)
    reader.start()
    program = Program(process)
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.1)
        time.sleep(1.0)
        before = program.cpu_s()
        trainers = [Trainer(number) for number in range(count)]
        load = asyncio.run(play(trainers, port, None, every_s=every_s, seconds=seconds, metrics=False))
        used, memory = program.cpu_s() - before, program.rss_mib()
        lost = 3 * sum(trainer.update for trainer in trainers) - load.spans
        return Figures(count, load, seconds, used, memory, lost, 0, "traces alone")
    finally:
        program.stop()


def _drain(file: int) -> Iterator[bytes]:
    """Read a terminal so that nobody waits for it; keep nothing."""
    with contextlib.suppress(OSError):
        while os.read(file, 65536):
            yield b""


def main() -> None:
    """Run and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainers", default="10,100,1000", help="how many, separated by commas")
    parser.add_argument(
        "--every", type=float, default=5.0, metavar="S", help="seconds between two updates of a trainer"
    )
    parser.add_argument("--seconds", type=float, default=20.0, metavar="S", help="how long each measurement is")
    parser.add_argument("--target", choices=("gateway", "sanctum", "both"), default="both")
    options = parser.parse_args()
    counts = [int(item) for item in options.trainers.split(",")]
    if max(counts) > 2000 or options.seconds > 120:
        parser.error("at most 2000 trainers and 120 s: this is a benchmark of one machine")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 8192), hard), hard))
    for name, target in (("gateway", gateway), ("sanctum", sanctum)):
        if options.target not in {name, "both"}:
            continue
        print(f"\n{name}: an update every {options.every:g} s, {options.seconds:g} s\n{HEAD}", flush=True)
        for count in counts:
            print(target(count, options.every, options.seconds).row(), flush=True)


if __name__ == "__main__":
    main()
