"""A run's folder survives its environment, other hands and a full disk; one trainer at a time writes into it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from present import payloads_of
from small_disk import small_disk_at
from small_runs import TINY, only_run

from esper_core.cli.main import main
from esper_core.errors import EXIT_FAILED, EXIT_OK, EXIT_USAGE
from esper_core.events import RunStarted
from esper_core.health import RunState
from esper_core.ppo import load_checkpoint
from esper_core.reading import open_run
from esper_core.runs import is_locked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytest.importorskip("esper_sink_journal", reason="a run on disk needs the journal")

OFTEN = ["--set", "run.checkpoint_interval_s=0"]
ENVIRONMENTS = """
import glob, os, shutil, sys, time
import gymnasium as gym, numpy as np

class Calm(gym.Env):
    observation_space = gym.spaces.Box(-1.0, 1.0, (2,))
    action_space = gym.spaces.Discrete(2)
    taken = 0
    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), {}
    def step(self, action):
        self.steps += 1
        type(self).taken += 1
        self.act()
        return np.zeros(2, np.float32), 1.0, self.steps >= 5, False, {}
    def act(self):
        if self.taken == 50:  # in the second update
            self.once()
    def once(self):
        pass

class Twin(Calm):
    "Another environment of the same shape."

class Wider(Calm):
    observation_space = gym.spaces.Box(-2.0, 2.0, (2,))

class ChdirAtOnce(Calm):
    def __init__(self):
        os.makedirs("elsewhere", exist_ok=True)
        os.chdir("elsewhere")

class Chdir(Calm):
    def once(self):
        os.makedirs("elsewhere", exist_ok=True)
        os.chdir("elsewhere")

class Rename(Calm):
    def once(self):
        os.rename(glob.glob("runs/*")[0], "runs/renamed")

class Delete(Calm):
    def once(self):
        shutil.rmtree("runs")

class DeleteJournal(Calm):
    def once(self):
        shutil.rmtree(glob.glob("runs/*/telemetry")[0])

class CloseAll(Calm):
    def once(self):
        folder = os.path.realpath("runs")
        for number in os.listdir("/proc/self/fd"):
            try:
                if os.readlink(f"/proc/self/fd/{number}").startswith(folder):
                    os.close(int(number))
            except OSError:
                pass

class Patient(Calm):
    def act(self):
        while not os.path.exists("go"):
            time.sleep(0.02)

class Forking(Calm):
    def once(self):
        child = os.fork()
        if child == 0:
            time.sleep(600)
            os._exit(0)
        print("child", child, flush=True)
        time.sleep(600)

