"""The real otelcol, prometheus and jaeger, started for one test and ended with it."""

from __future__ import annotations

import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from real_programs import READY_S, Program, free_ports, get_json, require

if TYPE_CHECKING:
    from certificate_files import Certificates

__all__ = ["CONFIG", "Collector", "Jaeger", "Prometheus", "Stage"]

AnyProgram = TypeVar("AnyProgram", bound=Program)
CONFIG = Path(__file__).parents[2] / "collector-config"


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

    def agent(self, gateway: Collector, certificates: Certificates, **env: str) -> Collector:
        """An otelcol with ``collector-config/agent.yaml`` that sends to a gateway."""
        return self.collector(
            CONFIG / "agent.yaml",
            name="agent",
            start=True,
            ESPER_GATEWAY=f"https://localhost:{gateway.http}",
            ESPER_GATEWAY_CA=str(certificates.ca),
            ESPER_BATCH_TIMEOUT="100ms",
            ESPER_RETRY_MAX_INTERVAL="1s",
            **env,
        )

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

    def _begun(self, program: AnyProgram, *, start: bool = True) -> AnyProgram:
        self.programs.append(program)
        if start:
            program.start()
        return program

    @staticmethod
    def _written(home: Path, text: str) -> Path:
        path = home / f"config-{len(list(home.glob('config-*')))}.yaml"
        path.write_text(text)
        return path
