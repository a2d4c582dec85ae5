"""A forked child is no trainer: handlers, threads, locks and files of the run are not its own. Real processes."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from forked import GUARD_S, exit_code_of, run_in_child

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
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Start = Callable[..., subprocess.Popen[str]]

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


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
            assert exit_code_of(pid) == -signal.SIGTERM
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

            assert run_in_child(child) == 0
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_childs_signals_do_not_wake_the_parents_event_loop() -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.set_wakeup_fd(write)
    try:
        with install_signals(StopFlag()):
            assert run_in_child(lambda: signal.set_wakeup_fd(-1) == -1) == 0
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
        assert exit_code_of(alone) == 3, "KeyboardInterrupt, as without a session"
        shared = _sleeper(asleep=True)
        signal.raise_signal(signal.SIGINT)
        assert flag.requested
        os.kill(shared, signal.SIGINT)
        time.sleep(0.3)
        assert os.waitpid(shared, os.WNOHANG) == (0, 0), "the trainer ends it in order"
        os.kill(shared, signal.SIGTERM)
        assert exit_code_of(shared) == -signal.SIGTERM


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

    assert run_in_child(child) == 0
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
        assert run_in_child(child) == 0
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

        assert run_in_child(child) == 0
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
