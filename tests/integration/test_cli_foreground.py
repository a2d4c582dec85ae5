"""A sink that owns the terminal: ``esper ppo`` trains in a child process."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from small_runs import CARTPOLE, TINY, only_run

from esper_core.errors import EXIT_OK, EXIT_USAGE
from esper_core.reading import open_run

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("esper_sink_journal", reason="a run on disk needs the journal")
pytest.importorskip("esper_sink_console", reason="the lines of updates are the console's")

CANARY = "canary-5d41402a"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, as the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


SCREEN = """
import time
from pathlib import Path
import msgspec
from esper_core.hooks import Secret, hookimpl

class Config(msgspec.Struct):
    token: Secret | None = None

class Screen:
    Config = Config
    def __init__(self, config): pass
    @hookimpl
    def esper_foreground(self, child):
        print("cmdline", Path(f"/proc/{child.pid}/cmdline").read_bytes())
        print("run", child.run_dir.name)
        while child.poll() is None:
            time.sleep(0.05)
"""


def test_a_foreground_sink_gets_a_child_without_secrets_on_its_command_line(here: Path) -> None:
    (here / "screen.py").write_text(SCREEN)
    words = ["ppo", "--updates", "2", "--sink", "./screen.py:Screen", "--set", f"sink.Screen.token={CANARY}"]
    words += [*CARTPOLE, *TINY]
    code = f"import sys; from esper_core.cli.main import main; sys.exit(main({words!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == EXIT_OK, done.stderr
    run = only_run(here)
    assert f"run {run.name}" in done.stdout
    assert CANARY not in done.stdout + done.stderr
    assert [event.payload.update_id for event in open_run(run).updates()] == [1, 2]
    for path in run.rglob("*"):
        assert path.is_dir() or CANARY.encode() not in path.read_bytes(), path
    # The child's output is in its log; the sink owned the terminal.
    assert "training CartPole-v1" in (run / "trainer.log").read_text()
    assert "training CartPole-v1" not in done.stderr
    assert "the training has ended, done: " in done.stderr


def test_a_child_that_was_killed_is_told_when_its_screen_has_closed(here: Path) -> None:
    (here / "screen.py").write_text(SCREEN.replace("time.sleep(0.05)", "os.kill(child.pid, 9)") + "import os\n")
    words = ["-m", "esper_core", "ppo", *CARTPOLE, *TINY, "--updates", "1000000", "--sink", "./screen.py:Screen"]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 128 + 9
    last = done.stderr.splitlines()[-1]
    assert last.startswith("the trainer was killed by SIGKILL: ")
    assert last.endswith(f"runs/{only_run(here).name}"), "and how to look at what it left"


def test_a_child_that_was_asked_to_stop_is_not_told_as_killed(here: Path) -> None:
    """It ends with the exit code of one that SIGTERM killed."""
    (here / "screen.py").write_text(SCREEN.replace("time.sleep(0.05)", "child.request_stop(); time.sleep(0.05)"))
    words = ["-m", "esper_core", "ppo", *CARTPOLE, *TINY, "--updates", "1000000", "--sink", "./screen.py:Screen"]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 128 + 15
    assert "the training has ended, stopped: " in done.stderr


def test_a_child_that_fails_to_start_says_so_with_its_own_exit_code(here: Path) -> None:
    (here / "screen.py").write_text(SCREEN)
    words = ["-m", "esper_core", "ppo", "--env", "CartPol-v1", "--sink", "./screen.py:Screen"]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == EXIT_USAGE
    assert "CartPol" in done.stderr
    assert "Traceback" not in done.stderr
