"""One real training through agent and gateway to Prometheus and Jaeger, read back and held against its journal."""

from __future__ import annotations

import json
import time
import urllib.parse
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from esper_core.events import PPOUpdatePayload

if TYPE_CHECKING:
    from pathlib import Path

    from esper_core.events import TelemetryEvent

pytestmark = pytest.mark.collector

TOKEN = "a-token"
FILE_TOO = """
exporters:
  file: {path: %s, flush_interval: 100ms}
service:
  pipelines:
    traces: {exporters: [%s, file]}
"""


@dataclass
class Story:
    """A training, and everywhere its telemetry went."""

    events: list[TelemetryEvent[Any]]
    agent_file: Path
    prometheus: Any
    jaeger: Any
    gateway: Any
    run_id: str
    began: float
    ended: float

    @property
    def updates(self) -> list[TelemetryEvent[Any]]:
        return [event for event in self.events if event.kind == "ppo_updated"]

    def value(self, metric: str, **labels: str) -> float:
        """One series' last value, as Prometheus has it."""
        matchers = ", ".join(f'{key}="{value}"' for key, value in {"esper_run_id": self.run_id, **labels}.items())
        found = self.prometheus.query(f"last_over_time({metric}{{{matchers}}}[10m])")
        assert len(found) == 1, (metric, labels, found)
        return float(found[0]["value"][1])


@pytest.fixture(scope="module")
def story(module_stage: Any, certificates: Any, tmp_path_factory: pytest.TempPathFactory, helpers: Any) -> Story:
    """`esper ppo` -> agent -> gateway -> Prometheus and Jaeger, with the repository's own files."""
    home = tmp_path_factory.mktemp("training")
    prometheus, jaeger = module_stage.prometheus(), module_stage.jaeger()
    gateway = module_stage.collector(
        helpers.CONFIG / "gateway.yaml",
        name="gateway",
        ESPER_TLS_CERT=str(certificates.cert),
        ESPER_TLS_KEY=str(certificates.key),
        ESPER_GATEWAY_TOKEN=TOKEN,
        ESPER_TRACES=f"127.0.0.1:{jaeger.grpc}",
        ESPER_PROMETHEUS=prometheus.otlp,
        ESPER_DECISION_WAIT_AFTER_ROOT="1s",
        ESPER_BATCH_TIMEOUT="100ms",
        ESPER_SAMPLING_PERCENTAGE="0",
    )
    agent_file = home / "agent.jsonl"
    agent = module_stage.collector(
        helpers.CONFIG / "agent.yaml",
        FILE_TOO % (agent_file, "otlp_http"),
        name="agent",
        ESPER_GATEWAY=f"https://localhost:{gateway.http}",
        ESPER_GATEWAY_CA=str(certificates.ca),
        ESPER_GATEWAY_TOKEN=TOKEN,
        ESPER_BATCH_TIMEOUT="100ms",
    )
    began = time.time()
    helpers.esper(
        *("ppo", "--env", "CartPole-v1", "--updates", "16", "--seed", "3", "--sinks", "journal,otlp"),
        *("--eval-every", "8", "--set", "run.eval_episodes=1"),
        *("--set", "ppo.learning_rate=0.02", "--set", "ppo.target_kl=0.02"),
        *("--set", f"sink.otlp.endpoint={agent.url}", "--set", "sink.otlp.update_interval_s=0.02"),
        cwd=home,
    )
    ended = time.time()
    from esper_core.reading import open_run

    run = open_run("latest", str(home / "runs"))
    events = list(run.events())
    kept = {
        event.trace.trace_id
        for event in events
        if not isinstance(event.payload, PPOUpdatePayload)
        or event.payload.health != "healthy"
        or event.payload.outcome != "completed"
    }
    helpers.wait_for(lambda: all(jaeger.trace(item) for item in kept), "the kept traces in Jaeger")
    helpers.wait_for(
        lambda: prometheus.query('last_over_time(esper_run_state{esper_run_state="done"}[10m]) == 1'), "state done"
    )
    return Story(
        events=events,
        agent_file=agent_file,
        prometheus=prometheus,
        jaeger=jaeger,
        gateway=gateway,
        run_id=events[0].run_id,
        began=began,
        ended=ended,
    )


def test_the_training_has_what_the_other_tests_look_for(story: Story) -> None:
    levels = Counter(event.payload.health for event in story.updates)
    assert levels["healthy"]
    assert levels["warning"] + levels["critical"]


