"""Starts the real otelcol, prometheus and jaeger for one test: free loopback ports, own directories, bounded waits.

A program that is not on PATH skips the test with the reason; under ``CI=true`` it fails, so that CI cannot quietly
stop testing what it promises. Nothing here knows where programs come from.
"""

from __future__ import annotations

import contextlib
import gzip
import http.client
import importlib.util
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONFIG = Path(__file__).parents[3] / "collector-config"
READY_S = 250.0
_NOT_YET = (OSError, http.client.HTTPException)
"""What a server may do that has not begun, or is ending: refuse, reset, or answer half a line."""


def require(program: str) -> str:
    """Path of a program, or a skip that says what is missing; a failure in CI."""
    found = shutil.which(program)
    if found is None:
        reason = f"{program} is not on PATH (collector-config/README.md says where to get it)"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return found


def free_ports(count: int) -> list[int]:
    """Free loopback ports; all are bound while they are chosen, so that they differ.

    By chance from those that no system gives out by itself: a port from the ephemeral range may be some client's, or
    some other test's port 0, before the program that is told of it listens.
    """
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        while len(found) < count:
            port = _chance.randrange(*_NOT_EPHEMERAL)
            with contextlib.suppress(OSError):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
                found.append(port)
    return found


_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 4
_NOT_EPHEMERAL = (12_000 + 5_000 * _worker, 17_000 + 5_000 * _worker)
"""Each of four workers has its own: a server that is away for a while has its port back when it returns."""
_chance = random.SystemRandom()


def get_json(url: str, timeout_s: float = READY_S) -> Any:
    """A JSON document; an HTTP error has its text in it."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{url}: {error.code} {error.read()[:500].decode()}") from error


def wait_for(check: Callable[[], Any], what: str, timeout_s: float = READY_S, every_s: float = 0.05) -> Any:
    """Poll until ``check`` returns something true; the last error or value is in the failure."""
    until = time.monotonic() + timeout_s
    last: object = None
    while time.monotonic() < until:
        try:
            last = check()
        except (*_NOT_YET, AssertionError) as error:
            last = error
        else:
            if last:
                return last
        time.sleep(every_s)
    pytest.fail(f"waited {timeout_s:g} s for {what}, which did not happen; last: {last!r}", pytrace=False)


@dataclass
class Program:
    """A running program with its own directory and log."""

    name: str
    argv: list[str]
    home: Path
    ready_url: str
    env: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.home / f"{self.name}.log"

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.argv,
                cwd=self.home,
                env={**os.environ, **self.env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        until = time.monotonic() + READY_S
        while time.monotonic() < until:
            if self.process.poll() is not None:
                pytest.fail(f"{self.name} ended with {self.process.returncode}:\n{self.tail()}", pytrace=False)
            with contextlib.suppress(*_NOT_YET), urllib.request.urlopen(self.ready_url, timeout=1) as answer:
                if answer.status == 200:
                    return
            time.sleep(0.05)
        pytest.fail(f"{self.name} was not ready within {READY_S:g} s:\n{self.tail()}", pytrace=False)

    def tail(self, lines: int = 30) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self) -> None:
        """End it in order: it sends what it holds."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash does."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(number)
        try:
            self.process.wait(READY_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(READY_S)

    def rss_mib(self) -> float:
        """Resident memory now."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS"))

    def cpu_s(self) -> float:
        """CPU seconds so far."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass
class Collector(Program):
    """An otelcol that runs one of the repository's files, or one of the test's own."""

    grpc: int = 0
    http: int = 0
    metrics: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http}"

    def own_metric(self, name: str, **labels: str) -> float:
        """Sum over the series of one of its own metrics; 0 when there is none yet."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=READY_S) as answer:
            text = answer.read().decode()
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        return sum(
            float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if line.split("{")[0].split(" ")[0] in {name, f"{name}_total"} and all(item in line for item in wanted)
        )


@dataclass
class Prometheus(Program):
    """A real Prometheus with the repository's configuration."""

    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def otlp(self) -> str:
        return f"{self.url}/api/v1/otlp/v1/metrics"

    def query(self, promql: str, at: float | None = None) -> list[dict[str, Any]]:
        """An instant query's series."""
        parameters = {"query": promql, **({} if at is None else {"time": str(at)})}
        return self._result("query", parameters)

    def points(self, promql: str, start: float, end: float) -> list[tuple[float, float]]:
        """The raw samples of all series of a selector, by time (a range selector returns them as stored)."""
        seconds = max(1, int(end - start) + 1)
        found = self.query(f"{promql}[{seconds}s]", at=end)
        return sorted((float(when), float(value)) for series in found for when, value in series["values"])

    def range(self, promql: str, start: float, end: float, step: float = 1.0) -> list[dict[str, Any]]:
        return self._result("query_range", {"query": promql, "start": str(start), "end": str(end), "step": str(step)})

    def api(self, path: str, **parameters: str) -> Any:
        return get_json(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}")["data"]

    def _result(self, kind: str, parameters: dict[str, str]) -> list[dict[str, Any]]:
        data = self.api(kind, **parameters)
        result: list[dict[str, Any]] = data["result"]
        return result


