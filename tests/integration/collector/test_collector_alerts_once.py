"""Drift, kill, hang, failure, outage and resume at a real Alertmanager: each is told once.

What a real training says comes late on a busy machine, and a late heartbeat ends and begins an alert again. Here time
is data: the samples of the next half minute stand in Prometheus before they are due, so that how fast anything runs
changes when an alert comes, and not how often.
"""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from rules import Times

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.collector, pytest.mark.slow, pytest.mark.timeout(600)]

PATIENCE_S = 250.0
"""No limit of the product: how long a busy machine may take."""
AHEAD_S = 30
"""So long before they are due samples are written."""
SHORT = Times(
    every_s=1,
    windows_s=(10, 60, 300),
    held_s=2,
    vanished_s=12,
    returned_s=3,
    pipeline_s=5,
    pipeline_held_s=1,
    back_s=12,
    together_s=5,
    stall_min_s=5,
    first_progress_s=60,
)
STATES = ("live", "done", "stopped", "failed")
LEVELS = ("healthy", "warning", "critical")
UNITS = {
    "esper.run.heartbeat": "s",
    "esper.run.last_progress": "s",
    "esper.ppo.last.rollout_duration": "s",
    "esper.ppo.last.update_duration": "s",
}


def labels(**values: str) -> list[dict[str, Any]]:
    """OTLP attributes; ``__`` is a dot."""
    return [{"key": key.replace("__", "."), "value": {"stringValue": value}} for key, value in values.items()]


@dataclass
class Process:
    """One process of a run with an update every second, as its metrics show it.

    Attributes:
        run_id: of the run.
        attempt: of the run, from 1.
        level: of each update.
        written: second since 1970 up to which its samples stand in Prometheus.
        progress_until: the second from which on it hangs.
    """

    run_id: str
    written: int
    attempt: int = 1
    level: str = "healthy"
    progress_until: float = float("inf")
    _points: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    _updates: int = 0

    def live(self, until: int) -> dict[str, Any]:
        """What it says in each second up to one."""
        for now in range(self.written + 1, until + 1):
            self._updates += now <= self.progress_until
            self._say(now, "live")
            self._add("esper.ppo.last.rollout_duration", now, 0.3)
            self._add("esper.ppo.last.update_duration", now, 0.1)
            self._add("esper.policy.health", now, 3 if self.level == "critical" else 1)
            for level in LEVELS:
                count = self._updates if level == self.level else 0
                self._add("esper.policy.updates", now, count, esper__ppo__health=level)
        return self._resource(until)

    def end(self, state: str) -> dict[str, Any]:
        """Its last word, in the next second."""
        self._say(self.written + 1, state)
        return self._resource(self.written + 1)

    def _say(self, now: int, state: str) -> None:
        self._add("esper.run.heartbeat", now, now)
        self._add("esper.run.last_progress", now, min(now, self.progress_until))
        for known in STATES:
            self._add("esper.run.state", now, float(known == state), esper__run__state=known)

    def _add(self, name: str, now: int, value: float, **attributes: str) -> None:
        point = {"asDouble": value, "timeUnixNano": f"{now}000000000", "attributes": labels(**attributes)}
        self._points.setdefault(name, []).append(point)

    def _resource(self, until: int) -> dict[str, Any]:
        self.written = max(self.written, until)
        metrics: list[dict[str, Any]] = []
        for name, points in self._points.items():
            data: dict[str, Any] = {"dataPoints": points}
            kind = "gauge"
            if name == "esper.policy.updates":
                kind = "sum"
                data |= {"isMonotonic": True, "aggregationTemporality": 2}
            metrics.append({"name": name, "unit": UNITS.get(name, ""), kind: data})
        self._points = {}
        instance = f"{self.run_id}-{self.attempt}"
        identity = {"service__name": "esper", "service__instance__id": instance, "esper__run__id": self.run_id}
        attributes = labels(**identity, esper__run__attempt=str(self.attempt), esper__rank="0")
        return {"resource": {"attributes": attributes}, "scopeMetrics": [{"metrics": metrics}]}


