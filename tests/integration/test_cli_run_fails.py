"""``esper ppo`` when something goes wrong: one clear error, its exit code, and what is left on disk."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from short_episodes import SHORT_EPISODES
from small_disk import small_disk_at
from small_runs import CARTPOLE, TINY, only_run

from esper_core.cli.main import main
from esper_core.errors import EXIT_FAILED, EXIT_LOSSY, EXIT_OK, EXIT_USAGE
from esper_core.health import RunState
from esper_core.reading import open_run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytest.importorskip("esper_sink_journal", reason="a run on disk needs the journal")
pytest.importorskip("esper_sink_console", reason="the lines of updates are the console's")

SINKS = """
from __future__ import annotations
from esper_core.hooks import hookimpl

class Failing:
    @hookimpl
    def esper_ppo_updated(self, event):
        raise ValueError("no")

class Refusing:
    @hookimpl
    def esper_sink_opened(self, context):
        raise ConnectionError("nobody there")
"""
ENVIRONMENTS = (
    SHORT_EPISODES
    + """
class Poisoned(Base):
    def reward(self):
        return float("nan")

class PoisonedLater(Base):
    rewards = 0
    def reward(self):
        PoisonedLater.rewards += 1
        return 1.0 if PoisonedLater.rewards < 1000 else float("nan")

class Broken(Base):
    def reward(self):
        if self.steps == 3:
            raise RuntimeError("the simulator fell over")
        return 1.0

class Leaving(Base):
    def reward(self):
        raise SystemExit(3)

for kind in (Poisoned, PoisonedLater, Broken, Leaving):
    if f"{kind.__name__}-v0" not in gym.registry:
        gym.register(f"{kind.__name__}-v0", kind)