for kind in (Calm, Twin, Wider, ChdirAtOnce, Chdir, Rename, Delete, DeleteJournal, CloseAll, Patient, Forking):
    gym.register(f"{kind.__name__}-v0", kind)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder with the environments of this file, as the current one."""
    (tmp_path / "rough_envs.py").write_text(ENVIRONMENTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("rough_envs", None)
    import gymnasium as gym

    for name in [name for name, spec in gym.registry.items() if "rough_envs" in str(spec.entry_point)]:
        del gym.registry[name]


@pytest.fixture
def small_disk(here: Path) -> Iterator[Path]:
    """A file system of 320 KiB: two checkpoints fit, and the journal of some ten updates."""
    with small_disk_at(here / "small", 320, lazily=True) as place:
        yield place


def train(env: str, updates: int, *more: str) -> int:
    return main(["ppo", "--env", f"rough_envs:{env}-v0", "--updates", str(updates), *TINY, *OFTEN, *more])


def files(run: Path) -> set[str]:
    return {path.name for path in run.iterdir()}


def journal_lost(run: Path) -> int:
    lost: int = next(sink["lost"] for sink in json.loads((run / "summary.json").read_text())["sinks"])
    return lost


WHOLE = {"run.json", "config.toml", "checkpoint.pt", "summary.json", "telemetry"}


# --- other hands on the folder ------------------------------------------------------------------


@pytest.mark.parametrize("env", ["ChdirAtOnce", "Chdir", "Rename", "CloseAll"])
def test_everything_lands_in_the_runs_folder(here: Path, capsys: pytest.CaptureFixture[str], env: str) -> None:
    assert train(env, 4, "--sinks", "journal") == EXIT_OK
    run = only_run(here)
    assert files(run) == WHOLE
    opened = open_run(run)
    assert opened.state is RunState.DONE
    assert [update.payload.update_id for update in opened.updates()] == [1, 2, 3, 4]
    assert load_checkpoint(run / "checkpoint.pt").update_id == 4
    assert journal_lost(run) == 0
    said = capsys.readouterr()
    assert f"  run      runs/{run.name}" in said.out, "as the shell that began it sees it"
    assert "lost     nothing" in said.out
    assert not (here / "elsewhere" / "runs").exists()
    if env == "Rename":
        assert run.name == "renamed"
    os.chdir(here)
    assert main(["ppo", "--resume", str(run), "--updates", "5", "--env", "rough_envs:Calm-v0"]) == EXIT_USAGE


@pytest.mark.parametrize("env", ["Delete", "DeleteJournal"])
def test_what_was_deleted_is_counted_said_once_and_made_again(
    here: Path, capsys: pytest.CaptureFixture[str], env: str
) -> None:
    assert train(env, 4, "--sinks", "journal") == EXIT_OK
    run = only_run(here)
    assert files(run) >= WHOLE
    opened = open_run(run)
    assert opened.state is RunState.DONE
    assert [update.payload.update_id for update in opened.updates()] == [2, 3, 4]
    assert load_checkpoint(run / "checkpoint.pt").update_id == 4
    said = capsys.readouterr()
    assert journal_lost(run) == 2, "the run's start and update 1"
    assert "1-0-0001.otlp.jsonl was deleted with 2 events" in said.out
    assert said.err.count("was deleted, and has been made again") == (env == "Delete")


# --- one trainer --------------------------------------------------------------------------------


def resume(run: Path, folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "esper_core", "ppo", "--resume", str(run), "--sinks", "journal", *words]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_of_two_resumes_at_once_one_trains_and_nothing_is_mixed(here: Path, eventually: Callable[..., Any]) -> None:
    go = here / "go"
    go.touch()
    assert train("Patient", 2, "--sinks", "journal") == EXIT_OK
    go.unlink()
    run = only_run(here)
    pair = {seed: resume(run, here, "--updates", "5", "--seed", str(seed)) for seed in (5, 6)}
    try:
        lost = eventually(lambda: next((seed for seed in pair if pair[seed].poll() is not None), 0), 250.0)
    finally:
        go.touch()  # the other one waits for it in its first step
    (won,) = pair.keys() - {lost}
    said = {seed: process.communicate(timeout=250)[1] for seed, process in pair.items()}
    assert (pair[won].returncode, pair[lost].returncode) == (EXIT_OK, EXIT_USAGE)
    assert f"is being trained (pid {pair[won].pid} on " in said[lost]
    opened = open_run(run)
    assert {event.attempt for event in opened.events()} == {1, 2}
    started = payloads_of(RunStarted, (event for event in opened.events() if event.kind == "run_started"))
    assert [item.seed for item in started] == [0, won]
    assert load_checkpoint(run / "checkpoint.pt").seed == won
    assert opened.config["run"]["seed"] == won
    assert opened.summary is not None
    assert opened.summary["seed"] == won


def test_a_killed_trainer_is_resumed_at_once_although_its_child_lives(here: Path) -> None:
    command = [sys.executable, "-m", "esper_core", "ppo", "--env", "rough_envs:Forking-v0", "--updates", "9"]
    with subprocess.Popen(
        [*command, *TINY, *OFTEN, "--sinks", "journal"],
        cwd=here,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as trainer:
        assert trainer.stdout is not None
        child = int(trainer.stdout.readline().split()[1])
        try:
            run = open_run("latest", here / "runs")
            assert is_locked(run.directory) is True
            assert main(["ppo", "--resume", str(run.path), "--updates", "2"]) == EXIT_USAGE
            trainer.kill()
            trainer.wait()
            os.kill(child, 0)
            assert is_locked(run.directory) is False
            # Its environment has no second rollout to break in: the resumed attempt ends before.
            assert main(["ppo", "--resume", str(run.path), "--updates", "2", "--sinks", "journal"]) == EXIT_OK
        finally:
            os.kill(child, signal.SIGKILL)
    assert [event.attempt for event in run.updates()] == [1, 2]


# --- checkpoints --------------------------------------------------------------------------------


def test_a_full_disk_ends_no_training(small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("Calm", 40, "--dir", str(small_disk), "--sinks", "journal") == EXIT_FAILED
    said = capsys.readouterr()
    (run,) = small_disk.iterdir()
    assert said.err.count("training goes on without a new checkpoint: cannot write checkpoint") == 1
    assert said.err.count("No space left on device") == 2, "in mid-run, and at the end"
    assert "done: 40 of 40 updates" in said.out
    assert "its policy was not kept, and the checkpoint is of an earlier update" in said.err
    assert not [name for name in files(run) if name.startswith(".")]
    opened = open_run(run)
    assert opened.record is not None
    assert (opened.record.state, opened.record.updates) == (RunState.DONE, 40)
    assert opened.summary is not None
    assert opened.summary["updates"] == 40
    assert 0 < load_checkpoint(run / "checkpoint.pt").update_id < 40


def test_the_next_try_counts(small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The disk is full for a while, then it has room: what is written at the end is the end."""
    with (small_disk / "ballast").open("wb", buffering=0) as file:
        file.write(bytes(60_000))
    mount = ["mount", "-o", "remount,size=2m", str(small_disk)]
    (small_disk.parent / "room.py").write_text(
        "import subprocess\n"
        "from esper_core.hooks import hookimpl\n"
        "class Room:\n"
        "    delivery = 'inline'\n"
        "    @hookimpl\n"
        "    def esper_ppo_updated(self, event):\n"
        f"        if event.payload.update_id == 4: subprocess.run({mount!r}, check=True)\n"
    )
    words = ["--dir", str(small_disk / "runs"), "--sinks", "journal", "--sink", "./room.py:Room"]
    assert train("Calm", 8, *words) == EXIT_OK
    (run,) = (small_disk / "runs").iterdir()
    assert capsys.readouterr().err.count("training goes on without a new checkpoint") == 1
    assert load_checkpoint(run / "checkpoint.pt").update_id == 8