@dataclass
class Jaeger(Program):
    """A real Jaeger, all in memory."""

    grpc: int = 0
    port: int = 0

    def trace(self, trace_id: str) -> dict[str, Any] | None:
        """One trace, or None when Jaeger has no such trace."""
        try:
            found = get_json(f"http://127.0.0.1:{self.port}/api/traces/{trace_id}")["data"]
        except AssertionError:
            return None
        return found[0] if found else None

    def traces(self, service: str, limit: int = 2000) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = get_json(
            f"http://127.0.0.1:{self.port}/api/traces?service={service}&limit={limit}&lookback=2d"
        )["data"]
        return found or []


class Stage:
    """Starts programs for one test and ends them all."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.programs: list[Program] = []

    def directory(self, name: str) -> Path:
        """A fresh directory; the second of a name gets a number."""
        for number in range(100):
            path = self.home / (f"{name}-{number}" if number else name)
            if not path.exists():
                path.mkdir(parents=True)
                return path
        raise AssertionError(name)

    def collector(
        self, config: Path | str, *more: Path | str, name: str = "otelcol", start: bool = True, **env: str
    ) -> Collector:
        """An otelcol on free ports. A file of the repository by path; YAML text becomes a file of the test's own."""
        binary = require("otelcol")
        home = self.directory(name)
        files = [item if isinstance(item, Path) else self._written(home, item) for item in (config, *more)]
        grpc, http, health, metrics = free_ports(4)
        program = Collector(
            name=name,
            argv=[binary, *(f"--config={path}" for path in files)],
            home=home,
            ready_url=f"http://127.0.0.1:{health}",
            env={
                "ESPER_OTLP_GRPC": f"127.0.0.1:{grpc}",
                "ESPER_OTLP_HTTP": f"127.0.0.1:{http}",
                "ESPER_HEALTH": f"127.0.0.1:{health}",
                "ESPER_COLLECTOR_METRICS_PORT": str(metrics),
                "ESPER_STORAGE": str(home / "storage"),
                **env,
            },
            grpc=grpc,
            http=http,
            metrics=metrics,
        )
        return self._begun(program, start=start)

    def prometheus(self, *, flags: tuple[str, ...] = (), config: str | None = None) -> Prometheus:
        """A Prometheus with ``collector-config/prometheus/prometheus.yml`` and its rules, or with a given config."""
        binary = require("prometheus")
        home = self.directory("prometheus")
        (port,) = free_ports(1)
        file = CONFIG / "prometheus" / "prometheus.yml" if config is None else self._written(home, config)
        program = Prometheus(
            name="prometheus",
            argv=[
                binary,
                f"--config.file={file}",
                f"--storage.tsdb.path={home / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--web.enable-otlp-receiver",
                "--enable-feature=exemplar-storage",
                *flags,
            ],
            home=home,
            ready_url=f"http://127.0.0.1:{port}/-/ready",
            port=port,
        )
        return self._begun(program)

    def jaeger(self) -> Jaeger:
        binary = require("jaeger")
        home = self.directory("jaeger")
        health, http, grpc_api, grpc, otlp_http = free_ports(5)
        config = self._written(
            home,
            f"""
service:
  extensions: [jaeger_storage, jaeger_query, healthcheckv2]
  telemetry: {{metrics: {{level: none}}}}
  pipelines:
    traces: {{receivers: [otlp], exporters: [jaeger_storage_exporter]}}
extensions:
  healthcheckv2: {{use_v2: true, http: {{endpoint: 127.0.0.1:{health}}}}}
  jaeger_storage: {{backends: {{mem: {{memory: {{max_traces: 100000}}}}}}}}
  jaeger_query:
    storage: {{traces: mem}}
    http: {{endpoint: 127.0.0.1:{http}}}
    grpc: {{endpoint: 127.0.0.1:{grpc_api}}}
receivers:
  otlp:
    protocols:
      grpc: {{endpoint: 127.0.0.1:{grpc}}}
      http: {{endpoint: 127.0.0.1:{otlp_http}}}
exporters:
  jaeger_storage_exporter: {{trace_storage: mem}}
""",
        )
        program = Jaeger(
            name="jaeger",
            argv=[binary, f"--config={config}"],
            home=home,
            ready_url=f"http://127.0.0.1:{health}/status",
            grpc=grpc,
            port=http,
        )
        return self._begun(program)

    def close(self) -> None:
        """End all, the ones that send before the ones that receive."""
        for program in reversed(self.programs):
            program.kill()

    def _begun(self, program: Any, *, start: bool = True) -> Any:
        self.programs.append(program)
        if start:
            program.start()
        return program

    @staticmethod
    def _written(home: Path, text: str) -> Path:
        path = home / f"config-{len(list(home.glob('config-*')))}.yaml"
        path.write_text(text)
        return path


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Starts real programs; ends them with the test."""
    found = Stage(tmp_path / "stage")
    yield found
    found.close()


NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True)
class Certificates:
    """An authority, and a certificate for localhost and 127.0.0.1 that it signed, as PEM files."""

    ca: Path
    cert: Path
    key: Path

    def another(self, home: Path) -> Certificates:
        """A further certificate for the same names by the same authority, in a folder of its own."""
        home.mkdir(parents=True)
        return _signed(home, self.ca)


def _openssl(home: Path, *arguments: str) -> None:
    subprocess.run([require("openssl"), *arguments], cwd=home, check=True, capture_output=True, timeout=250)


def new_authority(home: Path) -> Certificates:
    """An authority of its own, with a certificate."""
    home.mkdir(parents=True, exist_ok=True)
    _openssl(
        *(home, "req", "-x509", *NEW_KEY, "-keyout", "ca.key", "-out", "ca.pem"),
        *("-days", "2", "-subj", f"/CN=test authority {home.name}"),
    )
    return _signed(home, home / "ca.pem")


def _signed(home: Path, ca: Path) -> Certificates:
    _openssl(home, "req", *NEW_KEY, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    (home / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    _openssl(
        *(home, "x509", "-req", "-in", "server.csr", "-CA", str(ca), "-CAkey", str(ca.with_suffix(".key"))),
        *("-CAcreateserial", "-out", "server.pem", "-days", "2", "-extfile", "names"),
    )
    return Certificates(ca=ca, cert=home / "server.pem", key=home / "server.key")


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Made once, with the openssl command."""
    return new_authority(tmp_path_factory.mktemp("certificates"))


