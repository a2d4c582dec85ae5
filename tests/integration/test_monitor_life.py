"""How a monitored run ends, through real processes: with, close, exit, exceptions, signals, forks and children."""

from __future__ import annotations

import json
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest
from present import payloads_of, present

import esper_core
from esper_core import monitor, open_run
from esper_core.errors import ConfigError, SinkError
from esper_core.events import RunStarted
from esper_core.health import RunState
from esper_core.monitoring import MisuseError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from esper_core.monitoring import Monitor

OPEN = """
from esper_core import monitor
run = monitor("mine", name="x", sinks=["journal"])
for _ in range(3):
    run.ppo_update([0.1, 0.2])
"""


def opened(tmp_path: Path, **more: Any) -> Monitor:
    return monitor("mine", **{"sinks": ["journal"], "settings": {"run": {"dir": str(tmp_path)}}} | more)


def plan_of(run: Monitor) -> RunStarted:
    (started,) = payloads_of(RunStarted, [next(open_run(present(run.path)).events())])
    return started


def the_run(folder: Path) -> Any:
    (path,) = (folder / "runs").iterdir()
    return open_run(path)


def ended(process: Any) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=250)
    return process.returncode, out, err


# --- orderly --------------------------------------------------------------------------------------


def test_a_run_in_a_with_block_has_every_file_and_a_verdict(tmp_path: Path) -> None:
    with opened(tmp_path, name="mine", target_kl=0.02) as run:
        run.episode(10.0, 20)
        for step in range(1, 4):
            payload = run.ppo_update([0.1, -0.1], env_steps=100 * step)
    assert payload is not None
    assert run.path is not None
    found = open_run(present(run.path))
    assert found.verdict().label == "healthy"
    assert [event.payload.kl_joint for event in found.updates()] == [pytest.approx(payload.kl_joint)] * 3
    assert json.loads((run.path / "summary.json").read_text())["env_steps"] == 300
    assert (run.path / "config.toml").is_file()
    assert present(found.record).state is RunState.DONE
    run.close()
    run.close()


def test_levels_are_on_the_joint_kl_from_the_target_and_one_and_a_half_times_it(tmp_path: Path) -> None:
    with opened(tmp_path, heads=("a", "b"), target_kl=0.02) as run:
        run.ppo_update(kl=[[0.012, 0.012]])
    started = plan_of(run)
    assert [started.kl_on, started.kl_warning, started.kl_critical] == ["joint", 0.02, pytest.approx(0.03)]
    assert present(run.counts.last).health.value == "warning"
    with opened(tmp_path, default_limits=(0.1, 0.2)) as run:
        run.ppo_update(kl=[0.15])
    started = plan_of(run)
    assert (started.kl_warning, started.kl_critical, started.target_kl) == (0.1, 0.2, None)


def test_the_configuration_may_set_other_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESPER_HEALTH__KL_ON", "weighted")
    monkeypatch.setenv("ESPER_HEALTH__KL_WARNING", "0.5")
    monkeypatch.setenv("ESPER_HEALTH__KL_CRITICAL", "0.6")
    with opened(tmp_path, target_kl=0.02) as run:
        run.ppo_update(kl=[0.4])
    assert present(run.counts.last).health.value == "healthy"
    with opened(tmp_path, target_kl=0.02, kl_warning=0.1, kl_critical=0.2, kl_on="joint") as run:
        run.ppo_update(kl=[0.4])
    assert present(run.counts.last).health.value == "critical", "the call is nearer than a variable"
    with opened(tmp_path, default_limits=(0.1, 0.2), kl_on="joint") as run:
        run.ppo_update(kl=[0.4])
    assert present(run.counts.last).health.value == "healthy", "an adapter's default is further away"


def test_a_target_sets_the_levels_also_where_a_variable_says_which_kl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESPER_HEALTH__KL_ON", "joint")
    with opened(tmp_path, target_kl=0.1) as run:
        run.ppo_update(kl=[0.05])
    started = plan_of(run)
    assert [started.kl_warning, started.kl_critical] == [0.1, pytest.approx(0.15)]
    monkeypatch.setenv("ESPER_HEALTH__KL_ON", "weighted")
    with opened(tmp_path, target_kl=0.1) as run:
        run.ppo_update(kl=[0.05])
    started = plan_of(run)
    assert (started.kl_on, started.kl_warning) == ("weighted", 0.015), "the target is on the joint KL"


