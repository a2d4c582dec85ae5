"""A child that comes back ends where it forked: of a callback, of an environment, of a program. Real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import pytest
from forked import GUARD_S, exit_code_of, run_in_child
from short_episodes import SHORT_EPISODES

from esper_core import forks
from esper_core.health import RunState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Start = Callable[..., subprocess.Popen[str]]

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


def test_a_child_that_comes_back_ends_there_and_is_counted() -> None:
    place = forks.Place("a test that forks")
    with place:
        pid = os.fork()
        if pid == 0:
            pass  # and comes back
    assert exit_code_of(pid) == 1
    assert place.came_back == 1


def test_a_child_that_means_to_end_does_so_with_its_code() -> None:
    place = forks.Place("a test whose child exits")
    with place:
        pid = os.fork()
        if pid == 0:
            sys.exit(7)
    assert exit_code_of(pid) == 7
    assert place.came_back == 0


def test_what_is_taken_back_is_not_called_in_a_child() -> None:
    called: list[str] = []
    kept, gone = forks.in_child(lambda: called.append("kept")), forks.in_child(lambda: called.append("gone"))
    gone()
    gone()
    try:
        assert run_in_child(lambda: called == ["kept"]) == 0
    finally:
        kept()
    assert called == []


ENVIRONMENT = (
    SHORT_EPISODES
    + """
import multiprocessing, os, signal, sys, time

class Forks(Base):
    def fork(self):
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
    def reset(self, seed=None, options=None):
        self.fork()
        return super().reset(seed=seed)
    def step(self, action):
        if self.steps == 3:
            self.fork()
        return super().step(action)
    def close(self):
        self.fork()

class Raises(Base):
    def step(self, action):
        pid = os.fork()
        if pid == 0:
            raise ValueError("in the child")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
        return super().step(action)

class Slow(Base):
    def step(self, action):
        time.sleep(0.001)
        return super().step(action)

def workers(num_envs, **kwargs):
    made = gym.vector.AsyncVectorEnv([Slow] * num_envs, autoreset_mode=gym.vector.AutoresetMode.SAME_STEP)
    return made

gym.register("Forks-v0", Forks)
gym.register("Raises-v0", Raises)
gym.register("Workers-v0", vector_entry_point=workers)
"""
)


@pytest.fixture
def environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    pytest.importorskip("torch")
    (tmp_path / "forking_envs.py").write_text(ENVIRONMENT)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    import gymnasium

    sys.modules.pop("forking_envs", None)
    for name in ("Forks-v0", "Raises-v0", "Workers-v0"):
        gymnasium.registry.pop(name, None)


def _train(folder: Path, env: str) -> Any:
    import esper_core

    return esper_core.train(
        env={"id": f"forking_envs:{env}", "n_envs": 1},
        updates=2,
        ppo={"rollout_steps": 16, "minibatch_size": 16, "epochs": 1},
        sinks=["journal"],
        run={"dir": str(folder / "runs")},
        no_config=True,
    )


def test_an_environment_whose_child_comes_back_leaves_one_trainer(environments: Path) -> None:
    with pytest.warns(UserWarning, match="environment forking_envs:Forks-v0: a process that it forked came back"):
        run = _train(environments, "Forks-v0")
    assert [update.payload.update_id for update in run.updates()] == [1, 2]
    assert run.state is RunState.DONE


def test_an_environment_whose_child_raises_leaves_one_trainer(
    environments: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = _train(environments, "Raises-v0")
    assert [update.payload.update_id for update in run.updates()] == [1, 2]
    said = capfd.readouterr().err
    assert (
        said.count("forked by environment forking_envs:Raises-v0, ended with an error:\nValueError: in the child") == 32
    )
    assert "Traceback" not in said


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_the_whole_group_stops_a_run_with_worker_processes_in_order(
    environments: Path, signum: int, code: int
) -> None:
    """Ctrl-C, and what a service manager or a batch system sends, reaches the environment's workers too."""
    options = [
        "--updates",
        "0",
        "--sinks",
        "console,journal",
        "--set",
        "env.n_envs=2",
        "--set",
        "ppo.rollout_steps=16",
        "--set",
        "ppo.minibatch_size=16",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "esper_core", "ppo", "--no-config", "--env", "forking_envs:Workers-v0", *options],
        cwd=environments,
        env={**os.environ, "PYTHONPATH": str(environments)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("update    2"):
                break
        os.killpg(process.pid, signum)
        rest, _ = process.communicate(timeout=GUARD_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    said = "".join(lines) + rest
    assert process.returncode == code, said
    assert f"stopped: {signal.Signals(signum).name}" in said
    assert "unexpected" not in said
    assert "Traceback" not in said


def test_a_program_that_only_uses_a_session_ends_its_helper_as_without_one(tmp_path: Path, start_python: Start) -> None:
    script = """
    import multiprocessing, sys, time
    from esper_core.config.schema import EsperConfig
    from esper_core.host.session import Session
    context = multiprocessing.get_context("fork")
    with Session(EsperConfig(sinks=())) as session:
        helper = context.Process(target=time.sleep, args=(1000,))
        helper.start()
        helper.terminate()
        helper.join()
        print(helper.exitcode, session.stop())
    """
    process = start_python(textwrap.dedent(script), cwd=tmp_path)
    out, said = process.communicate(timeout=GUARD_S)
    assert (out, said) == ("-15 False\n", "")
