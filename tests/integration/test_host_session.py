"""A session from outside: run.json, signals, a second Ctrl-C, forks, logs and a child that trains."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from esper_core.config.schema import EsperConfig
from esper_core.events import RunStarted
from esper_core.health import RunState
from esper_core.host.load.selection import Selection
from esper_core.host.process.child import ChildFailedError, start_child
from esper_core.host.process.heartbeat import Heartbeat
from esper_core.host.session import Session
from esper_core.runs.creation import create_run
from esper_core.runs.layout import RunDir
from esper_core.runs.state import RunRecord, read_record, run_state
from esper_core.testing import make_update

if TYPE_CHECKING:
    from collections.abc import Callable

    Start = Callable[..., subprocess.Popen[str]]


def _session(run: RunDir | None, **options: Any) -> Session:
    options.setdefault("on_notice", lambda _: None)
    return Session(EsperConfig(sinks=()), run=run, selection=Selection(sinks=()), **options)


def _record(run: RunDir) -> RunRecord:
    record = read_record(run)
    assert record is not None
    return record


def test_the_record_says_live_while_it_runs_and_how_it_ended(tmp_path: Path) -> None:
    run = create_run(tmp_path)
    with _session(run, environment="x", install_signal_handlers=False) as session:
        assert run_state(_record(run)) is RunState.LIVE
        assert (_record(run).pid, _record(run).environment) == (os.getpid(), "x")
        session.progress(updates=3, env_steps=300)
        session.finish(RunState.DONE, "3 updates")
    record = _record(run)
    assert (record.state, record.message, record.updates, record.env_steps) == (RunState.DONE, "3 updates", 3, 300)


def test_the_heartbeat_writes_progress_and_sinks_by_itself(
    tmp_path: Path, eventually: Callable[[Callable[[], Any]], Any]
) -> None:
    run = create_run(tmp_path)
    heartbeat = Heartbeat(run, RunRecord(run_id=run.run_id), tuple, interval_s=0.02)
    heartbeat.start()
    first = _record(run)
    heartbeat.progress(updates=1, env_steps=10)
    now = eventually(lambda: (record := _record(run)).progress and record)
    assert (now.progress, now.updates) == (1, 1)
    assert now.heartbeat_ns > first.heartbeat_ns
    heartbeat.finish(RunState.STOPPED, "enough")
    eventually(lambda: not heartbeat._thread.is_alive())
    assert _record(run).state is RunState.STOPPED


def test_a_run_directory_that_vanishes_costs_no_training(tmp_path: Path) -> None:
    run = create_run(tmp_path)
    import shutil

    with _session(run, install_signal_handlers=False) as session:
        shutil.rmtree(run.path)
        session.emitter.emit_ppo_update(make_update(1))
        session.finish(RunState.DONE, "done")


def test_an_uncaught_error_marks_the_run_failed_and_names_its_directory(tmp_path: Path) -> None:
    run = create_run(tmp_path)
    said: list[str] = []

    def train() -> None:
        with _session(run, on_notice=said.append, install_signal_handlers=False) as session:
            session.emitter.emit_run_started(RunStarted(environment="x"))
            raise RuntimeError("the GPU fell off")

    with pytest.raises(RuntimeError, match="the GPU fell off"):
        train()
    assert _record(run).state is RunState.FAILED
    assert _record(run).message == "RuntimeError: the GPU fell off"
    assert said == [f"the run failed; what it left is in {run.path}"]
    assert "Traceback" in run.log_path.read_text()


def test_logs_go_to_the_file_and_never_to_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = create_run(tmp_path)
    with _session(run, install_signal_handlers=False):
        logging.getLogger("esper.sink.x").warning("from a sink")
        logging.getLogger("opentelemetry.sdk").warning("export failed")
    text = run.log_path.read_text()
    assert "WARNING esper.sink.x: from a sink" in text
    assert "export failed" in text
    assert capfd.readouterr() == ("", "")


LOOP = """
import sys, time
from pathlib import Path
from esper_core.config.schema import EsperConfig
from esper_core.events import RunStarted
from esper_core.host.session import Session
from esper_core.runs.layout import RunDir

path = Path("run"); path.mkdir()
with Session(EsperConfig(sinks=("./sink.py:Sink",)), run=RunDir(path)) as session:
    session.emitter.emit_run_started(RunStarted(environment="x"))
    print("ready", flush=True)
    while not session.stop():
        time.sleep(0.01)
    while {stubborn}:
        print("asked", flush=True)
        time.sleep(600)
print(session.stop.name, session.stop.signal)
"""

SINK = """
from pathlib import Path
from esper_core.hooks import hookimpl
class Sink:
    @hookimpl
    def esper_run_finished(self, event):
        Path("finished").write_text(event.payload.reason)
    @hookimpl
    def esper_sink_closed(self, reason):
        Path("closed").write_text(reason)
