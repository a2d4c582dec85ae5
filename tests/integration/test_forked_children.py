"""A forked child is no trainer: handlers, threads, locks and files of the run are not its own. Real processes."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from esper_core import forks
from esper_core.config.schema import EsperConfig
from esper_core.events import RunStarted
from esper_core.health import RunState
from esper_core.host.load.selection import Selection
from esper_core.host.process.signals import StopFlag, install_signals
from esper_core.host.session import Session
from esper_core.runs import create_run
from esper_core.runs.segments import read_segment
from esper_core.runs.state import read_record
from esper_core.testing import make_update

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Start = Callable[..., subprocess.Popen[str]]

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]
GUARD_S = 250.0


def _in_child(work: Callable[[], Any]) -> int:
    """Run something in a forked child; return its exit code: 0 when it returned something true."""
    pid = os.fork()
    if pid == 0:
        code = 3
        try:
            code = 0 if work() else 2
        finally:
            os._exit(code)
    return _ended(pid)


def _ended(pid: int) -> int:
    until = time.monotonic() + GUARD_S
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    pytest.fail("the child never ended")


# --- signals ------------------------------------------------------------------------------------


def _sleeper(*, asleep: bool = False) -> int:
    """A child that sleeps for ever, its handlers as they are; ``asleep`` waits until it does."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, b".")
            time.sleep(GUARD_S)
        finally:
            os._exit(3)
    if asleep:
        os.read(read, 1)
    os.close(read)
    os.close(write)
    return pid


def test_sigterm_ends_a_child_however_soon_it_comes() -> None:
    flag = StopFlag()
    with install_signals(flag):
        for _ in range(50):
            pid = _sleeper()
            os.kill(pid, signal.SIGTERM)
            assert _ended(pid) == -signal.SIGTERM
        assert not flag.requested, "the trainer was not asked"
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL


def test_a_child_has_the_applications_own_handlers() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        with install_signals(StopFlag()):

            def child() -> bool:
                signal.raise_signal(signal.SIGTERM)
                return heard == [signal.SIGTERM]

            assert _in_child(child) == 0
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_childs_signals_do_not_wake_the_parents_event_loop() -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.set_wakeup_fd(write)
    try:
        with install_signals(StopFlag()):
            assert _in_child(lambda: signal.set_wakeup_fd(-1) == -1) == 0
        assert signal.set_wakeup_fd(write) == write, "the parent's own is as it was"
    finally:
        signal.set_wakeup_fd(before)
        os.close(read)
        os.close(write)


def test_ctrl_c_of_the_trainer_is_passed_over_once_in_a_child_and_its_own_is_not() -> None:
    flag = StopFlag()
    with install_signals(flag):
        alone = _sleeper(asleep=True)
        os.kill(alone, signal.SIGINT)
        assert _ended(alone) == 3, "KeyboardInterrupt, as without a session"
        shared = _sleeper(asleep=True)
        signal.raise_signal(signal.SIGINT)
        assert flag.requested
        os.kill(shared, signal.SIGINT)
        time.sleep(0.3)
        assert os.waitpid(shared, os.WNOHANG) == (0, 0), "the trainer ends it in order"
        os.kill(shared, signal.SIGTERM)
        assert _ended(shared) == -signal.SIGTERM


# --- sessions -----------------------------------------------------------------------------------


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    pytest.importorskip("esper_sink_journal", reason="its file must not be written twice")
    config = EsperConfig(sinks=("journal",))
    with Session(config, run=create_run(tmp_path), install_signal_handlers=False, on_notice=lambda _: None) as made:
        made.emitter.emit_run_started(RunStarted(environment="x"))
        made.emitter.emit_ppo_update(make_update(1))
        yield made


def _journal(session: Session) -> str:
    assert session.run is not None
    return b"".join(read_segment(path) for path in sorted(session.run.telemetry.iterdir())).decode()


def test_a_child_emits_writes_and_logs_nothing_and_is_told_to_stop(session: Session) -> None:
    assert session.run is not None
    before = _journal(session)
    record = session.run.record_path.read_bytes()

    def child() -> bool:
        session.emitter.begin_rollout(2)
        session.emitter.emit_ppo_update(make_update(2))
        session.progress(updates=99, env_steps=99)
        logging.getLogger("esper.host").error("written by the child")
        stopping = session.stop()
        session.finish(RunState.FAILED, "in the child")
        session.__exit__(None, None, None)
        return stopping

    assert _in_child(child) == 0
    assert _journal(session) == before
    assert session.run.record_path.read_bytes() == record
    assert not session.run.log_path.exists() or "by the child" not in session.run.log_path.read_text()
    assert not session.stop()
    session.emitter.emit_ppo_update(make_update(2))
    assert _journal(session).count("\n") == before.count("\n") + 1
    recorded = read_record(session.run)
    assert recorded is not None
    assert recorded.state is RunState.LIVE


