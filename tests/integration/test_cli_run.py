"""``esper ppo`` from its words to its exit code, through every real part."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from typing import TYPE_CHECKING

import pytest
from present import payloads_of, present
from small_runs import CARTPOLE, TINY, only_run

from esper_core.cli.main import main
from esper_core.errors import EXIT_OK, EXIT_USAGE
from esper_core.events import PolicyEvaluated, RunFinished, RunStarted
from esper_core.health import RunState
from esper_core.reading import open_run
from esper_core.runs import RunRecord, create_run, write_record
from esper_core.runs.process import process_identity

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("esper_sink_journal", reason="a run on disk needs the journal")
pytest.importorskip("esper_sink_console", reason="the lines of updates are the console's")


CANARY = "canary-5d41402a"
SINK = """
from __future__ import annotations
import msgspec
from esper_core.hooks import Secret, hookimpl

class Config(msgspec.Struct, forbid_unknown_fields=True):
    door: Secret | None = None

class Mine:
    Config = Config
    def __init__(self, config):
        self.config = config
    @hookimpl
    def esper_ppo_updated(self, event):
        assert self.config.door.reveal() == "canary-5d41402a"
        print("mine heard", event.payload.update_id, self.config.door)
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """One real run in a process of its own: folder, and what it printed."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "mine.py").write_text(SINK)
    (folder / "esper.toml").write_text(
        'sinks = ["console", "journal", "./mine.py:Mine"]\n'
        "[ppo]\nrollout_steps = 16\nminibatch_size = 16\ntarget_kl = 0.02\n"
        f'[env]\nid = "CartPole-v1"\nn_envs = 2\n[sink.Mine]\ndoor = "{CANARY}"\n'
        f'[sink.elsewhere]\napi_token = "{CANARY}"\nendpoint = "https://me:{CANARY}@host"\n'
    )
    words = [sys.executable, "-m", "esper_core", "ppo", "--updates", "3", "--run-name", "first", "--seed", "4"]
    env = {key: value for key, value in os.environ.items() if not key.startswith(("ESPER_", "OTEL_"))}
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, timeout=250, check=False)
    return folder, done


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, as the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- a run that goes well ---------------------------------------------------------------------------


def test_it_ends_with_zero_and_says_what_it_trains(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, done = finished
    assert done.returncode == EXIT_OK, done.stderr
    run = only_run(folder)
    assert "training CartPole-v1 in 2 environments" in done.stderr
    assert "until 3 updates" in done.stderr
    assert "early stop: KL above 0.03 nats (1.5 x target_kl 0.02)" in done.stderr
    assert "sinks: console, journal, Mine" in done.stderr
    assert f"run: runs/{run.name}" in done.stderr
    assert len(re.findall(r"^update +\d+ .*KL", done.stderr, re.MULTILINE)) == 3
    assert "\x1b" not in done.stderr + done.stdout


def test_the_summary_is_on_stdout_alone(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = finished
    assert [line for line in done.stdout.splitlines() if line.startswith("mine heard")] == [
        f"mine heard {number} ***" for number in (1, 2, 3)
    ]
    assert "done: 3 of 3 updates" in done.stdout
    assert f"  run      runs/{only_run(folder).name}" in done.stdout
    assert "  lost     nothing" in done.stdout


def test_the_run_directory_holds_what_happened(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = finished
    run = open_run("latest", folder / "runs")
    assert run.path.name.endswith(run.run_id[-6:])
    assert "-first-" in run.run_id
    assert run.state is RunState.DONE
    assert [event.payload.update_id for event in run.updates()] == [1, 2, 3]
    kinds = [event.kind for event in run.events()]
    assert (kinds[0], kinds[-1]) == ("run_started", "run_finished")
    (finished_event,) = payloads_of(RunFinished, list(run.events())[-1:])
    assert 0 < present(finished_event.duration_s) < 100
    assert run.summary is not None
    assert (run.summary["state"], run.summary["updates"], run.summary["env_steps"]) == ("done", 3, 96)
    assert run.summary["kl_divergence"] == list(run.updates())[-1].payload.kl_divergence
    assert {sink["name"] for sink in run.summary["sinks"]} >= {"console", "journal", "Mine"}
    config = tomllib.loads((run.path / "config.toml").read_text())
    assert (config["run"]["seed"], config["env"]["n_envs"], config["sink"]["Mine"]["door"]) == (4, 2, "***")
    assert (run.path / "checkpoint.pt").is_file()


def test_a_secret_is_found_nowhere(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = finished
    assert CANARY not in done.stdout + done.stderr
    files = [path for path in (folder / "runs").rglob("*") if path.is_file()]
    assert len(files) >= 5
    for path in files:
        assert CANARY.encode() not in path.read_bytes(), path


def test_the_commands_of_the_summary_run_as_printed_from_a_fresh_shell(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, done = finished
    commands = [line.strip() for line in done.stdout.partition("next:\n")[2].splitlines()]
    assert [command.partition("runs/")[0].split()[-1] for command in commands][-3:] == ["replay", "export", "eval"]
    for command in commands:
        if " sanctum " in command:
            continue  # owns the terminal; its own tests run it
        shell = ["bash", "--noprofile", "--norc", "-c", command]
        env = {"PATH": "/usr/bin:/bin", "HOME": str(folder)}
        ran = subprocess.run(shell, cwd=folder, env=env, capture_output=True, text=True, timeout=250, check=False)
        assert ran.returncode == EXIT_OK, (command, ran.stderr)
        assert ran.stdout, command


# --- evaluating while training ----------------------------------------------------------------------


def test_the_policy_is_evaluated_while_it_trains_and_the_best_one_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    few = ["--set", "run.eval_episodes=2", "--set", "run.eval_deterministic=false"]
    assert main(["ppo", *CARTPOLE, *TINY, *few, "--updates", "3", "--eval-every", "2"]) == EXIT_OK
    assert "evaluation after update 2: return" in capsys.readouterr().err
    assert main(["ppo", "--resume", "latest", "--updates", "4"]) == EXIT_OK
    run = open_run("latest", "runs")
    told = payloads_of(PolicyEvaluated, (event for event in run.events() if event.kind == "policy_evaluated"))
    assert [(item.update_id, item.episodes, item.deterministic) for item in told] == [(2, 2, False), (4, 2, False)]
    assert told[0].better
    capsys.readouterr()
    assert main(["eval", "--best", "--episodes", "1", "--json"]) == EXIT_OK
    assert json.loads(capsys.readouterr().out)["update_id"] == told[1].best_update_id
    run.directory.best.unlink()
    assert main(["eval", "--best"]) == EXIT_USAGE
    assert "a run with --eval-every keeps its best policy" in capsys.readouterr().err


# --- resuming ---------------------------------------------------------------------------------------


def test_resuming_goes_on_in_the_same_run(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # A copy: other tests look at the finished run, and any of them may come later.
    folder = shutil.copytree(finished[0], tmp_path / "copy")
    monkeypatch.chdir(folder)
    name = only_run(folder).name
    assert main(["ppo", "--resume", "latest"]) == EXIT_USAGE
    refused = capsys.readouterr().err
    assert f"run {name} has done 3 updates; the limit is 3" in refused
    assert "--updates 6" in refused
    # A killed run has made more than its last checkpoint holds, and is not said to have made less.
    record = only_run(folder) / "run.json"
    content = record.read_text()
    record.write_text(json.dumps(json.loads(content) | {"updates": 40}))
    assert main(["ppo", "--resume", "latest"]) == EXIT_USAGE
    assert f"the last checkpoint of run {name} has done 3 updates" in capsys.readouterr().err
    record.write_text(content)

    # Seed and name come from the run; environment and sizes too, even without the file.
    assert main(["ppo", "--no-config", "--resume", name, "--updates", "5"]) == EXIT_OK
    said = capsys.readouterr()
    assert "resumed as attempt 2 at update 4" in said.err
    assert "5 updates, 160 environment steps over all attempts" in said.out
    run = open_run(name, folder / "runs")
    assert only_run(folder).name == name
    assert [(event.attempt, event.payload.update_id) for event in run.updates()] == [
        (1, 1),
        (1, 2),
        (1, 3),
        (2, 4),
        (2, 5),
    ]
    started = payloads_of(RunStarted, (event for event in run.events() if event.kind == "run_started"))
    assert (started[-1].seed, started[-1].run_name, started[-1].first_update_id, started[-1].resumed_from) == (
        4,
        "first",
        4,
        1,
    )


def test_a_run_that_still_lives_is_not_resumed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = create_run(here / "runs", name="busy")
    who = process_identity()
    now = time.time_ns()
    write_record(
        run,
        RunRecord(run_id=run.run_id, pid=who.pid, host=who.host, started_ns=now, heartbeat_ns=now, progress_ns=now),
    )
    assert main(["ppo", "--resume", "latest"]) == EXIT_USAGE
    assert f"is still live (pid {os.getpid()}" in capsys.readouterr().err


def test_summary_json_is_json_for_everyone(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = finished

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    text = (only_run(folder) / "summary.json").read_text()
    assert json.loads(text, parse_constant=refuse)["run_id"]
    assert shlex.quote(str(only_run(folder))) == str(only_run(folder))


def test_a_resumed_attempt_ranks_above_every_one_the_journal_holds(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ppo", "--env", "CartPole-v1", "--updates", "2", *TINY]) == EXIT_OK
    run = open_run(only_run(here))
    first = next(run.directory.telemetry.iterdir())
    first.rename(first.with_name(first.name.replace("1-", "4-", 1)))  # as if run.json were older than the journal
    assert main(["ppo", "--resume", "latest", "--updates", "3"]) == EXIT_OK
    assert "resumed as attempt 5" in capsys.readouterr().err
