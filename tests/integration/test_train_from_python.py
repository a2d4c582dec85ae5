"""``esper_core.train`` from real programs: a script, a notebook's loop, a thread; then every command on its run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest
from short_episodes import SHORT_EPISODES

import esper_core
from esper_core.cli.main import main
from esper_core.errors import (
    EXIT_LOSSY,
    EXIT_OK,
    EXIT_USAGE,
    EnvironmentUnsupportedError,
    NonFiniteError,
    RunNotFoundError,
    SinkError,
    TelemetryLostError,
    UsageError,
)
from esper_core.health import RunState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytest.importorskip("torch")
pytest.importorskip("esper_sink_journal", reason="a run on disk needs the journal")

TINY = """
import esper_core

TINY = {
    "env": {"id": "CartPole-v1", "n_envs": 2},
    "ppo": {"rollout_steps": 16, "minibatch_size": 16},
    "sinks": ["journal"],
}
"""
ENVIRONMENTS = (
    SHORT_EPISODES
    + """
import os, signal

class Poisoned(Base):
    def reward(self):
        return float("nan")

class Broken(Base):
    def reward(self):
        raise OSError("the simulator is gone")

class Asked(Base):
    # sends its process the signals that a variable names, one after the other, in the 100th step
    count = 0
    def reward(self):
        Asked.count += 1
        if Asked.count == 100:
            for name in os.environ["ASKS"].split(","):
                os.kill(os.getpid(), getattr(signal, name))
        return 0.0

gym.register("Asked-v0", Asked)
gym.register("NotANumber-v0", Poisoned)
gym.register("Gone-v0", Broken)
"""
)
SINKS = """
from esper_core.hooks import hookimpl

class Failing:
    @hookimpl
    def esper_ppo_updated(self, event):
        raise ValueError("no")