"""
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder with the sinks and environments of this file, as the current one."""
    (tmp_path / "mine.py").write_text(SINKS)
    (tmp_path / "fragile_envs.py").write_text(ENVIRONMENTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("fragile_envs", None)


@pytest.mark.filterwarnings("ignore:.*NaN value")  # Gymnasium says it too
def test_nan_stops_the_run_with_one_clear_error(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["ppo", "--env", "fragile_envs:Poisoned-v0", "--updates", "2", *TINY]
    assert main(words) == EXIT_FAILED
    said = capsys.readouterr()
    assert "failed: NaN or Inf in update 1" in said.out
    assert "esper: NaN or Inf in update 1" in said.err
    assert "--keep-going" in said.err
    assert "Traceback" not in said.err
    run = open_run("latest", here / "runs")
    assert run.state is RunState.FAILED
    assert run.summary is not None
    assert (run.summary["state"], run.summary["verdict"]) == ("failed", "failed")


@pytest.mark.filterwarnings("ignore:.*NaN value")  # Gymnasium says it too
def test_nan_of_an_environment_is_not_answered_with_a_learning_rate(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["ppo", "--env", "fragile_envs:PoisonedLater-v0", "--updates", "1000", *TINY]
    assert main(words) == EXIT_FAILED
    hint = capsys.readouterr().err.splitlines()[-1]
    assert hint.endswith(f"ppo --resume runs/{only_run(here).name}")
    assert "learning_rate" not in hint


@pytest.mark.filterwarnings("ignore:.*NaN value")  # Gymnasium says it too
def test_keep_going_goes_on_after_nan(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["ppo", "--env", "fragile_envs:Poisoned-v0", "--updates", "2", "--keep-going", *TINY]
    assert main(words) == EXIT_OK
    assert "verdict  non-finite" in capsys.readouterr().out


def test_an_error_in_the_environment_flushes_and_names_the_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["ppo", "--env", "fragile_envs:Broken-v0", "--updates", "2", *TINY]
    assert main(words) == EXIT_FAILED
    said = capsys.readouterr()
    run = only_run(here)
    assert "the simulator fell over" in said.err
    assert "fragile_envs.py, line" in said.err
    assert f"runs/{run.name}" in said.err
    assert "Traceback" not in said.err
    opened = open_run(run)
    assert [event.kind for event in opened.events()][-1] == "run_finished"
    assert opened.summary is not None
    assert opened.summary["state"] == "failed"
    assert "the simulator fell over" in opened.summary["reason"]


def test_debug_shows_the_traceback(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ppo", "--debug", "--env", "fragile_envs:Broken-v0", "--updates", "1", *TINY]) == EXIT_FAILED
    assert "Traceback" in capsys.readouterr().err


def test_an_environment_that_exits_is_a_failed_run_and_says_where(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ppo", "--env", "fragile_envs:Leaving-v0", "--updates", "2", *TINY]) == EXIT_FAILED
    said = capsys.readouterr().err
    assert "fragile_envs:Leaving-v0" in said
    assert "exit(3)" in said
    assert "fragile_envs.py, line" in said
    assert open_run(only_run(here)).state is RunState.FAILED


def test_lost_telemetry_changes_the_exit_code_only_when_asked(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["ppo", "--updates", "2", "--sinks", "journal", "--sink", "./mine.py:Failing", *CARTPOLE, *TINY]
    assert main(words) == EXIT_OK
    assert "lost     Failing 2" in capsys.readouterr().out
    assert main([*words, "--strict-telemetry"]) == EXIT_LOSSY


def test_a_sink_that_does_not_open_ends_the_start_and_leaves_nothing(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ppo", "--updates", "1", "--sink", "./mine.py:Refusing", *CARTPOLE, *TINY]) == EXIT_USAGE
    error = capsys.readouterr().err
    assert "Refusing" in error
    assert "nobody there" in error
    assert list((here / "runs").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--sink", "jurnal"], 'no sink named "jurnal" is installed, did you mean "journal"?'),
        (["--env", "CartPol-v1"], "CartPol"),
        (["--env", "Pendulum-v1", "--set", "ppo.stop_on=both"], "stop_on"),
        (["--preset", "cartpol"], 'unknown preset "cartpol"'),
        (["--resume", "nosuchrun"], "nosuchrun"),
        (["--causal-mask", "nosuchmodule:mask"], "nosuchmodule"),
        (["--episodes", "-1"], "--episodes: expected int >= 0 (is -1)"),
        (["--steps", "many"], "argument --steps: 'many' is no whole number"),
        (["--set", "sink.console.colour=1"], 'unknown key "colour"'),
    ],
)
def test_wrong_use_is_one_clear_error_before_anything_is_written(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], expected: str
) -> None:
    assert main(["ppo", "--updates", "1", *words]) == EXIT_USAGE
    error = capsys.readouterr().err
    assert error.startswith("esper: ")
    assert expected in error
    assert len(error.splitlines()) <= 3
    assert not (here / "runs").exists() or list((here / "runs").iterdir()) == []


def test_a_full_disk_ends_with_the_summary_and_one_error(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with small_disk_at(here / "small", 128) as place:
        code = main(["ppo", "--env", "CartPole-v1", "--updates", "40", "--dir", str(place), *TINY])
        said = capsys.readouterr()
    assert code == EXIT_FAILED
    assert "done: 40 of 40 updates" in said.out  # training went on
    assert re.search(r"lost +journal \d+", said.out)
    assert "cannot write checkpoint" in said.err
    assert "its policy was not kept" in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize("closed", [1, 2])
def test_a_closed_stream_costs_what_is_said_there_and_nothing_else(here: Path, closed: int) -> None:
    command = f'"{sys.executable}" -m esper_core ppo --env CartPole-v1 --updates 2 {" ".join(TINY)} {closed}>&-'
    result = subprocess.run(["sh", "-c", command], cwd=here, capture_output=True, text=True, timeout=250, check=False)
    assert (result.returncode, "Error" in result.stderr) == (EXIT_OK, False)
    opened = open_run(only_run(here))
    assert len(list(opened.updates())) == 2
    assert opened.summary is not None
    assert "lossy" not in json.dumps(opened.summary["verdict"])