def test_what_is_planned_is_of_the_whole_update_however_it_is_told(tmp_path: Path) -> None:
    planned = []
    with opened(tmp_path) as run:
        for told in ({"epochs": 4, "minibatches": 8}, {"epochs": 4}, {}, {"epochs": 2}):
            run.begin_update(**told)
            payload = present(run.ppo_update([0.1]))
            planned.append((payload.epochs_planned, payload.minibatches_planned))
    assert planned == [(4, 32), (4, 32), (1, 32), (2, 32)]


def test_an_exception_is_a_failed_run_with_its_words(tmp_path: Path) -> None:
    run = opened(tmp_path)
    run.ppo_update([0.1])
    with pytest.raises(ZeroDivisionError), run:
        raise ZeroDivisionError("the learning rate")
    found = open_run(present(run.path))
    assert present(found.record).state is RunState.FAILED
    assert present(found.record).message == "ZeroDivisionError: the learning rate"


def test_what_cannot_work_is_refused_before_training_starts(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="nosuch"):
        opened(tmp_path, sinks=["nosuch"])
    with pytest.raises(ConfigError, match=r"ppo\.target_kl"):
        opened(tmp_path, target_kl=-1.0)
    with pytest.raises(MisuseError, match="different names"):
        opened(tmp_path, heads=("a", "a"))
    with pytest.raises(MisuseError, match="one head, a token"):
        opened(tmp_path, heads=("a", "b"), granularity="token")
    assert not list(tmp_path.iterdir()), "nothing was left behind"
    with opened(tmp_path, target_kl=None, seed=None) as run:  # as CleanRL and others write "off"
        assert run.too_far([5.0]) is False
        assert present(run.ppo_update([0.1])).target_kl is None


def test_a_second_one_is_refused_while_one_is_open(tmp_path: Path) -> None:
    with opened(tmp_path) as run, pytest.raises(MisuseError, match=f"open already: run {run.run_id}"):
        opened(tmp_path)
    opened(tmp_path).close()


def test_a_closed_one_says_so_and_still_computes(tmp_path: Path) -> None:
    run = opened(tmp_path)
    run.close()
    for call in (lambda: run.ppo_update([0.1]), lambda: run.too_far([0.1]), lambda: run.episode(1.0)):
        with pytest.raises(MisuseError, match="this monitor is closed"):
            call()
    assert run.kl([0.1]).joint == pytest.approx(0.1051709180756 - 0.1)


def test_another_thread_is_refused(tmp_path: Path) -> None:
    errors: list[Exception] = []

    def call() -> None:
        try:
            run.ppo_update([0.1])
        except MisuseError as error:
            errors.append(error)

    with opened(tmp_path) as run:
        thread = threading.Thread(target=call, name="learner")
        thread.start()
        thread.join(250)
    assert "called in thread learner" in str(errors[0])
    assert run.counts.updates == 0


def test_misuse_is_a_notice_when_it_is_not_to_raise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with opened(tmp_path, strict=False) as run:
        for _ in range(3):
            assert run.ppo_update([[0.1, 0.2]]) is None
        assert run.too_far(old=[1.0], new=[[1.0]]) is False
    told = capsys.readouterr().err
    assert told.count("ppo_update failed, training goes on without it: log_ratio has shape (1, 2)") == 1
    assert told.count("too_far failed") == 1
    assert run.counts.failures == 4


def test_a_fault_of_ours_never_reaches_the_loop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Hostile:
        """A number whose conversion fails in a way that nobody foresaw."""

        def item(self) -> float:
            raise OverflowError("no number at all")

    with opened(tmp_path) as run:
        assert run.ppo_update([0.1], learning_rate=Hostile()) is None
        assert run.ppo_update([0.1]) is not None
    assert "training goes on without it: OverflowError: no number at all" in capsys.readouterr().err


# --- processes ------------------------------------------------------------------------------------


def test_one_that_is_forgotten_is_closed_at_exit(tmp_path: Path, start_python: Callable[..., Any]) -> None:
    code, _, err = ended(start_python(OPEN, cwd=tmp_path))
    assert (code, err) == (0, "")
    run = the_run(tmp_path)
    assert run.record.state is RunState.DONE
    assert run.summary["updates"] == 3


def test_one_that_is_forgotten_in_a_failing_script_is_failed(tmp_path: Path, start_python: Callable[..., Any]) -> None:
    code, _, err = ended(start_python(OPEN + "\nraise ValueError('bad batch')", cwd=tmp_path))
    assert code == 1
    assert "ValueError: bad batch" in err
    assert the_run(tmp_path).record.state is RunState.FAILED
    assert the_run(tmp_path).record.message == "ValueError: bad batch"


