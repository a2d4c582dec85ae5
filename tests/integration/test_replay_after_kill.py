"""A training that is killed with -9 leaves every update it had finished, and the run says that it crashed."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from esper_core.cli.main import main
from esper_core.health import RunState
from esper_core.reading import open_run

if TYPE_CHECKING:
    from pathlib import Path


def test_every_finished_update_of_a_killed_training_is_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("esper_sink_journal", reason="a run on disk needs the journal")
    pytest.importorskip("esper_sink_console", reason="the lines of updates are the console's")
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-m", "esper_core", "ppo", "--steps", "100000000", "--run-name", "doomed"]
    command += ["--no-config", "--set", "ppo.rollout_steps=16", "--set", "ppo.epochs=1"]
    command += ["--env", "CartPole-v1"]
    shown = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as trainer:
        assert trainer.stdout is not None
        deadline = threading.Timer(60, trainer.kill)
        deadline.start()
        for line in trainer.stdout:
            if line.startswith("update ") and line.endswith("\n"):
                shown = int(line.split()[1])
            if shown >= 20:
                trainer.kill()
        deadline.cancel()
    assert shown >= 20
    run = open_run("doomed")
    record = json.loads((run.path / "run.json").read_text())
    assert run.state is RunState.CRASHED  # its process is gone, and that wins over a fresh heartbeat
    record["heartbeat_ns"] -= 60_000_000_000  # instead of waiting until the promise is broken
    (run.path / "run.json").write_text(json.dumps(record))
    assert run.state is RunState.CRASHED
    assert main(["replay", "doomed"]) == 0
    out = capsys.readouterr().out
    replayed = [int(line.split()[1]) for line in out.splitlines() if line.startswith("update ")]
    # The console showed an update in its own thread, perhaps while its hook was still at work on the journal.
    assert replayed == list(range(1, len(replayed) + 1))
    assert len(replayed) >= shown - 1
    assert "; crashed; verdict crashed: the trainer's process is gone" in out
