"""The run: every number, read back by wandb's own reader of its files; what a resume, a kill, a dead server leave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from esper_core.errors import SinkError
from esper_core.events import PolicyEvaluated, PolicyHealthChanged, RunFinished, RunStarted
from esper_core.health import HealthLevel, RunState
from esper_core.hooks import CloseReason, SinkContext
from esper_core.semconv.points import points
from esper_core.testing import SinkContract, SinkHarness, make_event, make_update

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

pytest.importorskip("wandb", reason="wandb is not installed: `make test-loops` installs it")
from esper_sink_wandb import WandbConfig, WandbSink  # where it is not, the tests are skipped before

pytestmark = [pytest.mark.loops, pytest.mark.filterwarnings("default")]  # its library's warnings are its own


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    import wandb

    yield
    wandb.teardown()  # the next test has another environment


class TestContract(SinkContract):
    sink = WandbSink
    bad_configs: ClassVar[Sequence[Mapping[str, Any]]] = ({"step": "epoch"}, {"mode": "on"})


def inspected(folder: Path, *words: str) -> str:
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    program = Path(sys.executable).with_name("wandb")
    done = subprocess.run(
        [program, "leet", "inspect", "--json", *words, path], capture_output=True, text=True, timeout=250, check=True
    )
    return done.stdout


def rows(folder: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in inspected(folder).splitlines()]
    return [record["history"]["item"] for record in records if record["type"] == "history"]


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(inspected(folder, "--summary"))
    return found


def test_a_run_is_read_back_with_every_number_its_configuration_its_level_and_its_end(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "config.toml").write_text('[ppo]\nlearning_rate = 0.001\n[sink.other]\ntoken = "***"\n')
    updates = [make_update(number, kl_divergence=number / 1000, env_steps=number * 100) for number in (1, 2)]
    change = PolicyHealthChanged(previous=HealthLevel.UNKNOWN, current=HealthLevel.WARNING, update_id=2)
    back = PolicyHealthChanged(previous=HealthLevel.WARNING, current=HealthLevel.HEALTHY, update_id=2)
    with SinkHarness(WandbSink, {"tags": ("mine",), "step": "env_steps"}, run_dir=run_dir) as harness:
        harness.send(RunStarted(environment="toy", heads=("slot",), seed=7, run_name="a name"), *updates, change, back)
        harness.send(PolicyEvaluated(update_id=2, return_mean=9.5, env_steps=200))
        harness.send(RunFinished(state=RunState.DONE, reason="2 updates"))
        harness.drain(250)
    assert harness.report.lost == harness.report.failures == 0
    first, second, played = rows(tmp_path)
    assert (played["evaluation/return_mean"], played["ppo/update_id"], played["ppo/env_steps"]) == (9.5, 2, 200)
    assert {name: second[name] for name, _ in points(updates[1])} == pytest.approx(dict(points(updates[1])))
    assert [first["ppo/env_steps"], second["ppo/env_steps"]] == [100, 200]
    assert second["_timestamp"] == pytest.approx(make_event(updates[1]).time_ns / 1e9)
    found = summary(tmp_path)
    assert (found["run_id"], found["name"], found["project"]) == ("test-run", "a name", "esper")
    assert found["config"]["ppo"] == {"learning_rate": 0.001}
    assert found["config"]["esper"]["esper.run.environment"] == "toy"
    assert found["config"]["sink"]["other"]["token"] == "***"
    assert set(found["tags"]) == {"mine", "health:healthy"}
    assert found["summary"]["esper/state"] == "done"
    assert (found["state"], found["exit_code"]) == ("finished", 0)
    assert '"step_metric":"ppo/env_steps"' in inspected(tmp_path)


@pytest.mark.parametrize(
    ("state", "reason", "code"),
    [
        (RunState.STOPPED, CloseReason.STOPPED, 0),
        (RunState.FAILED, CloseReason.FAILED, 1),
        (None, CloseReason.FAILED, 1),
        (RunState.DONE, CloseReason.DISABLED, 1),
    ],
)
def test_the_end_of_the_run_is_its_exit_code(
    tmp_path: Path, state: RunState | None, reason: CloseReason, code: int
) -> None:
    with SinkHarness(WandbSink, run_dir=tmp_path) as harness:
        harness.send(make_update(1), *(() if state is None else (RunFinished(state=state),)))
        harness.drain(250)
        harness.close(reason)
    assert summary(tmp_path)["exit_code"] == code


def test_attempts_and_ranks_have_their_ids_and_a_run_of_the_program_is_left_alone(tmp_path: Path) -> None:
    import wandb

    with wandb.init(project="theirs", settings=wandb.Settings(silent=True)) as theirs:
        for attempt, rank in ((1, 0), (2, 0), (1, 1)):
            sink = WandbSink(WandbConfig(dir=str(tmp_path / f"{attempt}-{rank}")))
            (tmp_path / f"{attempt}-{rank}").mkdir()
            sink.esper_sink_opened(SinkContext(run_id="20260101T a/b", attempt=attempt, rank=rank))
            sink.esper_ppo_updated(replace(make_event(make_update(attempt)), attempt=attempt))
            sink.esper_sink_closed(CloseReason.DONE)
        theirs.log({"loss": 1.0})
        assert wandb.run is theirs
        assert theirs.step == 1
    ids = [summary(tmp_path / name)["run_id"] for name in ("1-0", "2-0", "1-1")]
    assert ids == ["20260101T-a-b", "20260101T-a-b", "20260101T-a-b-rank-1"]


def test_a_check_says_where_it_wrote_and_leaves_nothing(tmp_path: Path) -> None:
    with SinkHarness(WandbSink, run_dir=tmp_path, mode="check") as harness:
        with pytest.raises(SinkError, match="nothing was logged"):
            harness.sink.check_report()
        harness.send(make_event(make_update(1), marked=True))
        harness.drain(250)
        assert harness.sink.check_report().startswith("logged the marked update to ")
    assert not list(tmp_path.glob("wandb/offline-run-*"))


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"WANDB_MODE": "online"}, "nobody is logged in to .*run `wandb login`.*WANDB_MODE=offline"),
        ({"WANDB_MODE": "disabled"}, "switched off by WANDB_MODE"),
        (
            {"WANDB_MODE": "online", "WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"},
            "wandb did not begin the run: .*connection refused",
        ),
    ],
)
def test_what_cannot_be_sent_is_refused_before_training_in_a_sentence(
    tmp_path: Path, environment: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    sink = WandbSink()
    with pytest.raises(SinkError, match=said) as caught:
        sink.esper_sink_opened(SinkContext(run_id="r"))
    assert "\n" not in str(caught.value)
    sink.esper_sink_closed(CloseReason.FAILED)


_TRAINER = """
import sys
from pathlib import Path
from esper_core.testing import SinkHarness, make_update
from esper_sink_wandb import WandbSink