def test_a_second_ctrl_c_raises_in_the_users_program(tmp_path: Path) -> None:
    run = opened(tmp_path, signals=True)
    signal.raise_signal(signal.SIGINT)
    assert run.stopping
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    run.close()
    record = open_run(present(run.path)).record
    assert record is not None
    assert record.state is RunState.STOPPED


@pytest.mark.parametrize("signals", [False, True])
def test_ctrl_c_ends_the_script_as_the_user_expects(
    tmp_path: Path, start_python: Callable[..., Any], signals: bool
) -> None:
    """By default KeyboardInterrupt, as without Esper; with ``signals`` the loop reads ``stopping``."""
    script = f"""
import sys, time
from esper_core import monitor
run = monitor("mine", sinks=["journal"], signals={signals})
run.ppo_update([0.1])
print("ready", flush=True)
while not run.stopping:
    time.sleep(0.01)
print("left in order", flush=True)
"""
    process = start_python(script, cwd=tmp_path)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    code, out, err = ended(process)
    assert ("left in order" in out) is signals
    assert ("KeyboardInterrupt" in err) is not signals
    assert (code == 0) is signals
    run = the_run(tmp_path)
    assert run.record.state is RunState.STOPPED
    assert run.record.message == "SIGINT"


def test_children_are_no_second_trainer(tmp_path: Path, start_python: Callable[..., Any]) -> None:
    """Spawned ones import the script again; forked ones inherit the monitor: neither emits, and both go on."""
    (tmp_path / "script.py").write_text(
        """
import multiprocessing, os
from esper_core import monitor

run = monitor("mine", sinks=["journal"])

def work(number):
    run.episode(1.0)
    return run.ppo_update([0.1]) is None and not run.too_far([9.0])

if __name__ == "__main__":
    run.ppo_update([0.1])
    for method in ("spawn", "fork"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            assert pool.map(work, range(4)) == [True] * 4, method
    pid = os.fork()
    if not pid:
        with monitor("a second one, in a copy of the process") as copy:
            os._exit(0 if copy.ppo_update([0.1]) is None else 1)
    assert os.waitpid(pid, 0)[1] == 0
    run.close()
    print("done", flush=True)
"""
    )
    process = start_python("import runpy; runpy.run_path('script.py', run_name='__main__')", cwd=tmp_path)
    code, out, err = ended(process)
    assert (code, out) == (0, "done\n"), err
    assert len(list((tmp_path / "runs").iterdir())) == 1
    run = the_run(tmp_path)
    assert len(list(run.updates())) == 1
    assert run.record.state is RunState.DONE


def test_two_ranks_report_one_run_of_all_samples(tmp_path: Path, start_python: Callable[..., Any]) -> None:
    """Real gloo processes, with unequal batches: every rank gets the whole number, rank 0 has the run."""
    script = """
import os, sys
import torch.distributed as dist
from esper_core import monitor
rank = int(os.environ["RANK"])
dist.init_process_group("gloo", init_method=f"file://{os.environ['MEET']}", rank=rank, world_size=2)
with monitor("mine", sinks=["journal"], heads=("a", "b"), target_kl=0.001, stop_rule="minibatch") as run:
    ratio = [[0.1, 0.2], [0.3, 0.1]] if rank == 0 else []
    import numpy as np
    ratio = np.array(ratio).reshape(-1, 2)
    stop = run.too_far(ratio)
    payload = run.ppo_update(ratio, advantages=[1.0, 3.0] if rank == 0 else [])
print(stop, payload.kl_joint, payload.steps, payload.advantage_mean, run.path is not None, flush=True)
dist.destroy_process_group()
"""
    meet = str(tmp_path / "meet")
    processes = [
        start_python(script, cwd=tmp_path, env={"RANK": str(rank), "WORLD_SIZE": "2", "MEET": meet}) for rank in (0, 1)
    ]
    results = [ended(process) for process in processes]
    assert [code for code, _, _ in results] == [0, 0], results
    first, second = (out.split() for _, out, _ in results)
    assert first[:4] == second[:4]
    assert first[0] == "True"
    assert first[2:4] == ["2", "2.0"]
    assert (first[4], second[4]) == ("True", "False")
    (path,) = (tmp_path / "runs").iterdir()
    assert json.loads((path / "run.json").read_text())["ranks"] == 2


def test_ranks_without_a_way_to_join_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with opened(tmp_path) as run, pytest.raises(MisuseError, match=r"rank 0 of 2, but no torch\.distributed group"):
        run.ppo_update([0.1])
    with opened(tmp_path, world=1) as run:
        assert run.ppo_update([0.1]) is not None
    assert esper_core.monitor is monitor