def test_histograms_and_counters_in_prometheus_are_the_journals(story: Story) -> None:
    payloads = [event.payload for event in story.updates]
    for scope, field in (("weighted", "kl_divergence"), ("joint", "kl_joint")):
        values = [value for payload in payloads if (value := getattr(payload, field)) is not None]
        assert story.value("esper_ppo_kl_divergence_count", esper_ppo_kl_scope=scope) == len(values)
        assert story.value("esper_ppo_kl_divergence_sum", esper_ppo_kl_scope=scope) == pytest.approx(sum(values))
    heads = {head.name for payload in payloads for head in payload.heads}
    for name in heads:
        values = [
            head.kl for payload in payloads for head in payload.heads if head.name == name and head.kl is not None
        ]
        assert story.value("esper_ppo_head_kl_divergence_count", esper_ppo_head_name=name) == len(values)
        assert story.value("esper_ppo_head_kl_divergence_sum", esper_ppo_head_name=name) == pytest.approx(sum(values))
    for outcome, count in Counter(payload.outcome for payload in payloads).items():
        assert story.value("esper_ppo_updates_total", esper_ppo_outcome=outcome) == count
    assert story.value("esper_ppo_early_stops_total") == sum(payload.early_stop is not None for payload in payloads)
    assert story.value("esper_ppo_steps_total") == sum(payload.steps + payload.steps_forced for payload in payloads)
    assert story.value("esper_ppo_episodes_total") == sum(payload.episodes for payload in payloads)


