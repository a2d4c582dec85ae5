"""A training behind a real Collector, on the screen: with the exporter that the how-to page prints."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("esper_sink_otlp", reason="sends by OTLP")
pytest.importorskip("esper_sink_tui", reason="the viewer is a plugin")

from esper_core.reading import open_run
from esper_sink_tui.listen import Receiver
from esper_sink_tui.watch import Watch

pytestmark = pytest.mark.collector
PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "watch-a-cluster.md"
# The exporter named otlp_http stands for someone's backend; the page adds another one beside it.
COLLECTOR = """
extensions: {health_check: {endpoint: "${env:ESPER_HEALTH}"}}
receivers: {otlp: {protocols: {http: {endpoint: "${env:ESPER_OTLP_HTTP}"}}}}
exporters:
  otlp_http: {endpoint: "http://127.0.0.1:1", sending_queue: {enabled: true}, retry_on_failure: {enabled: false}}
service:
  extensions: [health_check]
  telemetry: {metrics: {level: none}}
"""


def test_the_pages_exporter_brings_a_run_to_the_screen(stage: Any, tmp_path: Path) -> None:
    watch = Watch()
    with Receiver(lambda events: watch.receive(events, where="OTLP"), port=0) as receiver:
        printed = re.search(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert printed is not None
        exporter = yaml.safe_load(printed[1].replace("http://127.0.0.1:4318", receiver.url))
        collector = stage.collector(COLLECTOR, yaml.safe_dump(exporter))
        words = ["ppo", "--env", "CartPole-v1", "--updates", "6", "--sinks", "journal,otlp", "--dir", str(tmp_path)]
        small = ("ppo.rollout_steps=32", "ppo.minibatch_size=64", "env.n_envs=4", f"sink.otlp.endpoint={collector.url}")
        done = subprocess.run(
            [sys.executable, "-m", "esper_core", *words, *(part for item in small for part in ("--set", item))],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        stored = [event.payload for event in open_run("latest", tmp_path).updates()]

        collector.stop()  # sends what it holds
        while watch.tick():
            pass
    model = watch.model()
    assert list(model.snapshot.recent) == stored
    assert model.life.state.value == "done"
