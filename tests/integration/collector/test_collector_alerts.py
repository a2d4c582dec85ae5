"""Real trainings, a real Prometheus and a real Alertmanager: who is told what, and how often.

The rules are the repository's, written by their own generator with shorter times; so are the configurations of
Prometheus and Alertmanager, with shorter times and the test's addresses.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from esper_core.events import PPOUpdatePayload
from rules import ALERTS, Times

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.collector, pytest.mark.slow, pytest.mark.timeout(600)]

PATIENCE_S = 250.0
"""No limit of the product: how long a busy machine may take."""
SHORT = Times(
    every_s=1,
    windows_s=(15, 60, 300),
    held_s=3,
    vanished_s=18,
    returned_s=2,
    pipeline_s=12,
    pipeline_held_s=2,
    back_s=25,  # a sink tries again every 15 s at the latest
    together_s=10,
    stall_min_s=10,
    first_progress_s=90,
)
"""A heartbeat comes every 5 s; the rest is as short as that allows."""
ENVIRONMENT = '''
"""Observations and rewards are noise: at a high learning rate each update chases another one, for ever."""
import time
import gymnasium
import numpy as np


class Noise(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-9.0, 9.0, (16,), np.float32)
    action_space = gymnasium.spaces.Discrete(6)
    steps = 0

    def __init__(self, hang_at=0, hang_s=0.0, fail_at=0):
        self.hang_at, self.hang_s, self.fail_at = hang_at, hang_s, fail_at

    def _see(self):
        return self.np_random.normal(size=16).clip(-9, 9).astype(np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._see(), {}

    def step(self, action):
        Noise.steps += 1
        time.sleep(0.0003)
        if Noise.steps == self.hang_at:
            time.sleep(self.hang_s)
        if Noise.steps == self.fail_at:
            raise RuntimeError("the simulator is gone")
        return self._see(), float(self.np_random.normal()), True, False, {}


gymnasium.register("Noise-v0", entry_point="noise:Noise")
'''
DRIFT = ("ppo.learning_rate=0.05", "ppo.target_kl=0")
CALM = ("ppo.learning_rate=0.00001",)


@dataclass
class Trainers:
    """Trainings in processes of their own, in one folder."""

    home: Path
    endpoint: str
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, *settings: str, resume: str | None = None) -> None:
        """Begin a run, or go on with one; it trains until it is told to stop."""
        chosen = [
            *("env.n_envs=4", "run.checkpoint_interval_s=0", f"sink.otlp.endpoint={self.endpoint}"),
            *('sink.otlp.signals=["metrics"]', "sink.otlp.interval_s=1", "sink.otlp.timeout_s=2", *settings),
        ]
        command = [sys.executable, "-m", "esper_core", "ppo", "--sinks", "journal,otlp", "--steps", "0"]
        command += ["--resume", resume] if resume else ["--env", "noise:Noise-v0", "--run-name", name]
        with (self.home / f"{name}.out").open("ab") as out:
            self.running[name] = subprocess.Popen(
                [*command, *(word for item in chosen for word in ("--set", item))],
                cwd=self.home,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def run_id(self, name: str) -> str:
        """The id of a run that has begun; an AssertionError, to be waited for, when it has not."""
        found = sorted((self.home / "runs").glob(f"*-{name}-*"))
        assert found, f"{name} has no directory yet; it says {(self.home / f'{name}.out').read_text()[-500:]!r}"
        return found[-1].name

    def end(self, name: str, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit code."""
        process = self.running.pop(name)
        process.send_signal(number)
        return process.wait(250)

    def levels(self, name: str) -> list[str]:
        """The levels of the updates that the run's own journal holds."""
        from esper_core.reading import open_run

        events = open_run(str(self.home / "runs" / self.run_id(name))).events()
        return [str(event.payload.health) for event in events if isinstance(event.payload, PPOUpdatePayload)]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where trainings run, with the environment beside them."""
    path = tmp_path / "trainings"
    path.mkdir()
    (path / "noise.py").write_text(ENVIRONMENT)
    return path


@contextlib.contextmanager
def trainers(home: Path, endpoint: str) -> Iterator[Trainers]:
    found = Trainers(home, endpoint)
    try:
        yield found
    finally:
        for process in found.running.values():
            process.kill()
            process.wait(250)


# --- the verdict at Prometheus ------------------------------------------------------------------


class LateClock(threading.Thread):
    """A trainer whose clock is ten minutes behind: its heartbeats say so, and their points too."""

    BEHIND_S = 600.0

    def __init__(self, endpoint: str) -> None:
        super().__init__()
        self._endpoint = endpoint
        self._over = threading.Event()
        self.sent = 0

    def run(self) -> None:
        while not self._over.wait(1.0):
            now_s = time.time() - self.BEHIND_S
            point = {"asDouble": now_s, "timeUnixNano": str(int(now_s * 1e9))}
            identity = {"service.name": "esper", "service.instance.id": "late", "esper.run.id": "late"}
            metrics = [{"name": "esper.run.heartbeat", "unit": "s", "gauge": {"dataPoints": [point]}}]
            attributes = [{"key": key, "value": {"stringValue": value}} for key, value in identity.items()]
            resource = {"resource": {"attributes": attributes}, "scopeMetrics": [{"metrics": metrics}]}
            body = json.dumps({"resourceMetrics": [resource]}).encode()
            headers = {"content-type": "application/json"}
            with contextlib.suppress(OSError):
                urllib.request.urlopen(urllib.request.Request(self._endpoint, body, headers), timeout=5).close()
                self.sent += 1

    def close(self) -> None:
        self._over.set()
        self.join()


@pytest.fixture
def late_clock() -> Iterator[list[LateClock]]:
    """Ends the clock that the test puts into the list."""
    found: list[LateClock] = []
    yield found
    for clock in found:
        clock.close()


def test_a_drifting_training_is_critical_at_prometheus_and_a_calm_one_is_not(
    stage: Any, helpers: Any, alerting: Any, home: Path, late_clock: list[LateClock]
) -> None:
    prometheus = stage.prometheus(config=alerting.prometheus_config(helpers, home, SHORT))
    late_clock.append(LateClock(prometheus.otlp))
    late_clock[0].start()
    with trainers(home, "http://127.0.0.1:9") as runs:
        endpoint = f"sink.otlp.metrics_endpoint={prometheus.otlp}"
        runs.start("drift", *DRIFT, endpoint)
        runs.start("calm", *CALM, endpoint)

        def firing() -> dict[str, str]:
            found = prometheus.query('ALERTS{alertstate="firing"}')
            return {item["metric"]["esper_run_id"]: item["metric"]["alertname"] for item in found}

        helpers.wait_for(lambda: len(runs.levels("drift")) >= 5, "updates of the drift", PATIENCE_S)
        # First what happened, from the journal: without it the alert would prove nothing.
        assert set(runs.levels("drift")) == {"critical"}
        helpers.wait_for(lambda: firing().get(runs.run_id("drift")) == "EsperKLCritical", "the alert", PATIENCE_S)
        helpers.wait_for(lambda: len(runs.levels("calm")) >= 20, "updates of the calm run", PATIENCE_S)
        helpers.wait_for(
            lambda: prometheus.query("esper:policy:updates_judged >= 10"), "the calm run's updates", PATIENCE_S
        )
        assert set(runs.levels("calm")) == {"healthy"}
        # Of the verdict alone: with times this short, a loaded machine may delay a real heartbeat beyond them.
        judged = {run: name for run, name in firing().items() if name.startswith("EsperKL")}
        assert judged == {runs.run_id("drift"): "EsperKLCritical"}
        counted = {
            item["metric"]["esper_ppo_health"]: float(item["value"][1])
            for item in prometheus.query(f'esper_policy_updates_total{{esper_run_id="{runs.run_id("calm")}"}}')
        }
        assert set(counted) == {"unknown", "healthy", "warning", "critical", "non_finite"}
        assert counted["healthy"] == sum(counted.values()) > 0
        assert [runs.end("drift"), runs.end("calm")] == [128 + signal.SIGTERM] * 2
        # An orderly end: the alert ends too, and nobody is missed.
        helpers.wait_for(lambda: firing() == {}, "quiet", PATIENCE_S)
        # A late clock is no silence; that it ends is.
        late = 'esper:run:silence_seconds{esper_run_id="late"}'
        helpers.wait_for(lambda: late_clock[0].sent > SHORT.vanished_s, "a late clock for long enough", PATIENCE_S)
        assert float(prometheus.query(late)[0]["value"][1]) < SHORT.vanished_s
        late_clock[0].close()
        helpers.wait_for(lambda: firing() == {"late": "EsperRunVanished"}, "the end of the late clock", PATIENCE_S)
        assert len(prometheus.query("esper:run:silence_seconds")) == 1


# --- who is told --------------------------------------------------------------------------------


GATEWAY = """
receivers:
  otlp:
    protocols:
      http: {endpoint: "${env:ESPER_OTLP_HTTP}"}