with SinkHarness(WandbSink, run_dir=Path(sys.argv[1])) as harness:
    for number in range(1, 101):
        harness.send(make_update(number))
    harness.drain(250)
    print("there", flush=True)
    sys.stdin.read()
"""


def test_a_killed_trainer_leaves_all_but_what_wandb_still_held(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _TRAINER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as trainer:
        assert trainer.stdout is not None
        assert trainer.stdout.readline() == b"there\n"
        os.kill(trainer.pid, signal.SIGKILL)
        trainer.wait(250)
    left = [row["ppo/update_id"] for row in rows(tmp_path)]
    assert left == list(range(1, len(left) + 1))
    assert len(left) > 50, "wandb-core writes blocks of 32 KiB"


_HELD = """
import threading
from pathlib import Path
import sys, wandb
from esper_core.hooks import CloseReason, SinkContext
from esper_sink_wandb import WandbSink
from esper_sink_wandb.library import finish_within

service = __import__("wandb.sdk.wandb_setup", fromlist=["x"]).singleton().assert_service
sink = WandbSink()
sink.esper_sink_opened(SinkContext(run_id="r"))
service()._proc.join = lambda: threading.Event().wait()  # a server that never takes the rest
run = sink._run
run.finish = lambda exit_code: threading.Event().wait()
print(finish_within(wandb, run, 0, 0.1))
"""


def test_sending_that_never_ends_is_left_and_does_not_hold_the_process(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _HELD], capture_output=True, text=True, timeout=250, check=True)
    assert done.stdout == "False\n"