# --- runs to send -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Played:
    """A run that was emitted here, through the host, with the sinks of a real one."""

    path: Path
    report: Any
    seconds: float

    def events(self) -> list[Any]:
        from esper_core.reading import open_run

        return list(open_run(str(self.path)).events())

    def updates(self) -> list[Any]:
        return [event for event in self.events() if event.kind == "ppo_updated"]


def play(
    base: Path,
    otlp: dict[str, Any] | None,
    updates: int,
    *,
    pause_s: float = 0.0,
    kl: Callable[[int], float] = lambda _: 0.004,
    between: Callable[[int], None] = lambda _: None,
    inside_update: Callable[[int], None] = lambda _: None,
    clock_ns: Callable[[], int] = time.time_ns,
    events: Any = "span",
) -> Played:
    """Emit a run of two heads through a Session with journal and otlp; its KL is ``kl(update)``.

    Args:
        base: where runs live.
        otlp: ``[sink.otlp]``; None leaves the sink out.
        updates: how many.
        pause_s: between two updates.
        kl: KL of an update, by its number.
        between: called before each update.
        inside_update: called between rollout and the update's end.
        clock_ns: the emitter's clock, for runs of long ago.
        events: ``[otel] events``.
    """
    from esper_core.config.schema import EsperConfig, OtelConfig, RunConfig
    from esper_core.events import HeadStats, PPOUpdatePayload, RunStarted
    from esper_core.health import classify_kl
    from esper_core.host.session import Session
    from esper_core.runs.creation import create_run

    quick = {"delay_s": 0.1, "update_interval_s": 0.1, "interval_s": 0.5, "close_timeout_s": READY_S / 2}
    table = {"otlp": {**quick, **otlp}} if otlp is not None else {}
    config = EsperConfig(
        sinks=("journal", *table),
        sink=table,
        otel=OtelConfig(events=events),
        run=RunConfig(close_timeout_s=READY_S),
    )
    run = create_run(base)
    began = time.monotonic()
    with Session(config, run=run, install_signal_handlers=False, environment="toy", heads=("slot", "tempo")) as session:
        emitter = session.emitter
        emitter._clock_ns = clock_ns
        emitter.emit_run_started(RunStarted(environment="toy", heads=("slot", "tempo")))
        for number in range(1, updates + 1):
            between(number)
            emitter.begin_rollout(number)
            emitter.begin_update(number)
            inside_update(number)
            value = kl(number)
            heads = (
                HeadStats(name="slot", kl=value * 1.5, decisions=60, weight=0.6, share=0.9),
                HeadStats(name="tempo", kl=value * 0.25, decisions=40, weight=0.4, share=0.1),
            )
            times = emitter.end_update(number)
            payload = PPOUpdatePayload(
                update_id=number,
                kl_divergence=value,
                kl_joint=value * 1.1,
                health=classify_kl(value),
                rollout_s=times.rollout_s,
                update_s=times.update_s,
                steps_per_s=times.rate(100),
                kl_by_epoch=(value / 2, value),
                heads=heads,
                steps=100,
                epochs=2,
                epochs_planned=2,
                minibatches=8,
                minibatches_planned=8,
            )
            emitter.emit_ppo_update(payload)
            session.progress(updates=number, env_steps=number * 100)
            if pause_s:
                time.sleep(pause_s)
    return Played(path=run.path, report=session.report, seconds=time.monotonic() - began)