exporters:
  otlp_http:
    metrics_endpoint: PROMETHEUS
    retry_on_failure: {initial_interval: 200ms, max_interval: 1s, max_elapsed_time: 0}
    sending_queue: {num_consumers: 1}
extensions:
  health_check: {endpoint: "${env:ESPER_HEALTH}"}
service:
  extensions: [health_check]
  telemetry:
    metrics:
      readers: [{pull: {exporter: {prometheus: {host: 127.0.0.1, port: "${env:ESPER_COLLECTOR_METRICS_PORT}"}}}}]
  pipelines:
    metrics: {receivers: [otlp], exporters: [otlp_http]}
"""


def test_each_trouble_arrives_and_an_orderly_end_and_an_outage_wake_nobody(
    stage: Any, helpers: Any, alerting: Any, home: Path, webhook: Any
) -> None:
    alertmanager = alerting.start_alertmanager(stage, helpers, webhook)
    gateway = stage.collector(GATEWAY.replace("PROMETHEUS", "http://127.0.0.1:9"), name="gateway", start=False)
    prometheus = stage.prometheus(
        config=alerting.prometheus_config(
            helpers, home, SHORT, alertmanagers=alertmanager, gateways=f"127.0.0.1:{gateway.metrics}"
        )
    )
    config = next(gateway.home.glob("config-*"))
    config.write_text(config.read_text().replace("http://127.0.0.1:9", prometheus.otlp))
    gateway.start()

    def known() -> set[str]:
        """Runs with updates at Prometheus."""
        found = prometheus.query("last_over_time(esper_ppo_last_update_id[10m]) >= 2")
        return {item["metric"]["esper_run_id"] for item in found}

    def told(name: str, run: str = "") -> None:
        helpers.wait_for(lambda: webhook.firing()[name, run], f"{name} {run}; told: {webhook.firing()}", PATIENCE_S)

    with trainers(home, gateway.url) as runs:
        runs.start("calm", *CALM)
        runs.start("killed", *CALM)
        runs.start("drift", *DRIFT)
        # Small iterations: a hang is ten of them, and at least ten seconds.
        small = ("env.n_envs=1", "ppo.rollout_steps=64")
        runs.start("hung", *CALM, *small, "env.kwargs={hang_at = 1000, hang_s = 26.0}")
        runs.start("failed", *CALM, "env.kwargs={fail_at = 3000}")
        names = {name: helpers.wait_for(lambda name=name: runs.run_id(name), name, PATIENCE_S) for name in runs.running}
        helpers.wait_for(lambda: known() >= {names["killed"], names["calm"]}, "updates", PATIENCE_S)
        runs.end("killed", signal.SIGKILL)
        told("EsperKLCritical", names["drift"])
        told("EsperRunFailed", names["failed"])
        told("EsperRunStalled", names["hung"])
        told("EsperRunVanished", names["killed"])

        # A new attempt at the killed run lives, and ends in order: the first attempt is not missed again.
        runs.start("killed", resume=names["killed"])
        helpers.wait_for(lambda: ("EsperRunVanished", names["killed"]) in webhook.resolved(), "relief", PATIENCE_S)
        second = f'esper_ppo_last_update_id{{esper_run_id="{names["killed"]}", esper_run_attempt="2"}}'
        helpers.wait_for(lambda: prometheus.query(second), "an update of the second attempt", PATIENCE_S)
        runs.end("killed")
        helpers.wait_for(lambda: ("EsperRunStalled", names["hung"]) in webhook.resolved(), "an end of it", PATIENCE_S)
        runs.end("hung")
        assert runs.running.pop("failed").wait(250) == 1
        ended = 'esper:run:ended{{esper_run_id=~"{}|{}"}}'.format(names["killed"], names["hung"])
        helpers.wait_for(lambda: len(prometheus.query(ended)) == 2, "two orderly ends", PATIENCE_S)

        # The gateway is away for so long that each run counts as vanished: one page, and not one for each.
        gateway.stop()
        told("EsperPipelineDown")
        vanished = 'ALERTS{alertname="EsperRunVanished", alertstate="firing"}'
        helpers.wait_for(lambda: len(prometheus.query(vanished)) == 2, "the rules' own view", PATIENCE_S)
        gateway.start()
        helpers.wait_for(lambda: prometheus.query(vanished) == [], "runs that are heard again", PATIENCE_S)
        assert [runs.end("calm"), runs.end("drift")] == [128 + signal.SIGTERM] * 2
        helpers.wait_for(lambda: prometheus.query("esper:run:silence_seconds") == [], "orderly ends", PATIENCE_S)
        helpers.wait_for(lambda: ("EsperPipelineDown", "") in webhook.resolved(), "the all-clear", PATIENCE_S)
    # Each of them and nothing else. That each comes once, test_collector_alerts_once.py proves: with times this short,
    # a machine under load delays a real heartbeat so much that an alert ends and begins again.
    assert set(webhook.firing()) == {
        ("EsperKLCritical", names["drift"]),
        ("EsperRunFailed", names["failed"]),
        ("EsperRunStalled", names["hung"]),
        ("EsperRunVanished", names["killed"]),
        ("EsperPipelineDown", ""),
    }
    assert all(text["runbook_url"].rpartition("#")[2] in {name.lower() for name in ALERTS} for text in webhook.texts)


def test_an_alert_that_another_one_explains_is_muted(stage: Any, helpers: Any, alerting: Any, webhook: Any) -> None:
    address = alerting.start_alertmanager(stage, helpers, webhook)

    def alert(name: str, run: str = "", **labels: str) -> dict[str, Any]:
        identity = {"job": "esper", "instance": f"{run}-i", "esper_run_id": run, "esper_rank": "0"} if run else {}
        return {"labels": {"alertname": name, "severity": "critical", **identity, **labels}}

    url = f"http://{address}/api/v2/alerts"

    def fire(*alerts: dict[str, Any]) -> None:
        headers = {"content-type": "application/json"}
        urllib.request.urlopen(urllib.request.Request(url, json.dumps(alerts).encode(), headers), timeout=5).close()

    def muted() -> dict[str, bool]:
        """Of every alert, by name and run, whether another one mutes it."""
        return {
            item["labels"]["alertname"] + item["labels"].get("esper_run_id", ""): bool(item["status"]["inhibitedBy"])
            for item in helpers.get_json(url)
        }

    def told_of(*alerts: dict[str, Any]) -> set[str]:
        """Alerts that are not muted when all of these fire.

        Alertmanager takes an alert in as one that mutes some time after it has shown it, in the order in which they
        came: once the last one mutes, all do.
        """
        fire(*alerts)
        fire(alert("EsperNonFinite", "last"), alert("EsperRunFailed", "last"))
        helpers.wait_for(lambda: muted().get("EsperRunFailedlast"), "the last alert to be muted")
        found = muted()
        assert len(found) == len(alerts) + 2
        return {name for name, is_muted in found.items() if not is_muted} - {"EsperNonFinitelast"}

    assert told_of(
        alert("EsperCollectorDown", job="esper-agent", host_name="one"),
        alert("EsperRunVanished", "a", host_name="one"),
        alert("EsperRunVanished", "b", host_name="two"),
        alert("EsperKLCritical", "b", host_name="two"),
        alert("EsperKLCritical", "c", host_name="two"),
        alert("EsperNonFinite", "d"),
        alert("EsperRunFailed", "d"),
        alert("EsperRunFailed", "e"),
    ) == {"EsperCollectorDown", "EsperRunVanishedb", "EsperKLCriticalc", "EsperNonFinited", "EsperRunFailede"}