def test_a_limit_of_file_sizes_is_an_error_of_writing_too(here: Path) -> None:
    script = (
        "import resource, sys; from esper_core.cli.main import main;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (61_440, 61_440));"
        "sys.exit(main(sys.argv[1:]))"
    )
    words = ["ppo", "--env", "rough_envs:Calm-v0", "--updates", "5", "--sinks", "journal", *TINY, *OFTEN]
    done = subprocess.run(
        [sys.executable, "-c", script, *words], cwd=here, capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == EXIT_FAILED
    assert done.stderr.count("training goes on without a new checkpoint") == 1
    assert "File too large" in done.stderr
    assert "done: 5 of 5 updates" in done.stdout
    assert files(only_run(here)) >= WHOLE - {"checkpoint.pt"}
    assert not [name for name in files(only_run(here)) if name.endswith(".partial")]


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ("Twin", "the checkpoint is of environment rough_envs:Calm-v0, and this run would train rough_envs:Twin-v0"),
        ("Wider", "the checkpoint is of environment rough_envs:Calm-v0, and this run would train rough_envs:Wider-v0"),
    ],
)
def test_another_environment_of_the_same_shape_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str], env: str, message: str
) -> None:
    assert train("Calm", 2, "--sinks", "journal") == EXIT_OK
    run = only_run(here)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert train(env, 4, "--resume", str(run)) == EXIT_USAGE
    assert message in capsys.readouterr().err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before, "nothing was written"


def test_spaces_that_have_changed_are_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("Calm", 2, "--sinks", "journal") == EXIT_OK
    import rough_envs  # type: ignore[import-not-found]  # of this test's folder

    rough_envs.Calm.observation_space = rough_envs.Wider.observation_space
    assert main(["ppo", "--resume", "latest", "--updates", "4"]) == EXIT_USAGE
    said = capsys.readouterr().err
    assert "rough_envs:Calm-v0 had observation space Box(-1..1, (2,), float32) when the checkpoint was written" in said
    assert "and has Box(-2..2, (2,), float32) now" in said


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


def _as_in_0_1(content: dict[str, Any]) -> None:
    del content["environment"]
    del content["spaces"]


def test_a_checkpoint_of_0_1_is_resumed_with_a_notice(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("Calm", 2, "--sinks", "journal") == EXIT_OK
    run = only_run(here)
    rewrite(run / "checkpoint.pt", _as_in_0_1)
    assert train("Twin", 4, "--resume", str(run), "--sinks", "journal") == EXIT_USAGE
    assert "was trained in environment rough_envs:Calm-v0, and would go on in rough_envs:Twin-v0" in (
        capsys.readouterr().err
    )
    assert main(["ppo", "--resume", str(run), "--updates", "3", "--sinks", "journal"]) == EXIT_OK
    assert capsys.readouterr().err.count("does not name its environment: resumed in rough_envs:Calm-v0 unchecked") == 1
    assert load_checkpoint(run / "checkpoint.pt").environment == "rough_envs:Calm-v0"


def test_an_environment_whose_module_has_moved_is_the_same(here: Path) -> None:
    assert train("Calm", 2, "--sinks", "journal") == EXIT_OK
    shutil.copy(here / "rough_envs.py", here / "moved_envs.py")
    words = ["ppo", "--resume", "latest", "--updates", "3", "--sinks", "journal"]
    with pytest.warns(UserWarning, match="Overriding environment"):
        assert main([*words, "--env", "moved_envs:Calm-v0"]) == EXIT_OK
    sys.modules.pop("moved_envs", None)
