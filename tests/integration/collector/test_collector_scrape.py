"""A real Prometheus scrapes a run's page, and the rules that we ship find what they ask for there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from esper_core.config.schema import EsperConfig, RunConfig
from esper_core.events import RunStarted
from esper_core.health import HealthLevel
from esper_core.host.session import Session
from esper_core.runs import create_run
from esper_core.testing import make_update

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.collector
pytest.importorskip("esper_sink_prometheus", reason="esper-sink-prometheus is not installed")


def _expressions(helpers: Any) -> dict[str, str]:
    text = (helpers.CONFIG / "prometheus" / "esper.rules.yml").read_text()
    rules = [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]
    return {rule.get("record") or rule["alert"]: rule["expr"] for rule in rules}


def test_rules_and_an_alert_hold_for_a_scraped_run(stage: Any, tmp_path: Path, helpers: Any) -> None:
    """The alert on NaN, the run's end and its heartbeat, each by the shipped expression and from the scrape alone."""
    (port,) = helpers.free_ports(1)
    prometheus = stage.prometheus(
        config=f"""
global: {{scrape_interval: 500ms, evaluation_interval: 1s}}
rule_files: ["{helpers.CONFIG}/prometheus/esper.rules.yml"]
scrape_configs: [{{job_name: esper, static_configs: [{{targets: ["127.0.0.1:{port}"]}}]}}]
"""
    )
    config = EsperConfig(
        sinks=("prometheus",),
        sink={"prometheus": {"port": port, "linger_s": 29}},
        run=RunConfig(close_timeout_s=30),
    )
    rules = _expressions(helpers)
    with Session(config, run=create_run(tmp_path), install_signal_handlers=False, environment="toy") as session:
        session.emitter.emit_run_started(RunStarted(environment="toy", heads=("slot",)))
        for number in (1, 2):
            session.emitter.begin_rollout(number)
            session.emitter.begin_update(number)
            session.emitter.end_update(number)
            health = HealthLevel.NON_FINITE if number == 2 else HealthLevel.HEALTHY
            kl = float("nan") if number == 2 else 0.004
            session.emitter.emit_ppo_update(make_update(number, kl_divergence=kl, health=health))
            session.progress(updates=number, env_steps=number * 10)
        (alert,) = helpers.wait_for(lambda: prometheus.query(rules["EsperNonFinite"]), "the alert on NaN")
        run_id = alert["metric"]["esper_run_id"]
        assert alert["metric"] | {"instance": f"127.0.0.1:{port}", "job": "esper"} == alert["metric"]
        assert alert["metric"]["esper_run_environment"] == "toy"
        assert prometheus.query(rules["esper:run:heartbeat_seconds"])
        assert prometheus.query("esper_ppo_last_head_share_ratio"), "the page's units give the rules' names"
        assert not prometheus.query(rules["esper:run:ended"])
    ended = helpers.wait_for(lambda: prometheus.query(rules["esper:run:ended"]), "the end, read by the last scrape")
    assert [item["metric"]["esper_run_id"] for item in ended] == [run_id]
    assert not [item for item in session.report.sinks if item.cut_off or item.failures or item.lost]