def test_every_gauge_has_one_point_for_every_update_or_evaluation_at_its_time(story: Story) -> None:
    from esper_core.semconv.gauges import gauge_points

    wanted: dict[str, list[tuple[float, float]]] = {"kl_divergence": [], "kl_joint": [], "update_id": []}
    for event in story.updates:
        for point in gauge_points(event):
            name = point.name.removeprefix("esper.ppo.last.")
            if name in wanted:
                wanted[name].append((point.time_ns // 1_000_000 / 1000, float(point.value)))
    evaluations = [event for event in story.events if event.kind == "policy_evaluated"]
    assert len(evaluations) == 2
    found = {f"esper_ppo_last_{name}": points for name, points in wanted.items()}
    found["esper_eval_last_return_mean"] = [
        (event.time_ns // 1_000_000 / 1000, event.payload.return_mean) for event in evaluations
    ]
    for name, points in found.items():
        selector = f'{name}{{esper_run_id="{story.run_id}"}}'
        assert story.prometheus.points(selector, story.began, time.time()) == points, name


def test_every_series_has_each_label_of_the_run_once(story: Story) -> None:
    """They come twice, with the point and from the promoted resource: one value, not two joined by a semicolon."""
    found = story.prometheus.query('last_over_time({__name__=~"esper_.+",job="esper"}[10m])')
    names = {item["metric"].get("__name__", "") for item in found}
    assert len(found) > 60, names
    for item in found:
        labels = {key: item["metric"].get(key) for key in ("esper_run_id", "esper_run_attempt", "esper_rank")}
        assert labels == {"esper_run_id": story.run_id, "esper_run_attempt": "1", "esper_rank": "0"}, item["metric"]


def test_spans_behind_the_agent_decode_to_the_journals_events(story: Story, helpers: Any) -> None:
    found = {event.trace.own.span_id: event for event in helpers.events_in(story.agent_file)}
    assert found == {event.trace.own.span_id: event for event in story.events}


def test_jaeger_has_every_unusual_update_with_its_events_and_not_the_rest(story: Story) -> None:
    for event in story.updates:
        trace = story.jaeger.trace(event.trace.trace_id)
        unusual = event.payload.health != "healthy" or event.payload.outcome != "completed"
        if not unusual:
            changed = [item for item in story.events if item.kind == "policy_health_changed"]
            if event.payload.update_id not in {item.payload.update_id for item in changed}:
                assert trace is None, "a healthy update's trace was kept at 0 %"
            continue
        assert trace is not None
        spans = {span["operationName"]: span for span in trace["spans"]}
        assert {"esper.iteration", "esper.rollout", "esper.ppo.update"} <= set(spans)
        update = spans["esper.ppo.update"]
        assert update["spanID"] == event.trace.own.span_id
        tags = {tag["key"]: tag["value"] for tag in update["tags"]}
        assert tags["esper.ppo.health"] == event.payload.health
        assert tags["esper.ppo.kl_divergence"] == pytest.approx(event.payload.kl_divergence)
        names = [
            field["value"] for log in update["logs"] for field in log["fields"] if field["key"] in {"event", "name"}
        ]
        assert names.count("esper.ppo.kl") == len(event.payload.kl_by_epoch)
        assert names.count("esper.ppo.early_stop") == (event.payload.early_stop is not None)


def test_lifecycle_spans_reach_jaeger(story: Story) -> None:
    for event in story.events:
        if event.kind in {"run_started", "run_finished"}:
            assert story.jaeger.trace(event.trace.trace_id) is not None


def test_exemplars_lead_from_the_histogram_to_a_trace(story: Story) -> None:
    found = story.prometheus.api(
        "query_exemplars",
        query=f'esper_ppo_kl_divergence_bucket{{esper_run_id="{story.run_id}"}}',
        start=str(story.began - 5),
        end=str(time.time() + 5),
    )
    traces = {item["labels"]["trace_id"] for series in found for item in series["exemplars"]}
    assert traces
    assert traces <= {event.trace.trace_id for event in story.updates}


def test_every_expression_of_the_dashboard_returns_series(story: Story, helpers: Any) -> None:
    document = json.loads((helpers.CONFIG / "grafana" / "esper-ppo.json").read_text())
    variables = {"$run": story.run_id, "$rank": "0", "$host": ".*", "$__rate_interval": "1m", "$__range": "1h"}
    queries = [target["expr"] for panel in document["panels"] for target in panel.get("targets", [])]
    assert len(queries) > 25
    empty = []
    for query in queries:
        promql = query
        for name, value in variables.items():
            promql = promql.replace(name, value)
        assert "$" not in promql
        if not story.prometheus.range(promql, story.began, story.ended + 5):
            empty.append(promql)
    assert not empty


def test_the_variables_of_the_dashboard_find_run_rank_and_host(story: Story, helpers: Any) -> None:
    document = json.loads((helpers.CONFIG / "grafana" / "esper-ppo.json").read_text())
    wanted = {"run": story.run_id, "rank": "0"}
    for variable in document["templating"]["list"]:
        if variable["type"] != "query":
            continue
        selector, label = variable["definition"].removeprefix("label_values(").removesuffix(")").rsplit(", ", 1)
        match = selector.replace("$run", ".*")
        values = story.prometheus.api(f"label/{label}/values?match[]={urllib.parse.quote(match)}&x=1")
        assert values, variable["name"]
        if variable["name"] in wanted:
            assert wanted[variable["name"]] in values


def test_every_recording_rule_and_alert_evaluates_and_none_fires_for_a_normal_end(story: Story) -> None:
    groups = story.prometheus.api("rules")["groups"]
    assert {group["name"] for group in groups} == {
        "esper-recorded",
        "esper-collectors",
        "esper-policy",
        "esper-run",
        "esper-telemetry",
    }
    for group in groups:
        for rule in group["rules"]:
            assert rule.get("lastError", "") == ""
            if rule["name"] in {"EsperRunVanished", "EsperRunStalled", "EsperRunFailed", "EsperTelemetryLost"}:
                assert story.prometheus.query(rule["query"]) == [], rule["name"]


def test_the_gateway_refuses_who_has_no_token(story: Story, certificates: Any, tmp_path: Path, helpers: Any) -> None:
    endpoint = f"https://localhost:{story.gateway.http}"
    played = helpers.play(tmp_path, {"endpoint": endpoint, "certificate": str(certificates.ca)}, 2)
    otlp = next(item for item in played.report.sinks if item.name == "otlp")
    assert "401" in otlp.message
    assert otlp.lost == 2 + 8


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_both_protocols_bring_the_same(
    protocol: str, stage: Any, tmp_path: Path, helpers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chosen by the standard variable."""
    out = tmp_path / "out.jsonl"
    collector = stage.collector(
        """
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
""",
        OUT=str(out),
    )
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    port = collector.grpc if protocol == "grpc" else collector.http
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    played = helpers.play(tmp_path / "runs", {}, 10)
    assert played.report.lost_total == 0
    wanted = {event.trace.own.span_id: event for event in played.events()}
    helpers.wait_for(lambda: len(helpers.spans_in(out)) >= 3 * 10 + 2, "the spans")
    assert {event.trace.own.span_id: event for event in helpers.events_in(out)} == wanted
