"""Every hostile environment ends in one sentence with its id and a remedy, in its exit code and in its run's record."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from loaded_file import load_file

from esper_core.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
NAME = "hostile_environments"


SUITE: list[Any] = load_file(HERE / "environments.py", NAME).SUITE
SMALL = ("env.n_envs=2", "ppo.rollout_steps=16", "ppo.hidden=[4]", "ppo.epochs=1", "ppo.threads=1", "preset=none")


def words(env_id: str, runs: Path) -> list[str]:
    settings = [word for value in SMALL for word in ("--set", value)]
    train = ["ppo", "--no-config", "--env", env_id, "--updates", "3", "--sinks", "", "--dir", str(runs)]
    return [*train, *settings]


@pytest.fixture(autouse=True)
def _gradients() -> Iterator[None]:
    yield
    torch.set_grad_enabled(True)


def check(case: Any, code: int, said: str, runs: Path) -> None:
    assert code == case.code, said
    for part in case.says:
        assert part in said
    assert "unexpected error" not in said
    assert "Warning" not in said
    states = [json.loads(record.read_text())["state"] for record in runs.glob("*/run.json")]
    assert states == ([case.state] if case.state else [])
    summaries = [json.loads(file.read_text())["state"] for file in runs.glob("*/summary.json")]
    assert summaries == states


@pytest.mark.parametrize("case", [case for case in SUITE if not case.own_process], ids=lambda case: case.name)
def test_hostile_environment(case: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(words(f"{NAME}:hostile/{case.name}-v0", tmp_path / "runs"))
    said = capsys.readouterr().err
    check(case, code, said, tmp_path / "runs")
    if case.state != "done" and code != 130 and "--keep-going" not in said:
        assert f"{case.name}-v0" in said or "environments.py, line" in said


@pytest.mark.parametrize("case", [case for case in SUITE if case.own_process], ids=lambda case: case.name)
def test_hostile_environment_in_a_process_of_its_own(case: Any, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.py").write_text((HERE / "environments.py").read_text(encoding="utf-8"), encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, "-m", "esper_core.cli.main", *words(f"{NAME}:hostile/{case.name}-v0", tmp_path / "runs")],
        capture_output=True,
        text=True,
        env=dict(os.environ) | {"PYTHONPATH": str(tmp_path)},
        check=False,
        timeout=250,
    )
    check(case, ended.returncode, ended.stderr, tmp_path / "runs")
    assert "was called" not in ended.stderr


def test_an_interrupted_run_tells_how_it_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(f"{NAME}:hostile/Interrupts-v0", tmp_path / "runs")) == 130
    said = capsys.readouterr().out
    assert "stopped: SIGINT" in said
    (run,) = (tmp_path / "runs").iterdir()
    assert (run / "checkpoint.pt").is_file()