class Screen:
    @hookimpl
    def esper_foreground(self, child):
        return False
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of one's own, with environments and sinks beside the program."""
    (tmp_path / "envs_of_mine.py").write_text(ENVIRONMENTS)
    (tmp_path / "sinks_of_mine.py").write_text(SINKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("envs_of_mine", None)


def _script(here: Path, code: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    """A program of its own; warnings are errors, and what it did not ask for is an error."""
    (here / "program.py").write_text(TINY + textwrap.dedent(code))
    done = subprocess.run(
        [sys.executable, "-W", "error", "program.py"],
        cwd=here,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    if check:
        assert done.returncode == 0, done.stderr
    return done


def _tiny(**more: object) -> dict[str, object]:
    names: dict[str, dict[str, object]] = {}
    exec(TINY, names)  # our own lines
    return names["TINY"] | more


# --- what it leaves is a run like any other ------------------------------------------------------------


def test_a_scripts_run_is_one_for_every_command(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = _script(
        here,
        """
        run = esper_core.train(**TINY, updates=3, seed=4, run={"name": "mine"})
        assert isinstance(run, esper_core.Run)
        print(run.state, run.path.is_absolute(), run.verdict().label)
        """,
    )
    # Three updates may end before the level has warmed up: what was learned is not asked here.
    assert done.stdout in {"done True healthy\n", "done True warm-up\n"}
    assert done.stderr == ""
    (run,) = (here / "runs").iterdir()
    assert {"config.toml", "summary.json", "checkpoint.pt", "run.json", "telemetry"} <= {
        item.name for item in run.iterdir()
    }
    opened = esper_core.open_run(run)
    assert (opened.config["env"]["id"], opened.config["run"]["seed"]) == ("CartPole-v1", 4)
    summary = opened.summary
    assert summary is not None
    assert (summary["environment"], summary["updates"], summary["state"]) == ("CartPole-v1", 3, "done")

    assert main(["eval", "latest", "--episodes", "1", "--json"]) == EXIT_OK
    assert json.loads(capsys.readouterr().out)["environment"] == "CartPole-v1"
    assert main(["export", "latest", "--csv"]) == EXIT_OK
    assert len(capsys.readouterr().out.splitlines()) == 1 + 3
    assert main(["runs"]) == EXIT_OK
    assert "mine" in capsys.readouterr().out
    assert main(["ppo", "--resume", "latest", "--updates", "5", "--sinks", "journal"]) == EXIT_OK
    assert "resumed as attempt 2 at update 4" in capsys.readouterr().err
    assert [event.payload.update_id for event in opened.updates()] == [1, 2, 3, 4, 5]


def test_it_writes_what_the_command_writes(here: Path) -> None:
    """Same settings, same numbers and files; only origins and times differ."""
    _script(here, 'esper_core.train(**TINY, updates=2, run={"dir": "python"})')
    words = ["--env", "CartPole-v1", "--sinks", "journal", "--updates", "2", "--dir", "python"]
    for setting in ("env.n_envs=2", "ppo.rollout_steps=16", "ppo.minibatch_size=16"):
        words += ["--set", setting]
    command = [sys.executable, "-m", "esper_core", "ppo", *words]
    subprocess.run(command, cwd=here, check=True, capture_output=True, timeout=250)
    first, second = (esper_core.open_run(path) for path in sorted((here / "python").iterdir()))
    assert first.config == second.config
    assert first.summary is not None
    assert second.summary is not None
    assert first.summary.keys() == second.summary.keys()
    measured = ("kl_divergence", "kl_joint", "return_mean_100", "env_steps", "episodes", "verdict")
    assert [first.summary[name] for name in measured] == [second.summary[name] for name in measured]
    losses = [[event.payload.policy_loss for event in run.updates()] for run in (first, second)]
    assert losses[0] == losses[1]


def test_it_goes_on_with_a_commands_run_and_its_own(here: Path) -> None:
    words = ["--sinks", "journal", "--set", "ppo.rollout_steps=16", "--set", "env.n_envs=2"]
    assert main(["ppo", "--env", "CartPole-v1", "--updates", "2", *words]) == EXIT_OK
    run = esper_core.train(resume="latest", updates=3, sinks=["journal"])
    again = esper_core.train(resume=run, updates=4, sinks=["journal"])
    assert run.path == again.path
    assert again.config["ppo"]["rollout_steps"] == 16, "its own settings lie beneath"
    assert [event.attempt for event in again.updates()] == [1, 1, 2, 3]
    with pytest.raises(UsageError, match="has done 4 updates; the limit is 4") as caught:
        esper_core.train(resume=run.path, sinks=["journal"])
    assert caught.value.hint is not None
    assert "updates=8" in caught.value.hint


def test_file_and_variables_are_read_and_keywords_win(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "esper.toml").write_text(
        'sinks = ["journal"]\n[env]\nid = "CartPole-v1"\nn_envs = 2\n[ppo]\nrollout_steps = 16\n[run]\nseed = 9\n'
    )
    monkeypatch.setenv("ESPER_PPO__TARGET_KL", "0.5")
    run = esper_core.train(updates=1, seed=8)
    config = run.config
    assert (config["env"]["n_envs"], config["ppo"]["target_kl"], config["run"]["seed"]) == (2, 0.5, 8)
    other = here / "other.toml"
    other.write_text("[ppo]\nepochs = 2\n")
    assert esper_core.train(**_tiny(updates=1), config=other).config["ppo"]["epochs"] == 2  # type: ignore[arg-type]  # one dict of all keywords
    assert esper_core.train(**_tiny(updates=1), no_config=True).config["run"]["seed"] == 0  # type: ignore[arg-type]  # as above


# --- errors --------------------------------------------------------------------------------------------


def test_what_is_refused_is_refused_before_anything_is_written(here: Path) -> None:
    with pytest.raises(EnvironmentUnsupportedError, match='did you mean "CartPole-v1"'):
        esper_core.train(env="CartPole-v9", sinks=[])
    with pytest.raises(SinkError, match='did you mean "journal"'):
        esper_core.train(env="CartPole-v1", sinks=["jurnal"])
    with pytest.raises(SinkError, match=r"no such file"):
        esper_core.train(env="CartPole-v1", sinks=["./nothing.py:Sink"])
    with pytest.raises(RunNotFoundError):
        esper_core.train(resume="nowhere")
    with pytest.raises(UsageError, match=r"unknown key"):
        esper_core.train(env="CartPole-v1", sinks=["journal"], sink={"journal": {"segment": 1}})
    assert not list(here.glob("runs/*"))


def test_an_argument_of_another_type_is_named(here: Path) -> None:
    run = 'a run, its path, its id, a part of its id, or "latest"'
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: esper_core.train(resume=7), f"resume: expected {run} (is 7)"),  # type: ignore[arg-type]  # wrong on purpose
        (lambda: esper_core.train(config=7), "config: expected a path (is 7)"),  # type: ignore[arg-type]  # as above
        (lambda: esper_core.open_run(None), f"spec: expected {run} (is None)"),  # type: ignore[arg-type]  # as above
        (lambda: esper_core.open_run(["a"]), f"spec: expected {run} (is ['a'])"),  # type: ignore[arg-type]  # as above
        (lambda: esper_core.open_run(7), f"spec: expected {run} (is 7)"),  # type: ignore[arg-type]  # as above
        (lambda: esper_core.open_run("latest", base=7), "base: expected the folder that holds the runs (is 7)"),  # type: ignore[arg-type]  # as above
        (lambda: esper_core.PPOAgent.load(None), f"run: expected {run} (is None)"),  # type: ignore[arg-type]  # as above
        (lambda: esper_core.PPOAgent.load("latest", base=7), "base: expected the folder that holds the runs (is 7)"),  # type: ignore[arg-type]  # as above
    ]
    for call, message in calls:
        with pytest.raises(UsageError) as caught:
            call()
        assert str(caught.value) == message
        assert type(caught.value) is UsageError


@pytest.mark.filterwarnings("ignore:.*The reward is a NaN value")  # Gymnasium's own
def test_a_failed_run_raises_what_the_command_says(here: Path) -> None:
    with pytest.raises(NonFiniteError, match="NaN or Inf in update 1") as poisoned:
        esper_core.train(**_tiny(env="envs_of_mine:NotANumber-v0", updates=2))  # type: ignore[arg-type]  # one dict of all keywords
    assert poisoned.value.hint is not None
    assert "run.keep_going" in poisoned.value.hint
    with pytest.raises(OSError, match="the simulator is gone") as broken:
        esper_core.train(**_tiny(env="envs_of_mine:Gone-v0", updates=2))  # type: ignore[arg-type]  # as above
    for caught in (poisoned, broken):
        (note,) = caught.value.__notes__
        run = esper_core.open_run(note.removeprefix("the run's directory is "))
        assert run.state is RunState.FAILED
        assert run.summary is not None
        assert run.summary["state"] == "failed"


def test_lost_telemetry_is_an_error_when_the_run_says_so(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sinks = ["journal", f"{here}/sinks_of_mine.py:Failing"]
    assert esper_core.train(**_tiny(sinks=sinks, updates=2)).state is RunState.DONE  # type: ignore[arg-type]  # one dict of all keywords
    with pytest.raises(TelemetryLostError, match=r"2 events were lost \(run.strict_telemetry\)") as caught:
        esper_core.train(**_tiny(sinks=sinks, updates=2, run={"strict_telemetry": True}))  # type: ignore[arg-type]  # as above
    assert caught.value.exit_code == EXIT_LOSSY
    capsys.readouterr()


def test_a_sink_that_owns_the_terminal_is_refused_or_left_out(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = "./sinks_of_mine.py:Screen"
    with pytest.raises(UsageError, match="owns the terminal") as caught:
        esper_core.train(**_tiny(sinks=["journal", screen], updates=1))  # type: ignore[arg-type]  # one dict of all keywords
    assert caught.value.exit_code == EXIT_USAGE
    monkeypatch.setenv("ESPER_SINKS", f"journal,{screen}")
    with pytest.warns(UserWarning, match="owns the terminal and is left out .ESPER_SINKS selects it.") as warned:
        run = esper_core.train(**_tiny(sinks=None, updates=1))  # type: ignore[arg-type]  # as above
    assert warned[0].filename == __file__
    assert run.state is RunState.DONE


# --- where it is called from ---------------------------------------------------------------------------


def test_twice_in_one_process_with_the_sdk_and_beneath_a_running_loop(here: Path) -> None:
    done = _script(
        here,
        """
        import asyncio

        async def main():
            first = esper_core.train(**TINY, updates=2, otel={"sdk": "always"})
            second = esper_core.train(**TINY, updates=2, otel={"sdk": "always"})
            third = await asyncio.to_thread(esper_core.train, **TINY, updates=2)
            for run in (first, second, third):
                print(run.state, [event.payload.update_id for event in run.updates()])
            assert len({run.run_id for run in (first, second, third)}) == 3

        asyncio.run(main())
        """,
    )
    assert done.stdout == "done [1, 2]\n" * 3
    assert done.stderr == ""


def test_two_threads_train_two_runs(here: Path) -> None:
    done = _script(
        here,
        """
        from concurrent.futures import ThreadPoolExecutor

        def train(seed):
            return esper_core.train(**TINY, updates=4, seed=seed)

        with ThreadPoolExecutor(2) as pool:
            runs = list(pool.map(train, (1, 2)))
        alone = [train(seed) for seed in (1, 2)]
        for run, same in zip(runs, alone):
            losses = [[event.payload.policy_loss for event in item.updates()] for item in (run, same)]
            print(run.state, len(losses[0]), losses[0] == losses[1])
        """,
    )
    assert done.stdout == "done 4 True\n" * 2


def test_it_leaves_the_process_as_it_was(here: Path) -> None:
    done = _script(
        here,
        """
        import logging, os, random, signal, sys, threading, time
        import numpy, torch

        torch.set_num_threads(2)
        kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        def state():
            loggers = [logging.getLogger(name) for name in ("esper", "opentelemetry")]
            logs = [(log.propagate, log.level, list(log.handlers)) for log in loggers]
            drawn = random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
            place = os.getcwd(), list(sys.path)
            return [signal.getsignal(kind) for kind in kinds], logs, drawn, torch.get_num_threads(), place
        before = state()
        esper_core.train(**TINY, updates=2)
        after, end = state(), time.monotonic() + 60  # a thread that has done its work may still wait for a processor
        while len(threading.enumerate()) > 1 and time.monotonic() < end:
            time.sleep(0.01)
        print(after == before, threading.enumerate() == [threading.main_thread()])
        """,
    )
    assert done.stdout == "True True\n"


def _asked(here: Path, signals: str) -> tuple[subprocess.CompletedProcess[str], esper_core.Run]:
    """A training far from its limit that is sent these signals, and what it left."""
    code = f"""
    import os
    os.environ["ASKS"] = {signals!r}
    TINY["env"]["id"] = "envs_of_mine:Asked-v0"
    run = esper_core.train(**TINY, steps=10**9)
    print("went on", run.state, run.summary["reason"])
    """
    return _script(here, code, check=False), esper_core.open_run()


def test_an_interrupt_ends_the_run_in_order_and_returns_it(here: Path) -> None:
    done, run = _asked(here, "SIGINT")
    assert (done.returncode, done.stdout) == (0, "went on stopped SIGINT\n"), done.stderr
    assert run.directory.checkpoint.is_file()
    assert [event.payload.update_id for event in run.updates()] == [1, 2, 3]


def test_a_run_that_nothing_ends_says_so_at_its_start(here: Path) -> None:
    done = _script(
        here,
        """
        import os, warnings
        os.environ["ASKS"] = "SIGINT"
        TINY["env"]["id"] = "envs_of_mine:Asked-v0"
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", UserWarning)
            esper_core.train(**TINY, updates=0)
        for warning in said:
            print(warning.filename, warning.message)
        """,
    )
    (line,) = done.stdout.splitlines()
    assert line.endswith("program.py no limit: trains until it is stopped (0 means no limit; set by train())")


def test_sigterm_ends_the_run_in_order_and_then_the_program(here: Path) -> None:
    done, run = _asked(here, "SIGTERM")
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGTERM, "", "")
    assert run.summary is not None
    assert (run.summary["state"], run.summary["reason"], run.state) == ("stopped", "SIGTERM", RunState.STOPPED)


def test_a_second_interrupt_raises_and_the_run_is_still_told_as_stopped(here: Path) -> None:
    done, run = _asked(here, "SIGINT,SIGINT")
    assert done.stdout == ""
    assert done.stderr.splitlines()[-2:] == [
        "KeyboardInterrupt",
        f"the run's directory is {here / 'runs' / run.run_id}",
    ]
    assert run.summary is not None
    assert (run.summary["state"], run.summary["reason"], run.state) == ("stopped", "SIGINT", RunState.STOPPED)
