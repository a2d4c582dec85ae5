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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fleet_load import TOKEN, Load, play
from fleet_programs import Program, certificates, own_metric, ports, start
from fleet_trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIG = Path(__file__).parents[2] / "collector-config"
STORE = """
receivers: {otlp: {protocols: {grpc: {endpoint: "127.0.0.1:%d"}}}}
exporters: {nop: {}}
extensions: {health_check: {endpoint: "127.0.0.1:%d"}}
service:
  extensions: [health_check]
  telemetry: {metrics: {level: none}}
  pipelines: {traces: {receivers: [otlp], exporters: [nop]}}
"""


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
