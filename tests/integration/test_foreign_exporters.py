"""Exporters of others behind the hooks, each in a sink as its user would write it: Zipkin, Prometheus, stock OTLP."""

from __future__ import annotations

import gzip
import json
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from esper_core.config.schema import EsperConfig, OtelConfig
from esper_core.events import HeadStats, PPOUpdatePayload, RunStarted
from esper_core.host.session import Session
from esper_core.reading import open_run
from esper_core.runs import create_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytest.importorskip("esper_sink_journal", reason="what arrives is compared with the journal")

pytestmark = pytest.mark.exporters

ZIPKIN = """
import msgspec
from esper_core.hooks import hookimpl
from opentelemetry.exporter.zipkin.json import ZipkinExporter
from opentelemetry.sdk.trace.export import BatchSpanProcessor

class Config(msgspec.Struct):
    url: str

class Zipkin:
    Config = Config
    def __init__(self, config):
        self.url = config.url

    @hookimpl
    def esper_span_processors(self):
        return [BatchSpanProcessor(ZipkinExporter(endpoint=self.url))]
"""
PROMETHEUS = """
import msgspec
from esper_core.hooks import hookimpl
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from prometheus_client import CollectorRegistry, start_http_server

class Prometheus:
    @hookimpl
    def esper_metric_readers(self):
        self.registry = CollectorRegistry()
        return [PrometheusMetricReader(registry=self.registry)]

    @hookimpl
    def esper_sink_opened(self):
        self.server, self.thread = start_http_server(0, addr="127.0.0.1", registry=self.registry)
        self.port = self.server.server_port

    @hookimpl
    def esper_sink_closed(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
"""
STOCK = """
import msgspec
from esper_core.hooks import hookimpl
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace.export import BatchSpanProcessor

class Config(msgspec.Struct):
    url: str

class Stock:
    Config = Config
    def __init__(self, config):
        self.url = config.url

    @hookimpl
    def esper_span_processors(self):
        return [BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{self.url}/v1/traces"))]

    @hookimpl
    def esper_metric_readers(self):
        return [PeriodicExportingMetricReader(OTLPMetricExporter(endpoint=f"{self.url}/v1/metrics"))]
"""


@pytest.fixture
def receiver() -> Iterator[tuple[str, dict[str, list[bytes]]]]:
    """An address, and the bodies that it was sent, by path."""
    taken: dict[str, list[bytes]] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            body = gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body
            taken.setdefault(self.path, []).append(body)
            self.send_response(202 if self.path.endswith("spans") else 200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", taken
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def emitted(tmp_path: Path) -> Callable[..., Any]:
    """Emit a run of three updates through a sink of this text; returns the run, whose journal is what was emitted."""

    def play(name: str, text: str, table: dict[str, Any], look: Callable[[Any], None] = lambda _: None) -> Any:
        (tmp_path / "sink.py").write_text(text)
        config = EsperConfig(
            sinks=("journal", f"{tmp_path}/sink.py:{name}"),
            sink={name: table} if table else {},
            otel=OtelConfig(semconv=("esper", "rl")),
        )
        run = create_run(tmp_path / "runs")
        session = Session(config, run=run, install_signal_handlers=False, environment="toy", on_notice=lambda _: None)
        with session:
            session.emitter.emit_run_started(RunStarted(environment="toy", heads=("slot",)))
            for number in (1, 2, 3):
                session.emitter.begin_rollout(number)
                session.emitter.begin_update(number)
                session.emitter.end_update(number)
                heads = (HeadStats(name="slot", kl=0.001 * number, decisions=4, weight=1.0, share=1.0),)
                session.emitter.emit_ppo_update(
                    PPOUpdatePayload(
                        update_id=number,
                        kl_divergence=0.001 * number,
                        policy_loss=-0.25,
                        return_mean_100=5.0,
                        heads=heads,
                    )
                )
            look(session.active[1].instance)
        assert session.report.lost_total == 0
        assert not [item.message for item in session.report.sinks if item.failures]
        return open_run(str(run.path))

    return play


def journaled(run: Any) -> dict[str, str]:
    """Span id -> name, of every span in the journal."""
    return {span.span_id: span.name for event in run.events() for span in event.trace.spans}


def test_zipkin_has_every_span(emitted: Callable[..., Any], receiver: tuple[str, dict[str, list[bytes]]]) -> None:
    pytest.importorskip("opentelemetry.exporter.zipkin.json")
    url, taken = receiver
    run = emitted("Zipkin", ZIPKIN, {"url": f"{url}/api/v2/spans"})
    spans = {span["id"]: span for body in taken["/api/v2/spans"] for span in json.loads(body)}
    wanted = journaled(run)
    assert {key: span["name"] for key, span in spans.items() if not span["name"].startswith("rl.")} == wanted
    assert {span["name"] for span in spans.values()} >= {"rl.loop", "rl.sample", "rl.train"}
    last = next(span for span in spans.values() if span["tags"].get("esper.ppo.update_id") == "3" and "kind" in span)
    assert last["tags"]["esper.run.id"] == run.run_id


def test_prometheus_scrapes_every_gauge_with_its_run_and_no_ratio_of_a_loss(emitted: Callable[..., Any]) -> None:
    pytest.importorskip("opentelemetry.exporter.prometheus")
    seen: list[str] = []

    def scrape(sink: Any) -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{sink.port}/metrics", timeout=250) as answer:
            seen.append(answer.read().decode())

    run = emitted("Prometheus", PROMETHEUS, {}, scrape)
    lines = [line for line in seen[0].splitlines() if not line.startswith("#")]
    series = {line.partition("{")[0]: line for line in lines}
    kl = series["esper_ppo_last_kl_divergence"]
    assert f'esper_run_id="{run.run_id}"' in kl
    assert float(kl.rpartition(" ")[2]) == 0.003
    assert 'esper_ppo_head_name="slot"' in series["esper_ppo_last_head_kl"]
    (loss,) = (line for line in lines if line.startswith("rl_train_loss{") and 'rl_loss_type="policy"' in line)
    assert loss.endswith(" -0.25")
    assert "rl_environment_reward_mean" in series
    assert not [name for name in series if name.startswith("rl_") and "ratio" in name]


def test_the_stock_exporters_have_every_span_and_the_final_state(
    emitted: Callable[..., Any], receiver: tuple[str, dict[str, list[bytes]]]
) -> None:
    url, taken = receiver
    run = emitted("Stock", STOCK, {"url": url})
    spans = {
        span.span_id.hex(): span.name
        for body in taken["/v1/traces"]
        for group in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in group.scope_spans
        for span in scope.spans
    }
    assert {key: name for key, name in spans.items() if not name.startswith("rl.")} == journaled(run)
    metrics = {
        metric.name: metric
        for body in taken["/v1/metrics"]
        for group in ExportMetricsServiceRequest.FromString(body).resource_metrics
        for scope in group.scope_metrics
        for metric in scope.metrics
    }
    (state,) = (
        {item.key: item.value.string_value for item in point.attributes}
        for point in metrics["esper.run.state"].sum.data_points
        if point.as_int == 1
    )
    assert (state["esper.run.state"], state["esper.run.id"]) == ("done", run.run_id)
    assert metrics["esper.ppo.last.kl_divergence"].description
    assert "rl.train.loss" in metrics
