"""The run: every number, read back by MLflow's client from SQLite and from files; resume, replay, refused stores."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from esper_core.errors import SinkError
from esper_core.events import PolicyEvaluated, PolicyHealthChanged, RunFinished, RunStarted
from esper_core.health import HealthLevel, RunState
from esper_core.hooks import CloseReason, SinkContext
from esper_core.semconv.points import points
from esper_core.testing import SinkContract, SinkHarness, make_event, make_heads, make_update

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

pytest.importorskip("mlflow.tracking", reason="MLflow is not installed: `make test-loops` installs it")
from esper_sink_mlflow import MlflowConfig, MlflowSink  # where it is not, the tests are skipped before
from esper_sink_mlflow.library import passing  # as above

pytestmark = [pytest.mark.loops, pytest.mark.filterwarnings("default")]  # its library's warnings are its own


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)  # MLflow makes mlruns/ where it is
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/store")


@pytest.fixture(params=["file", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    uri = f"file://{tmp_path}/store" if request.param == "file" else f"sqlite:///{tmp_path}/store.db"
    client(uri)  # makes the tables, which on a loaded machine takes longer than a sink has for opening
    return uri


class TestContract(SinkContract):
    sink = MlflowSink
    bad_configs: ClassVar[Sequence[Mapping[str, Any]]] = ({"step": "epoch"}, {"tracking_uri": 7})


def client(store: str) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=store)


def runs(store: str, experiment: str = "esper") -> list[Any]:
    reader = client(store)
    return list(reader.search_runs([reader.get_experiment_by_name(experiment).experiment_id]))


def curve(store: str, run: Any, name: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client(store).get_metric_history(run.info.run_id, name)]


def test_a_run_is_read_back_with_every_number_its_configuration_its_level_and_its_end(
    tmp_path: Path, store: str
) -> None:
    (tmp_path / "config.toml").write_text('[ppo]\nlearning_rate = 0.001\n[sink.other]\ntoken = "***"\n')
    updates = [make_update(number, kl_divergence=number / 1000, env_steps=number * 100) for number in (1, 2)]
    change = PolicyHealthChanged(previous=HealthLevel.UNKNOWN, current=HealthLevel.WARNING, update_id=2)
    with SinkHarness(MlflowSink, {"tracking_uri": store, "experiment": "mine"}, run_dir=tmp_path) as harness:
        harness.send(RunStarted(environment="toy", heads=("slot", "tempo"), run_name="a name"), *updates, change)
        harness.send(PolicyEvaluated(update_id=2, return_mean=9.5, env_steps=200))
        harness.send(RunFinished(state=RunState.DONE, reason="2 updates"))
        harness.drain(250)
    assert harness.report.lost == harness.report.failures == 0
    (run,) = runs(store, "mine")
    assert run.data.metrics == pytest.approx(dict(points(updates[1])) | {"evaluation/return_mean": 9.5})
    assert curve(store, run, "evaluation/return_mean") == [(2, 9.5)]
    assert curve(store, run, "ppo/kl_divergence") == [(1, 0.001), (2, 0.002)]
    (point, _) = client(store).get_metric_history(run.info.run_id, "head/slot/kl")
    assert point.timestamp == make_event(updates[0]).time_ns // 1_000_000
    expected = {
        "ppo.learning_rate": "0.001",
        "sink.other.token": "***",
        "esper.run.environment": "toy",
        "esper.run.heads": "slot, tempo",
    }
    assert expected.items() <= run.data.params.items()
    tags = {"esper.health": "warning", "esper.state": "done", "esper.reason": "2 updates", "esper.run.id": "test-run"}
    assert tags.items() <= run.data.tags.items()
    assert (run.info.status, run.info.run_name) == ("FINISHED", "a name")


def test_the_axis_may_be_environment_steps_and_names_are_what_mlflow_allows() -> None:
    store = os.environ["MLFLOW_TRACKING_URI"]
    heads = ("a/b", "50 %", "..", "x" * 300, "x" * 301, "a_b", "a?b")
    with SinkHarness(MlflowSink, {"step": "env_steps"}) as harness:
        harness.send(make_update(1, env_steps=640, heads=make_heads(0.01, heads)))
        harness.drain(250)
    assert harness.report.lost == 0
    (run,) = runs(store)
    names = {name.split("/")[1] for name in run.data.metrics if name.startswith("head/")}
    long = "x" * 200
    assert names == {"a_b", "a_b_2", "a_b_3", "50 _", "__", long, f"{long}_2"}, "no head has another's numbers"
    assert curve(store, run, "head/a_b_2/share") == [(640, 0.5)], "a_b keeps its own name"


@pytest.mark.parametrize(
    ("state", "reason", "status"),
    [
        (RunState.STOPPED, CloseReason.STOPPED, "KILLED"),
        (RunState.FAILED, CloseReason.FAILED, "FAILED"),
        (None, CloseReason.FAILED, "FAILED"),
        (RunState.DONE, CloseReason.DISABLED, "FAILED"),
    ],
)
def test_the_end_of_the_run_is_its_status(state: RunState | None, reason: CloseReason, status: str) -> None:
    with SinkHarness(MlflowSink) as harness:
        harness.send(make_update(1), *(() if state is None else (RunFinished(state=state),)))
        harness.drain(250)
        harness.close(reason)
    (run,) = runs(os.environ["MLFLOW_TRACKING_URI"])
    assert run.info.status == status


def _attempt(store: str, folder: Path, attempt: int, updates: Sequence[int], mode: Any = "live", rank: int = 0) -> None:
    sink = MlflowSink(MlflowConfig(tracking_uri=store))
    sink.esper_sink_opened(SinkContext(run_id="r", run_dir=folder, attempt=attempt, mode=mode, rank=rank))
    (folder / "config.toml").write_text(f"[ppo]\nupdates = {max(updates)}\nepochs = 3\n")
    sink.esper_run_started(replace(make_event(RunStarted(environment="toy")), attempt=attempt))
    for number in updates:
        sink.esper_ppo_updated(replace(make_event(make_update(number)), attempt=attempt))
    (run, *_) = runs(store)
    assert run.info.status == "RUNNING"
    sink.esper_run_finished(make_event(RunFinished(state=RunState.DONE)))
    sink.esper_sink_closed(CloseReason.DONE)


def test_a_resumed_run_goes_on_in_its_own_run_and_a_replay_of_it_is_refused(tmp_path: Path, store: str) -> None:
    _attempt(store, tmp_path, 1, (1, 2))
    _attempt(store, tmp_path, 2, (3, 4))
    (run,) = runs(store)
    assert curve(store, run, "ppo/update_id") == [(n, float(n)) for n in (1, 2, 3, 4)]
    assert run.data.params["ppo.updates"] == "2"
    assert run.data.params["attempt-2.ppo.updates"] == "4"
    assert "attempt-2.ppo.epochs" not in run.data.params
    assert run.info.status == "FINISHED"
    with pytest.raises(SinkError, match=r"has this run already.*delete it"):
        _attempt(store, tmp_path, 1, (1,), "replay")
    _attempt(store, tmp_path, 1, (1,), rank=1)
    assert {found.data.tags["esper.run.id"] for found in runs(store)} == {"r", "r-rank-1"}


def test_the_programs_own_mlflow_run_is_left_alone(tmp_path: Path) -> None:
    import mlflow

    mlflow.set_tracking_uri(f"file://{tmp_path}/theirs")
    try:
        with mlflow.start_run() as theirs, SinkHarness(MlflowSink, {"tracking_uri": f"file://{tmp_path}/ours"}) as ours:
            ours.send(make_update(1))
            ours.drain(250)
            mlflow.log_metric("loss", 1.0)
            active = mlflow.active_run()
            assert active is not None
            assert active.info.run_id == theirs.info.run_id
        assert mlflow.get_run(theirs.info.run_id).data.metrics == {"loss": 1.0}
    finally:
        mlflow.set_tracking_uri(None)  # back to the variable


def test_a_check_says_where_it_wrote_and_its_run_is_deleted(tmp_path: Path) -> None:
    with SinkHarness(MlflowSink, mode="check") as harness:
        with pytest.raises(SinkError, match="nothing was logged"):
            harness.sink.check_report()
        harness.send(make_event(make_update(1), marked=True))
        harness.drain(250)
        assert harness.sink.check_report().startswith(f"logged the marked update to file://{tmp_path}/store, run ")
    assert not runs(os.environ["MLFLOW_TRACKING_URI"])


def test_a_store_that_cannot_be_used_is_refused_before_training_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE")
    (tmp_path / "file").write_text("")
    for uri, said in {
        "http://me:hidden-word@127.0.0.1:9/x": r"no MLflow server answers at http://127\.0\.0\.1:9/x \(Conn",
        f"file://{tmp_path}/store": "no longer keeps runs in folders: use sqlite:///FILE, a server",
        f"sqlite:///{tmp_path}/file/store.db": "MLflow did not begin the run at sqlite:///.*File exists",
        "ftp://x": "MLflow did not begin the run at ftp://x",
    }.items():
        sink = MlflowSink(MlflowConfig(tracking_uri=uri))
        with pytest.raises(SinkError, match=said) as caught:
            sink.esper_sink_opened(SinkContext(run_id="r"))
        assert "\n" not in str(caught.value)
        assert "hidden-word" not in str(caught.value)
        sink.esper_sink_closed(CloseReason.FAILED)


def test_a_failure_that_passes_is_tried_again_and_another_is_not() -> None:
    from mlflow.exceptions import MlflowException

    with pytest.raises(OSError, match="it is away"), passing(MlflowException):
        raise MlflowException("it is away")
    with pytest.raises(MlflowException, match="no"), passing(MlflowException):
        raise MlflowException.invalid_parameter_value("no")


def test_opening_prints_nothing(tmp_path: Path) -> None:
    words = (
        "from esper_core.hooks import CloseReason, SinkContext; from esper_sink_mlflow import MlflowSink\n"
        "sink = MlflowSink(); sink.esper_sink_opened(SinkContext(run_id='r')); sink.esper_sink_closed(CloseReason.DONE)"
    )
    env = dict(os.environ) | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/new.db"}
    done = subprocess.run(
        [sys.executable, "-c", words], capture_output=True, text=True, timeout=250, env=env, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")