"""


def _loop(start: Start, folder: Path, *, stubborn: bool = False) -> subprocess.Popen[str]:
    (folder / "sink.py").write_text(SINK)
    process = start(LOOP.format(stubborn=stubborn), cwd=folder)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_loop_and_every_sink_hears_why(start_python: Start, tmp_path: Path, signum: int) -> None:
    process = _loop(start_python, tmp_path)
    process.send_signal(signum)
    out, said = process.communicate(timeout=250)
    assert (process.returncode, said) == (0, "")
    name = signal.Signals(signum).name
    assert out == f"{name} {signum}\n"
    assert (tmp_path / "finished").read_text() == name
    assert (tmp_path / "closed").read_text() == "stopped"
    assert _record(RunDir(tmp_path / "run")).state is RunState.STOPPED


def test_a_second_ctrl_c_ends_at_once(start_python: Start, tmp_path: Path) -> None:
    process = _loop(start_python, tmp_path, stubborn=True)
    assert process.stdout is not None
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "asked\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(250) == 130, "it would never end by itself"


def test_an_ignored_hangup_stays_ignored(tmp_path: Path) -> None:
    (tmp_path / "sink.py").write_text(SINK)
    process = subprocess.Popen(
        ["nohup", sys.executable, "-c", LOOP.format(stubborn=False)],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=250)
        assert out == "SIGTERM 15\n", "the first that was not ignored"
    finally:
        process.kill()
        process.wait()


def test_old_signal_handlers_come_back() -> None:
    before = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with _session(None):
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_a_forked_child_leaves_the_run_to_its_parent(tmp_path: Path) -> None:
    run = create_run(tmp_path)
    with _session(run, install_signal_handlers=False) as session:
        session.emitter.emit_run_started(RunStarted(environment="x"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            code = 1
            try:
                session.__exit__(RuntimeError, RuntimeError("in the child"), None)
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert _record(run).state is RunState.LIVE
        session.finish(RunState.DONE, "done")
    assert _record(run).state is RunState.DONE


TALKATIVE = """
import msgspec
from esper_core.hooks import Secret, hookimpl
class Config(msgspec.Struct):
    token: Secret
class Sink:
    Config = Config
    def __init__(self, config): self.token = config.token
    @hookimpl
    def esper_sink_opened(self, context):
        self.context = context
        context.logger.warning("using %s", self.token.reveal())
        context.report("failing", "token " + self.token.reveal() + " was refused", lost=1)
    @hookimpl
    def esper_ppo_updated(self, event): raise RuntimeError("401 for " + self.token.reveal())
"""


def test_a_secret_that_a_sink_blurts_out_is_written_nowhere(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("esper_sink_journal", reason="one of the places where it must not be")
    (tmp_path / "sink.py").write_text(TALKATIVE)
    config = EsperConfig(sinks=(f"{tmp_path}/sink.py:Sink", "journal"), sink={"Sink": {"token": "canary-31337"}})
    run = create_run(tmp_path / "runs")
    with Session(config, run=run, install_signal_handlers=False) as session:
        for number in range(1, 8):
            session.emitter.emit_ppo_update(make_update(number))
        session.finish(RunState.DONE, "done")
    assert session.report.sinks[0].lost == 8
    print("\n".join(session.report.lines()))
    written = [path for path in run.path.rglob("*") if path.is_file()]
    assert len(written) >= 3
    for path in written:
        assert b"canary" not in path.read_bytes(), path
    assert "401 for ***" in run.log_path.read_text()
    out, said = capfd.readouterr()
    assert "canary" not in out + said
    assert "401 for ***" in out


# --- a child that trains ------------------------------------------------------------------------


PRINTING = """
import gymnasium as gym
from gymnasium.envs.classic_control import CartPoleEnv

class Printing(CartPoleEnv):
    def reset(self, **options):
        print("\\x1b]0;title\\x07begins with canary\\rand goes on")
        return super().reset(**options)

gym.register("Printing-v0", Printing, max_episode_steps=500)
"""


def test_a_child_names_its_run_prints_to_its_log_and_stops_when_asked(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    (tmp_path / "printing.py").write_text(PRINTING)
    words = ["ppo", "--env", "printing:Printing-v0", "--updates", "100000", "--dir", str(runs), "--set", "sinks=[]"]
    child = start_child(
        [*words, "--set", "sink.elsewhere.token=canary", "--run-name", "named"],
        env=dict(os.environ) | {"PYTHONPATH": str(tmp_path)},
    )
    try:
        assert child.run_dir.parent == runs.resolve()
        assert child.poll() is None
        assert os.getsid(child.pid) == child.pid, "Ctrl-C in the terminal does not reach it"
        command = Path(f"/proc/{child.pid}/cmdline").read_bytes()
        assert b"canary" not in command
        end = time.monotonic() + 250
        while "and goes on" not in (child.run_dir / "trainer.log").read_text() and time.monotonic() < end:
            time.sleep(0.02)
        child.request_stop()
        assert child.wait(250) == 128 + signal.SIGTERM
    finally:
        if child.poll() is None:
            os.kill(child.pid, signal.SIGKILL)
            child.wait(250)
    log = (child.run_dir / "trainer.log").read_text()
    assert "training printing:Printing-v0" in log
    assert "\\u001b]0;title\\u0007begins with ***\nand goes on\n" in log, "a print is fit for the reader's terminal"
    assert json.loads((child.run_dir / "run.json").read_text())["state"] == "stopped"


def test_a_child_that_cannot_start_shows_its_own_words_and_code(tmp_path: Path) -> None:
    with pytest.raises(ChildFailedError, match='no sink named "nothing" is installed') as caught:
        _ = start_child(["ppo", "--sinks", "nothing", "--dir", str(tmp_path)]).run_dir
    assert caught.value.exit_code == 64
    assert list(tmp_path.iterdir()) == []