def test_a_child_takes_no_lock_that_a_thread_of_the_parent_held(session: Session) -> None:
    """Every lock of the host is held by another thread at the moment of the fork."""
    hub: Any = session.hub
    locks = [hub._lock, *(channel.guard._lock for channel in hub._channels.values())]
    locks += [channel._wake for channel in hub._channels.values() if hasattr(channel, "_wake")]
    locks.append(session._heartbeat._lock)  # type: ignore[union-attr]  # a live run has one
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        for lock in locks:
            lock.acquire()
        held.set()
        release.wait(GUARD_S)
        for lock in locks:
            lock.release()

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(GUARD_S)

    def child() -> bool:
        session.emitter.emit_ppo_update(make_update(2))
        session.emitter.emit_pending_status()
        return len(session.statuses()) > 0

    try:
        assert _in_child(child) == 0
    finally:
        release.set()
        thread.join()


READER = """
import os, sys, time
from pathlib import Path
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, PeriodicExportingMetricReader
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from esper_core.hooks import hookimpl

def note(what):
    with open(Path(__file__).with_name("exports"), "a") as file:
        file.write(f"{what} {os.getpid()}\\n")

class Metrics(MetricExporter):
    def export(self, data, timeout_millis=0, **kw):
        note("metrics"); return MetricExportResult.SUCCESS
    def force_flush(self, timeout_millis=0): return True
    def shutdown(self, timeout_millis=0, **kw): pass

class Spans(SpanExporter):
    def export(self, spans):
        note("spans"); return SpanExportResult.SUCCESS

class Sink:
    @hookimpl
    def esper_metric_readers(self, context):
        return [PeriodicExportingMetricReader(Metrics(), export_interval_millis=20)]
    @hookimpl
    def esper_span_processors(self, context):
        return [BatchSpanProcessor(Spans(), schedule_delay_millis=20)]
"""


def test_the_sdks_threads_which_start_again_in_a_child_export_nothing(
    tmp_path: Path, eventually: Callable[[Callable[[], Any]], Any]
) -> None:
    (tmp_path / "reader.py").write_text(READER)
    exports = tmp_path / "exports"
    config = EsperConfig(sinks=(f"{tmp_path}/reader.py:Sink",))
    with Session(config, install_signal_handlers=False) as session:
        session.emitter.emit_run_started(RunStarted(environment="x"))
        session.emitter.emit_ppo_update(make_update(1))
        eventually(lambda: exports.exists() and "metrics" in exports.read_text() and "spans" in exports.read_text())

        def child() -> bool:
            session.emitter.emit_ppo_update(make_update(2))
            time.sleep(0.5)
            return True

        assert _in_child(child) == 0
    pids = {line.split()[1] for line in exports.read_text().splitlines()}
    assert pids == {str(os.getpid())}


def _answer(queue: Any) -> None:
    queue.put((os.getpid(), signal.getsignal(signal.SIGTERM) == signal.SIG_DFL))


def _wait_for_ever() -> None:
    time.sleep(1000)


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_workers_of_every_start_method_work_and_end_by_terminate(method: str, session: Session) -> None:
    context: Any = multiprocessing.get_context(method)
    with install_signals(session.stop):
        queue = context.Queue()
        worker = context.Process(target=_answer, args=(queue,))
        worker.start()
        pid, default = queue.get(timeout=GUARD_S)
        worker.join(GUARD_S)
        assert (pid, default, worker.exitcode) == (worker.pid, True, 0)
        helper = context.Process(target=_wait_for_ever)
        helper.start()
        helper.terminate()
        helper.join(GUARD_S)
        assert helper.exitcode == -signal.SIGTERM
    assert not session.stop.requested


def test_a_pool_works_and_ends(session: Session) -> None:
    with install_signals(session.stop), multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(abs, [-1, -2, -3]) == [1, 2, 3]
        pool.terminate()
        pool.join()


def test_a_session_leaves_no_thread_that_holds_the_interpreter(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with Session(EsperConfig(sinks=()), run=create_run(tmp_path), selection=Selection(sinks=())) as session:
        session.emitter.emit_ppo_update(make_update(1))
        assert all(thread.daemon for thread in set(threading.enumerate()) - before)
    assert all(thread.daemon for thread in set(threading.enumerate()) - before)


# --- children that come back --------------------------------------------------------------------


def test_a_child_that_comes_back_ends_there_and_is_counted() -> None:
    place = forks.Place("a test that forks")
    with place:
        pid = os.fork()
        if pid == 0:
            pass  # and comes back
    assert _ended(pid) == 1
    assert place.came_back == 1


def test_a_child_that_means_to_end_does_so_with_its_code() -> None:
    place = forks.Place("a test whose child exits")
    with place:
        pid = os.fork()
        if pid == 0:
            sys.exit(7)
    assert _ended(pid) == 7
    assert place.came_back == 0


def test_what_is_taken_back_is_not_called_in_a_child() -> None:
    called: list[str] = []
    kept, gone = forks.in_child(lambda: called.append("kept")), forks.in_child(lambda: called.append("gone"))
    gone()
    gone()
    try:
        assert _in_child(lambda: called == ["kept"]) == 0
    finally:
        kept()
    assert called == []


ENVIRONMENT = """
import multiprocessing, os, signal, sys, time
import gymnasium as gym, numpy as np

class Base(gym.Env):
    observation_space = gym.spaces.Box(-1.0, 1.0, (2,))
    action_space = gym.spaces.Discrete(2)
    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), {}
    def step(self, action):
        self.steps += 1
        return np.zeros(2, np.float32), 1.0, self.steps >= 5, False, {}

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