class Timeline(threading.Thread):
    """Keeps the samples of living processes ahead of the clock, until it is closed."""

    def __init__(self, endpoint: str) -> None:
        super().__init__()
        self._endpoint = endpoint
        self._over = threading.Event()
        self._lock = threading.Lock()
        self.living: list[Process] = []

    def write(self, *resources: dict[str, Any]) -> None:
        body = json.dumps({"resourceMetrics": resources}).encode()
        request = urllib.request.Request(self._endpoint, body, {"content-type": "application/json"})
        urllib.request.urlopen(request, timeout=100).close()

    def run(self) -> None:
        while True:
            with self._lock:
                until = int(time.time()) + AHEAD_S
                self.write(*(process.live(until) for process in self.living))
            if self._over.wait(1.0):
                return

    def close(self) -> None:
        """What was written goes on for so long."""
        self._over.set()
        self.join()


@pytest.fixture
def timelines() -> Iterator[list[Timeline]]:
    """Ends the timelines that the test puts into the list."""
    found: list[Timeline] = []
    yield found
    for timeline in found:
        timeline.close()


def test_each_trouble_is_told_once(
    stage: Any, helpers: Any, alerting: Any, webhook: Any, tmp_path: Path, timelines: list[Timeline]
) -> None:
    address = alerting.start_alertmanager(stage, helpers, webhook, group_wait="3s")
    prometheus = stage.prometheus(config=alerting.prometheus_config(helpers, tmp_path, SHORT, alertmanagers=address))

    def told(name: str, run: str = "") -> None:
        helpers.wait_for(lambda: webhook.begun()[name, run], f"{name} {run}; told: {webhook.begun()}", PATIENCE_S)

    def relieved(name: str, run: str = "") -> None:
        helpers.wait_for(lambda: (name, run) in webhook.resolved(), f"the end of {name} {run}", PATIENCE_S)

    def vanished() -> set[str]:
        found = prometheus.query('ALERTS{alertname="EsperRunVanished", alertstate="firing"}')
        return {item["metric"]["esper_run_id"] for item in found}

    now = int(time.time())
    calm, drift = Process("calm", now), Process("drift", now, level="critical")
    hung = Process("hung", now, progress_until=now + 3)
    killed, failed = Process("killed", now), Process("failed", now)
    timeline = Timeline(prometheus.otlp)
    timelines.append(timeline)
    timeline.living += [calm, drift, hung]
    timeline.start()
    timeline.write(killed.live(now + 3), failed.live(now + 3))
    timeline.write(failed.end("failed"))
    told("EsperKLCritical", "drift")
    told("EsperRunFailed", "failed")
    told("EsperRunStalled", "hung")
    told("EsperRunVanished", "killed")

    # A new attempt at the killed run, which ends in order: the first attempt is not missed again.
    second = Process("killed", int(time.time()), attempt=2)
    timeline.write(second.live(second.written + 4))
    timeline.write(second.end("done"))
    relieved("EsperRunVanished", "killed")

    # An orderly end for one, and nothing more from the two others: each counts as vanished, and one page says why.
    timeline.close()
    timeline.write(hung.end("stopped"))
    told("EsperPipelineDown")
    relieved("EsperRunStalled", "hung")
    helpers.wait_for(lambda: vanished() == {"calm", "drift"}, "the rules' own view", PATIENCE_S)
    calm.written = drift.written = int(time.time())
    timeline.write(calm.live(calm.written + 5), drift.live(drift.written + 5))
    timeline.write(calm.end("done"), drift.end("stopped"))
    helpers.wait_for(lambda: prometheus.query("esper:run:silence_seconds") == [], "orderly ends", PATIENCE_S)
    relieved("EsperPipelineDown")
    relieved("EsperKLCritical", "drift")
    assert vanished() == set()
    assert webhook.begun() == {
        ("EsperKLCritical", "drift"): 1,
        ("EsperRunFailed", "failed"): 1,
        ("EsperRunStalled", "hung"): 1,
        ("EsperRunVanished", "killed"): 1,
        ("EsperPipelineDown", ""): 1,
    }
