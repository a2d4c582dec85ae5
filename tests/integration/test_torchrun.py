"""``torchrun -m esper_core ppo`` with two ranks: one run, and one end when a rank is gone."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from esper_core.cli.main import main
from esper_core.health import RunState
from esper_core.reading import open_run
from esper_core.runs.layout import journal_files
from esper_core.runs.segments import read_segment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GUARD_S = 250
TIMEOUT_S = {"kill": 250, "hang": 8}

ENVIRONMENT = """
import os, signal, time
import gymnasium as gym

class Hurt(gym.Wrapper):
    steps = 0

    def step(self, action):
        Hurt.steps += 1
        if os.environ["RANK"] == "1" and Hurt.steps == 800:
            if os.environ["HURT"] == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if os.environ["HURT"] == "hang":
                time.sleep(1000)
        return self.env.step(action)

gym.register("Hurt-v0", entry_point=lambda **_: Hurt(gym.make("CartPole-v1")))
"""

ARGUMENTS = [
    *("-m", "esper_core", "ppo", "--sinks", "console,journal", "--no-config", "--set", "otel.episodes=true"),
    *("--set", "ppo.rollout_steps=32", "--set", "env.n_envs=4", "--set", "ppo.minibatch_size=64"),
    *("--set", "run.rank_check_updates=1"),
]


def written(path: Path) -> str:
    return read_segment(path).decode()


def test_torchrun_trains_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Counts are of both ranks; readers see the run of rank 0; each rank wrote a journal of its own."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
            *ARGUMENTS,
            *("--env", "CartPole-v1", "--steps", "1000", "--updates", "0", "--episodes", "0"),
        ],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=GUARD_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done: ") == 1, "the console is rank 0's"
    (path,) = (tmp_path / "runs").iterdir()
    run = open_run(path)
    updates = [event.payload for event in run.updates()]
    assert [(update.update_id, update.env_steps) for update in updates] == [(1, 256), (2, 512), (3, 768), (4, 1024)]
    assert all(update.steps == 256 for update in updates), "an update is of both ranks' samples"
    files = journal_files(run.directory)
    assert sorted({item.rank for item in files}) == [0, 1]
    first, second = ("".join(written(item.path) for item in files if item.rank == rank) for rank in (0, 1))
    assert first.count('"esper.ppo.update"') >= 4
    assert '"esper.ppo.update"' not in second, "updates are told once"
    assert re.search(r'"esper\.rank","value":\{"intValue":"1"\}', second)
    returns = [re.findall(r'episode\.return","value":\{"doubleValue":([\d.]+)', text) for text in (first, second)]
    assert returns[0]
    assert returns[0] != returns[1], "the ranks play other episodes"
    assert sum(update.episodes for update in updates) == len(returns[0]) + len(returns[1])
    assert json.loads((path / "run.json").read_text())["env_steps"] == 1024
    assert main(["runs", "--dir", str(tmp_path / "runs")]) == 0
    assert capsys.readouterr().out.count(path.name) == 1


@pytest.fixture
def ranks(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Two ranks as a cluster starts them, without torchrun; the test gives their HURT."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.parametrize("hurt", ["kill", "hang"])
def test_a_rank_that_is_gone_or_hangs_ends_all(hurt: str, tmp_path: Path, ranks: list[subprocess.Popen[str]]) -> None:
    (tmp_path / "hurt_env.py").write_text(ENVIRONMENT)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    for rank in (0, 1):
        where = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "HURT": hurt}
        command = [
            *ARGUMENTS,
            "--env",
            "hurt_env:Hurt-v0",
            "--updates",
            "100000",
            "--set",
            f"run.rank_timeout_s={TIMEOUT_S[hurt]}",
        ]
        ranks.append(
            subprocess.Popen(
                [sys.executable, *command],
                cwd=tmp_path,
                env=os.environ | where,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    said = ranks[0].communicate(timeout=GUARD_S)[1]
    assert ranks[0].returncode == 1, said
    assert "rank 0 of 2 lost the others" in said
    assert "Traceback" not in said
    if hurt == "kill":
        assert ranks[1].wait(GUARD_S) == -signal.SIGKILL
    (path,) = (tmp_path / "runs").iterdir()
    run = open_run(path)
    assert run.state is RunState.FAILED
    if hurt == "hang":
        assert "run.rank_timeout_s" in said
        return
    assert [event.payload.update_id for event in run.updates()][:2] == [1, 2]
    assert any("run.started" in written(item.path) for item in journal_files(run.directory) if item.rank == 1)
