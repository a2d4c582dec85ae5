"""Log events through real Collectors: what arrives is what the journal has, beside its spans."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from esper_core.reading import open_run

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.collector

TOKEN = "a-token"
STORE = """
receivers:
  otlp:
    protocols:
      http: {endpoint: "${env:ESPER_OTLP_HTTP}"}
      grpc: {endpoint: "${env:ESPER_OTLP_GRPC}"}
exporters: {file: {path: "${env:OUT}", flush_interval: 100ms}, nop: {}}
extensions: {health_check: {endpoint: "${env:ESPER_HEALTH}"}}
service:
  extensions: [health_check]
  telemetry: {metrics: {level: none}}
  pipelines:
    traces: {receivers: [otlp], exporters: [file]}
    metrics: {receivers: [otlp], exporters: [nop]}
    logs: {receivers: [otlp], exporters: [file]}
"""


def test_log_events_of_a_training_pass_agent_and_gateway(
    stage: Any, certificates: Any, helpers: Any, tmp_path: Path
) -> None:
    """`esper ppo` -> agent -> gateway -> a log store and a trace store, then once more by a replay."""
    out = tmp_path / "store.jsonl"
    store = stage.collector(STORE, name="store", OUT=str(out))
    gateway = stage.collector(
        helpers.CONFIG / "gateway.yaml",
        name="gateway",
        ESPER_TLS_CERT=str(certificates.cert),
        ESPER_TLS_KEY=str(certificates.key),
        ESPER_GATEWAY_TOKEN=TOKEN,
        ESPER_TRACES=f"127.0.0.1:{store.grpc}",
        ESPER_PROMETHEUS=f"{store.url}/v1/metrics",
        ESPER_LOGS=f"{store.url}/v1/logs",
        ESPER_DECISION_WAIT_AFTER_ROOT="300ms",
        ESPER_BATCH_TIMEOUT="100ms",
        ESPER_SAMPLING_PERCENTAGE="100",
    )
    agent = stage.collector(
        helpers.CONFIG / "agent.yaml",
        name="agent",
        ESPER_GATEWAY=f"https://localhost:{gateway.http}",
        ESPER_GATEWAY_CA=str(certificates.ca),
        ESPER_GATEWAY_TOKEN=TOKEN,
        ESPER_BATCH_TIMEOUT="100ms",
    )
    helpers.esper(
        *("ppo", "--env", "CartPole-v1", "--updates", "8", "--seed", "3", "--sinks", "journal,otlp"),
        *("--set", "ppo.learning_rate=0.02", "--set", "otel.events=log", "--set", f"sink.otlp.endpoint={agent.url}"),
        cwd=tmp_path,
    )
    run = open_run("latest", str(tmp_path / "runs"))
    journaled = helpers.records_in(*run.path.glob("telemetry/*"))
    updates = {event.trace.own.span_id: event for event in run.updates()}
    assert {record["eventName"] for record in journaled} >= {"esper.ppo.kl", "esper.ppo.early_stop"}
    assert sum(record["eventName"] == "esper.ppo.kl" for record in journaled) == sum(
        len(event.payload.kl_by_epoch) for event in updates.values()
    )

    helpers.wait_for(lambda: helpers.records_in(out) == journaled, "the journal's log records")
    spans = helpers.wait_for(
        lambda: (found := {span["spanId"]: span for span in helpers.spans_in(out)}).keys() >= updates.keys() and found,
        "the updates' spans",
    )
    for record in journaled:
        event = updates[record["spanId"]]
        assert record["traceId"] == spans[record["spanId"]]["traceId"] == event.trace.trace_id
        if record["eventName"] == "esper.ppo.kl":
            epoch = int(record["attributes"]["esper.ppo.kl.epoch"])
            assert record["attributes"]["esper.ppo.kl.value"] == event.payload.kl_by_epoch[epoch - 1]
    assert not [span for span in spans.values() if span.get("events")]

    done = helpers.esper(
        *("replay", "latest", "--to", "otlp", "--set", f"sink.otlp.endpoint={agent.url}"), cwd=tmp_path
    )
    assert f"{len(journaled)} log events" in done.stderr
    twice = sorted([*journaled, *journaled], key=repr)
    helpers.wait_for(lambda: helpers.records_in(out) == twice, "the same records again")


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_both_protocols_bring_log_events(stage: Any, helpers: Any, tmp_path: Path, protocol: str) -> None:
    out = tmp_path / "out.jsonl"
    collector = stage.collector(STORE, OUT=str(out))
    port = collector.grpc if protocol == "grpc" else collector.http
    table = {"endpoint": f"http://127.0.0.1:{port}", "protocol": protocol}
    played = helpers.play(tmp_path / "runs", table, 10, events="both")
    assert played.report.lost_total == 0
    journaled = helpers.records_in(*played.path.glob("telemetry/*"))
    assert len(journaled) == 20
    helpers.wait_for(lambda: helpers.records_in(out) == journaled, "the log records")


def test_a_collector_without_a_pipeline_of_logs_is_said_and_counted(stage: Any, helpers: Any, tmp_path: Path) -> None:
    collector = stage.collector(
        STORE.replace("    logs: {receivers: [otlp], exporters: [file]}\n", ""), OUT="/dev/null"
    )
    played = helpers.play(tmp_path / "runs", {"endpoint": collector.url}, 4, events="log")
    otlp = next(item for item in played.report.sinks if item.name == "otlp")
    assert otlp.lost == 8
    assert otlp.message.startswith("logs do not arrive: 404")
    assert "a Collector needs a pipeline of logs" in otlp.message