def esper(*arguments: str, cwd: Path, timeout_s: float = 250.0, check: bool = True) -> subprocess.CompletedProcess[str]:
    """The command line, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "esper_core", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    if check and done.returncode:
        raise AssertionError(f"esper {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done


def _documents(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file that may be written at this moment, by a Collector that may have been killed."""
    if not path.exists():
        return []
    found = []
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    for line in text.splitlines(keepends=True):
        # A killed Collector leaves a torn line, and the next one appends to it: what was torn counts as lost, and what
        # was appended does not.
        whole = line[max(0, *map(line.rfind, ('{"resourceSpans"', '{"resourceMetrics"'))) :]
        with contextlib.suppress(json.JSONDecodeError):
            found.append(json.loads(whole if line.endswith("\n") else "torn"))
    return found


def spans_in(path: Path) -> list[dict[str, Any]]:
    """Spans that a Collector's file exporter wrote."""
    return [
        span
        for document in _documents(path)
        for resource in document.get("resourceSpans", [])
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]


def records_in(*paths: Path) -> list[dict[str, Any]]:
    """Log records that a Collector's file exporter, or a journal, wrote: what a reader of OTLP gets from them."""
    return sorted(
        (
            {
                "resource": _plain(resource["resource"]["attributes"])["esper.run.id"],
                "scope": scope["scope"],
                "schema": scope.get("schemaUrl"),
                "attributes": _plain(record["attributes"]),
                **{key: value for key, value in record.items() if key not in {"attributes", "body"}},
            }
            for path in paths
            for document in _documents(path)
            for resource in document.get("resourceLogs", [])
            for scope in resource["scopeLogs"]
            for record in scope["logRecords"]
        ),
        key=repr,
    )


def _plain(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    return {pair["key"]: next(iter(pair["value"].values())) for pair in pairs}


def events_in(path: Path) -> list[Any]:
    """Events that the spans in a file exporter's file decode to, whatever requests they came in."""
    from esper_core.semconv.codec import decode_traces

    joined = {"resourceSpans": [item for one in _documents(path) for item in one.get("resourceSpans", [])]}
    return decode_traces(joined)


@pytest.fixture(scope="module")
def module_stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """As ``stage``, for a story that several tests look at."""
    found = Stage(tmp_path_factory.mktemp("stage"))
    yield found
    found.close()


@pytest.fixture(scope="session")
def helpers() -> Any:
    """Functions of this file: tests import nothing from each other."""
    return sys.modules[__name__]


@pytest.fixture(scope="session")
def alerting() -> Any:
    """Prometheus and Alertmanager together, and a webhook: see ``_alerting.py`` beside this file."""
    spec = importlib.util.spec_from_file_location("esper_collector_alerting", Path(__file__).with_name("_alerting.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def webhook(alerting: Any) -> Iterator[Any]:
    """Somebody who is told of alerts."""
    found = alerting.Webhook()
    yield found
    found.close()
