"""Signals: a run that is asked to stop flushes, saves and reports it; one that is killed loses no finished update."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from esper_core.cli.main import main
from esper_core.errors import EXIT_SIGNAL
from esper_core.health import RunState
from esper_core.reading import open_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytest.importorskip("esper_sink_journal", reason="a run on disk needs the journal")
pytest.importorskip("esper_sink_console", reason="the lines of updates are the console's")

DEADLINE_S = 250.0
ENDLESS = ["ppo", "--env", "CartPole-v1", "--preset", "none", "--steps", "0"]
TINY = ["--set", "ppo.rollout_steps=16", "--set", "env.n_envs=2", "--set", "ppo.minibatch_size=16"]
STUCK = """
import signal, time
import gymnasium as gym, numpy as np

class Stuck(gym.Env):
    observation_space = gym.spaces.Box(-1.0, 1.0, (2,))
    action_space = gym.spaces.Discrete(2)
    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}
    def step(self, action):
        handled = signal.getsignal(signal.SIGINT)
        signal.signal(signal.SIGINT, lambda *what: (handled(*what), print("interrupted", flush=True)))
        print("stuck", flush=True)
        while True:
            time.sleep(0.05)

gym.register("Stuck-v0", Stuck)
"""


class Running:
    """A training in a process of its own, whose stderr is read as it comes."""

    def __init__(self, folder: Path, words: list[str]) -> None:
        self.folder = folder
        self.lines: list[str] = []
        env = {key: value for key, value in os.environ.items() if not key.startswith(("ESPER_", "OTEL_"))}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "esper_core", *words],
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(iter(self.process.stdout.readline, ""))

    def wait_for(self, pattern: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not any(re.search(pattern, line) for line in self.lines):
            assert time.monotonic() < deadline, self.text
            assert self.process.poll() is None, self.text
            time.sleep(0.02)

    def end(self) -> int:
        """Wait for the end; a signal that killed it is negative."""
        code = self.process.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)
        return code

    def close(self) -> None:
        """Close the pipe."""
        self._reader.join(DEADLINE_S)
        if self.process.stdout is not None:
            self.process.stdout.close()

    @property
    def text(self) -> str:
        return "".join(self.lines)

    @property
    def updates(self) -> list[int]:
        """The updates it has shown."""
        return [int(number) for number in re.findall(r"^update +(\d+) ", self.text, re.MULTILINE)]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def begin(words: list[str]) -> Running:
        started.append(Running(tmp_path, words))
        return started[-1]

    yield begin
    for run in started:
        with contextlib.suppress(ProcessLookupError):
            run.process.kill()
        run.process.wait()
        run.close()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_run_in_order(signum: signal.Signals, start: Callable[..., Running], tmp_path: Path) -> None:
    running = start([*ENDLESS, *TINY])
    running.wait_for(r"^update +2 ")
    running.process.send_signal(signum)
    assert running.end() == EXIT_SIGNAL + signum, running.text
    assert f"stopped: {signum.name}" in running.text
    assert "Traceback" not in running.text

    run = open_run("latest", tmp_path / "runs")
    assert run.state is RunState.STOPPED
    assert run.summary is not None
    assert (run.summary["state"], run.summary["reason"]) == ("stopped", signum.name)
    events = list(run.events())
    assert events[-1].kind == "run_finished"
    # Every update that was begun is there, shown, counted and saved: the last may have been interrupted.
    journaled = [event.payload.update_id for event in run.updates()]
    assert journaled == list(range(1, len(journaled) + 1))
    assert running.updates == journaled
    assert run.summary["updates"] == journaled[-1]
    assert (run.path / "checkpoint.pt").is_file()
    assert not list(run.path.glob(".*"))  # no half-written file stays


def test_a_second_interrupt_ends_at_once(start: Callable[..., Running], tmp_path: Path) -> None:
    (tmp_path / "stuck_env.py").write_text(STUCK)
    running = start([*ENDLESS, *TINY, "--env", "stuck_env:Stuck-v0"])
    running.wait_for("^stuck")
    running.process.send_signal(signal.SIGINT)
    running.wait_for("^interrupted")  # the flag is set, and a step that hangs cannot see it
    running.process.send_signal(signal.SIGINT)
    assert running.end() == EXIT_SIGNAL + signal.SIGINT


def test_after_kill_9_replay_shows_every_finished_update(
    start: Callable[..., Running],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running = start([*ENDLESS, *TINY])
    running.wait_for(r"^update +5 ")
    running.process.kill()
    assert running.end() == -signal.SIGKILL

    run = open_run("latest", tmp_path / "runs")
    journaled = [event.payload.update_id for event in run.updates()]
    assert journaled == list(range(1, len(journaled) + 1))
    assert set(running.updates) <= set(journaled)
    monkeypatch.chdir(tmp_path)
    assert main(["replay", "latest"]) == 0
    shown = capsys.readouterr()
    for number in journaled:
        assert re.search(rf"^\s*(update)?\s*{number}\b", shown.out + shown.err, re.MULTILINE), number
    # It can be resumed from its last checkpoint; the higher attempt replaces what came after that.
    assert main(["ppo", "--resume", "latest", "--updates", str(journaled[-1] + 2)]) == 0
    again = open_run("latest", tmp_path / "runs")
    assert [event.payload.update_id for event in again.updates()] == list(range(1, journaled[-1] + 3))
    assert again.state is RunState.DONE


def test_nohup_keeps_a_run_alive(start: Callable[..., Running], tmp_path: Path) -> None:
    # What nohup does: SIGHUP is ignored from before the start.
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        running = start([*ENDLESS[:-1], "160", *TINY])
    finally:
        signal.signal(signal.SIGHUP, before)
    running.wait_for(r"^update +1 ")
    with contextlib.suppress(ProcessLookupError):
        running.process.send_signal(signal.SIGHUP)
    assert running.end() == 0, running.text
    assert open_run("latest", tmp_path / "runs").state is RunState.DONE
