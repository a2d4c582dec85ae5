"""Every file of collector-config/ is accepted by the program it is for, runs, and names what exists."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import time
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

pytestmark = pytest.mark.collector

COLLECTOR_FILES = ("local.yaml", "agent.yaml", "gateway.yaml", "backfill.yaml", "loadbalancer.yaml")
PAIRS = (("local.yaml", "compose/collector.yaml"), ("gateway.yaml", "remote-write.yaml"))
TOKEN = "a-token"
WITH_FILE = """
exporters:
  file: {path: "%s", flush_interval: 100ms, append: true}
service:
  pipelines:
    traces: {exporters: [file]}
    metrics: {exporters: [nop]}
    logs: {exporters: [file]}
"""


def environment(certificates: Any, home: Path) -> dict[str, str]:
    return {
        "ESPER_TLS_CERT": str(certificates.cert),
        "ESPER_TLS_KEY": str(certificates.key),
        "ESPER_GATEWAY_TOKEN": TOKEN,
        "ESPER_STORAGE": str(home),
    }


@pytest.mark.parametrize("files", [*[(name,) for name in COLLECTOR_FILES], *PAIRS])
def test_otelcol_accepts_the_file(files: tuple[str, ...], certificates: Any, helpers: Any, tmp_path: Path) -> None:
    arguments = [f"--config={helpers.CONFIG / name}" for name in files]
    done = subprocess.run(
        [helpers.require("otelcol"), "validate", *arguments],
        env={**os.environ, **environment(certificates, tmp_path)},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == ""


def test_no_file_uses_a_name_that_is_going_away(stage: Any, certificates: Any, helpers: Any, tmp_path: Path) -> None:
    """An old name still loads, with a warning in the log."""
    for name in COLLECTOR_FILES:
        program = stage.collector(
            helpers.CONFIG / name,
            name=name.removesuffix(".yaml"),
            ESPER_PROMETHEUS="127.0.0.1:0" if name == "local.yaml" else "http://127.0.0.1:9/v1/metrics",
            ESPER_RUNS=str(tmp_path / "no-runs"),
            **{key: value for key, value in environment(certificates, tmp_path).items() if key != "ESPER_STORAGE"},
        )
        program.stop()
        log = program.log.read_text()
        assert not re.search(r"deprecat", log, re.IGNORECASE), log
        assert "please rewrite them" not in log, log
        # grpc warns of the gateways and stores that this test does not start.
        warnings = [line for line in log.splitlines() if "\twarn\t" in line and "grpc_log" not in line]
        assert not warnings


def test_the_builders_components_are_those_that_the_files_use(helpers: Any) -> None:
    builder = yaml.safe_load((helpers.CONFIG / "builder.yaml").read_text())
    found = subprocess.run(
        [helpers.require("otelcol"), "components"], capture_output=True, text=True, timeout=250, check=True
    )
    here = yaml.safe_load(found.stdout)
    modules = {
        (kind, item["name"]): item["module"]
        for kind in ("receivers", "processors", "exporters", "extensions")
        for item in here[kind]
    }
    used = set()
    for name in (*COLLECTOR_FILES, "compose/collector.yaml", "remote-write.yaml"):
        document = yaml.safe_load((helpers.CONFIG / name).read_text())
        for kind in ("receivers", "processors", "exporters", "extensions"):
            used |= {(kind, key.split("/")[0]) for key in document.get(kind, {})}
    used |= {("exporters", "file")}  # what tests read
    listed = {
        (kind, item["gomod"])
        for kind in ("receivers", "processors", "exporters", "extensions")
        for item in builder[kind]
    }
    assert listed == {(kind, modules[kind, name]) for kind, name in used}
    assert {item["gomod"] for item in builder["providers"]} <= {
        item if isinstance(item, str) else item.get("module", "") for item in here["providers"]
    }


# --- prometheus and grafana ---------------------------------------------------------------------


def test_the_rules_fire_and_keep_quiet_as_they_should(helpers: Any) -> None:
    """A normal end fires nothing, a SIGKILL vanished, a hang stalled; each limit on both of its sides."""
    promtool = helpers.require("promtool")
    folder = helpers.CONFIG / "prometheus"
    for arguments in (
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "esper.rules.yml"),
        ("test", "rules", "esper.rules.test.yml"),
    ):
        done = subprocess.run(
            [promtool, *arguments], cwd=folder, capture_output=True, text=True, timeout=250, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["agent-daemonset", "agent-sidecar", "gateway"])
def test_otelcol_accepts_the_file_in_a_config_map(name: str, certificates: Any, helpers: Any, tmp_path: Path) -> None:
    """With the variables that the manifest sets, and a folder of the test's in place of what Kubernetes mounts."""
    documents = list(yaml.safe_load_all((helpers.CONFIG / "kubernetes" / f"{name}.yaml").read_text()))
    (config,) = (item for item in documents if item["kind"] == "ConfigMap")
    ((file, text),) = config["data"].items()
    (tmp_path / file).write_text(text)
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    spec = documents[-1]["spec"]["template"]["spec"]
    (container,) = (
        item for item in (*spec["containers"], *spec.get("initContainers", [])) if item["image"].startswith("otel/")
    )
    given = {item["name"]: item["value"] for item in container["env"] if "value" in item}
    placed = {
        "ESPER_GATEWAY_TOKEN_FILE": str(tmp_path / "token"),
        "ESPER_GATEWAY_CA": str(certificates.ca),
        "ESPER_TLS_CERT": str(certificates.cert),
        "ESPER_TLS_KEY": str(certificates.key),
        "ESPER_STORAGE": str(tmp_path),
    }
    done = subprocess.run(
        [helpers.require("otelcol"), "validate", f"--config={tmp_path / file}"],
        env={**os.environ, **given, **{key: value for key, value in placed.items() if key in given}},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == ""


def test_promtool_accepts_the_rules_of_the_operator(helpers: Any, tmp_path: Path) -> None:
    document = yaml.safe_load((helpers.CONFIG / "kubernetes" / "prometheus-rule.yaml").read_text())
    (tmp_path / "esper.rules.yml").write_text(yaml.safe_dump(document["spec"]))
    shutil.copy(helpers.CONFIG / "prometheus" / "esper.rules.test.yml", tmp_path)
    for arguments in (("check", "rules", "esper.rules.yml"), ("test", "rules", "esper.rules.test.yml")):
        command = [helpers.require("promtool"), *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=250, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_alertmanagers_example_is_accepted(helpers: Any) -> None:
    amtool = helpers.require("amtool")
    file = helpers.CONFIG / "prometheus" / "alertmanager.yml"
    done = subprocess.run([amtool, "check-config", file], capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


MUTATIONS = {
    "critical, not warning": (">= bool 3", ">= bool 2", "a warning that holds"),
    "most of the time, not all of it": ("time_critical > 0.5", "time_critical > 0.95", "87 %"),
    "what the gauge misses": ("updates_critical / esper:policy:updates_judged > 0.5", "vector(0) > 1", "five updates"),
    "one update is a spike": ("updates_critical < 1.5", "updates_critical < 0", "a spike where"),
    "the shortest window": (">= 2.5", ">= 0", "a drift where"),
    "a spike of a moment": ("time_critical > 0.5", "time_critical > 0.05", "a spike, and"),
    "warm-up": ("<= 3)", "<= 0)", "warm-up mutes"),
    "NaN is no KL": ("(esper_policy_health < 4)", "esper_policy_health", "NaN in every"),
    "vanished": ("silence_seconds > 90", "silence_seconds > 9000", "SIGKILL: the run"),
    "vanished, after the way": ("silence_seconds > 90", "silence_seconds > 30", "nothing arrives"),
    "an end is no crash": ("done|stopped|failed", "failed", "a normal end"),
    "the clock is Prometheus's": ("* 0 + time()", "* 1", "a clock"),
    "the newest attempt": ("< on (esper_run_id", "> on (esper_run_id", "ends in order"),
    "heard at once": ("/ 1e6", "* 0", "both attempts at once"),
    "without labels of a run": ('{esper_run_id!=""}', "", "without labels"),
    "a hang by the trainer's clock": ("esper:run:heartbeat_seconds - last", "time() - last", "an hour behind"),
    "several runs are an outage": (">= 2\n", ">= 4\n", "nothing arrives"),
    "silent at different times": ("+ 60)", "+ 6000)", "killed at different times"),
    "until the last sender tried again": ("keep_firing_for: 90s", "keep_firing_for: 1s", "the gateway is back"),
    "a full queue is no full disk": ("unless on (job, instance) esper:collector:queue_ratio > 0.8", "", "a full queue"),
    "a full disk is no full queue": (
        "refuses unless on (job, instance) esper:collector:disk_full",
        "refuses",
        "a full d",
    ),
    "a counter that appears": ("or (esper:collector:dropped_items > 0", "or (vector(0) > 0", "one batch"),
    "not of now": (
        "dropped_items offset 5m) and on (job, instance) up offset 5m",
        "dropped_items offset 5m)",
        "gave up",
    ),
    "new, not old": ('filter="filter/too_new", ', "", "clock is ahead"),
    "every gateway": ("max by () (up", "min by () (up", "two gateways"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_rule_tests_notice_a_wrong_rule(name: str, helpers: Any, tmp_path: Path) -> None:
    """Each wrong rule fails the test that is there for it, which the right one passes."""
    promtool = helpers.require("promtool")
    right, wrong, noticed_by = MUTATIONS[name]
    text = (helpers.CONFIG / "prometheus" / "esper.rules.yml").read_text()
    assert right in text
    shutil.copy(helpers.CONFIG / "prometheus" / "esper.rules.test.yml", tmp_path)
    codes = []
    for candidate in (text, text.replace(right, wrong)):
        (tmp_path / "esper.rules.yml").write_text(candidate)
        command = [promtool, "test", "rules", "--run", re.escape(noticed_by), "--debug", "esper.rules.test.yml"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=250, check=False)
        assert noticed_by in done.stdout + done.stderr, "no test of this name ran"
        codes.append(done.returncode)
    assert codes[0] == 0
    assert codes[1] != 0


def test_the_dashboards_panels_have_their_own_places(helpers: Any) -> None:
    document = json.loads((helpers.CONFIG / "grafana" / "esper-ppo.json").read_text())
    panels = document["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_dashboard_draws_the_limits_of_the_run_and_no_constants(helpers: Any) -> None:
    text = (helpers.CONFIG / "grafana" / "esper-ppo.json").read_text()
    (panel,) = [item for item in json.loads(text)["panels"] if item["title"] == "KL divergence of every update"]
    assert any("esper_run_kl_limit" in target["expr"] for target in panel["targets"])
    assert "thresholds" not in panel["fieldConfig"]["defaults"]


# --- compose ------------------------------------------------------------------------------------


def test_compose_names_files_that_exist_and_flags_that_are_known(helpers: Any) -> None:
    document = yaml.safe_load((helpers.CONFIG / "compose.yaml").read_text())
    assert set(document["services"]) == {"collector", "prometheus", "jaeger", "grafana"}
    for name, service in document["services"].items():
        assert re.search(r":v?\d+\.\d+\.\d+$", service["image"]), f"{name}: pin the image"
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name}: only this machine"
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (helpers.CONFIG / source).exists(), volume
            else:
                assert source in document["volumes"]
    mounted = {
        volume.split(":")[1] for service in document["services"].values() for volume in service.get("volumes", [])
    }
    named = [item.split("=", 1)[1] for item in document["services"]["collector"]["command"]]
    assert set(named) <= mounted
    helped = subprocess.run(
        [helpers.require("prometheus"), "--help"], capture_output=True, text=True, timeout=250, check=True
    )
    for flag in document["services"]["prometheus"]["command"]:
        assert flag.split("=")[0].removeprefix("--") in (helped.stdout + helped.stderr).replace("[no-]", "")
    for path in (helpers.CONFIG / "grafana" / "provisioning").rglob("*.yaml"):
        assert yaml.safe_load(path.read_text())["apiVersion"] == 1


@pytest.mark.skipif(
    shutil.which("docker") is None
    or subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode != 0,
    reason="the compose plugin of docker is not installed",
)
def test_docker_accepts_the_compose_file(helpers: Any) -> None:
    done = subprocess.run(
        ["docker", "compose", "-f", str(helpers.CONFIG / "compose.yaml"), "config", "--quiet"],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr


# --- each file at work --------------------------------------------------------------------------


def test_local_prints_and_can_be_scraped(stage: Any, helpers: Any, tmp_path: Path) -> None:
    (port,) = helpers.free_ports(1)
    collector = stage.collector(
        helpers.CONFIG / "local.yaml", ESPER_PROMETHEUS=f"127.0.0.1:{port}", ESPER_DEBUG_VERBOSITY="detailed"
    )
    played = helpers.play(tmp_path, {"endpoint": collector.url}, 3, kl=lambda number: 0.001 * number, events="log")

    def page() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            text: str = answer.read().decode()
        return text

    text = helpers.wait_for(lambda: "esper_run_state" in (found := page()) and found, "the page")
    (line,) = [item for item in text.splitlines() if item.startswith("esper_ppo_last_kl_divergence{")]
    assert f'esper_run_id="{played.path.name}"' in line
    assert line.endswith(" 0.003")
    printed = collector.log.read_text()
    assert "esper.ppo.update" in printed
    assert printed.count("EventName: esper.ppo.kl") == 2 * 3


def test_compose_collector_brings_both_signals_on(stage: Any, helpers: Any, tmp_path: Path) -> None:
    prometheus, jaeger = stage.prometheus(), stage.jaeger()
    collector = stage.collector(
        helpers.CONFIG / "local.yaml",
        helpers.CONFIG / "compose" / "collector.yaml",
        ESPER_PROMETHEUS="127.0.0.1:0",
        ESPER_TRACES=f"127.0.0.1:{jaeger.grpc}",
        ESPER_PROMETHEUS_OTLP=prometheus.otlp,
    )
    played = helpers.play(tmp_path, {"endpoint": collector.url}, 3)
    helpers.wait_for(lambda: all(jaeger.trace(event.trace.trace_id) for event in played.events()), "Jaeger")
    selector = "last_over_time(esper_ppo_last_kl_divergence[5m])"
    helpers.wait_for(lambda: len(prometheus.query(selector)) == 1, "Prometheus")


def test_backfill_reads_journals_whole_and_goes_on_where_it_stopped(stage: Any, helpers: Any, tmp_path: Path) -> None:
    """The real otlp_json_file receiver reads what the journal writes, compressed (the first run) and plain."""
    runs = tmp_path / "runs"
    first = helpers.play(runs, None, 30, events="log")
    out = tmp_path / "out.jsonl"
    reader = stage.collector(
        helpers.CONFIG / "backfill.yaml",
        (WITH_FILE % out).replace("    metrics: {exporters: [nop]}\n", ""),
        name="backfill",
        ESPER_RUNS=str(runs),
    )

    def found() -> dict[str, Any]:
        return {event.trace.own.span_id: event for event in helpers.events_in(out)} if out.exists() else {}

    def wanted(played: Any) -> dict[str, Any]:
        return {event.trace.own.span_id: event for event in played.events()}

    helpers.wait_for(lambda: found().keys() >= wanted(first).keys(), "the journal's spans")
    assert found() == wanted(first)
    reader.stop()
    second = helpers.play(runs, None, 5, events="both")
    packed = next(second.path.glob("telemetry/*.gz"))
    packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))  # as a run leaves it that was killed
    packed.unlink()
    reader.start()
    helpers.wait_for(lambda: found().keys() >= wanted(second).keys(), "the second run's spans")
    assert found() == {**wanted(first), **wanted(second)}
    assert len(helpers.spans_in(out)) == len({span["spanId"] for span in helpers.spans_in(out)}), "read twice"
    written = helpers.records_in(*runs.glob("*/telemetry/*"))
    assert len(written) == 2 * (30 + 5)
    helpers.wait_for(lambda: helpers.records_in(out) == written, "the journals' log records, once each")


def test_two_gateways_behind_a_load_balancer_decide_about_whole_traces(
    stage: Any, certificates: Any, helpers: Any, tmp_path: Path
) -> None:
    env = {key: value for key, value in environment(certificates, tmp_path).items() if key != "ESPER_STORAGE"}
    outs = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    gateways = [
        stage.collector(
            helpers.CONFIG / "gateway.yaml",
            (WITH_FILE % out).replace("metrics: {exporters: [nop]}", "metrics: {exporters: [file]}"),
            name="gateway",
            ESPER_DECISION_WAIT_AFTER_ROOT="500ms",
            ESPER_SAMPLING_PERCENTAGE="0",
            **env,
        )
        for out in outs
    ]
    balancer = stage.collector(
        helpers.CONFIG / "loadbalancer.yaml",
        name="balancer",
        ESPER_GATEWAY_A=f"localhost:{gateways[0].grpc}",
        ESPER_GATEWAY_B=f"localhost:{gateways[1].grpc}",
        ESPER_GATEWAY_CA=str(certificates.ca),
        **env,
    )
    table = {
        "endpoint": f"https://localhost:{balancer.http}",
        "certificate": str(certificates.ca),
        "headers": {"authorization": f"Bearer {TOKEN}"},
        "delay_s": 0.01,
    }
    # Rollouts end well before their updates, so that a trace's spans travel in different requests.
    played = helpers.play(
        tmp_path / "runs",
        table,
        30,
        kl=lambda number: 0.02 if number % 2 else 0.001,
        inside_update=lambda _: time.sleep(0.04),
        events="both",
    )
    assert next(item for item in played.report.sinks if item.name == "otlp").lost == 0
    warnings = [event for event in played.updates() if event.payload.update_id % 2]
    wanted = {span.span_id for event in warnings for span in event.trace.spans}

    def traces_of(path: Path) -> Mapping[str, set[str]]:
        grouped: dict[str, set[str]] = {}
        for span in helpers.spans_in(path):
            grouped.setdefault(span["traceId"], set()).add(span["spanId"])
        return grouped

    helpers.wait_for(
        lambda: {item for out in outs for ids in traces_of(out).values() for item in ids} >= wanted, "whole traces"
    )
    first, second = traces_of(outs[0]), traces_of(outs[1])
    assert first
    assert second
    assert not first.keys() & second.keys(), "a trace was divided"
    records = helpers.records_in(*played.path.glob("telemetry/*"))
    helpers.wait_for(lambda: helpers.records_in(*outs) == records, "every log record at one of the gateways")
