"""What the plugin declares, and that runs of 0.1, when the task was part of the core, go on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from esper_core.cli.main import main
from esper_core.config.layers import load_config
from esper_core.reading import open_run

OLD = Path(__file__).with_name("run-0.1")
"""Configuration and checkpoint of a run of esper-core 0.1 before the plugin: 6 updates, 8 episodes, hidden = [4]."""


def test_its_presets_load_no_torch_and_no_gymnasium() -> None:
    script = (
        "import sys; from esper_core.config.layers import load_config\n"
        "config = load_config(no_file=True).config\n"
        "assert (config.preset, config.run.episodes, config.env.n_envs) == ('morphogenesis', 20, 4), config\n"
        "assert not {'torch', 'numpy', 'gymnasium', 'mnist1d', 'matplotlib'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_full_preset_selects_the_task_whatever_the_file_leaves_open(tmp_path: Path) -> None:
    config = load_config(cwd=tmp_path, flags={"preset": "morphogenesis-full"}).config
    assert (config.env.id, config.env.n_envs, config.run.updates) == ("morphogenesis", 64, 1000)
    other = load_config(cwd=tmp_path, flags={"preset": "morphogenesis-full", "env.id": "CartPole-v1"}).config
    assert (other.env.id, other.env.n_envs) == ("CartPole-v1", 64)


def test_a_run_of_0_1_is_evaluated_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("esper_sink_journal", reason="a run on disk needs the journal")
    run = tmp_path / "runs" / "old"
    shutil.copytree(OLD, run)
    (run / "telemetry").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["eval", str(run), "--episodes", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["environment"], found["update_id"], found["episode_length_mean"]) == ("morphogenesis", 6, 24.0)
    assert main(["ppo", "--resume", str(run), "--updates", "8", "--sinks", "journal"]) == 0
    resumed = [event.payload.update_id for event in open_run(run).updates()]
    assert resumed == [7, 8]
    config = open_run(run).config
    assert config["env"]["kwargs"] == {"stagger": True, "batches": 1, "validation_size": 20, "batch_size": 8}
    assert config["ppo"]["hidden"] == [4]
