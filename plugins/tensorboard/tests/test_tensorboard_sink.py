"""The files: every number, read back; what a resume, a kill and a full disk leave."""

from __future__ import annotations

import errno
import math
import os
import signal
import struct
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from tensorboardX.proto.event_pb2 import Event

from esper_core.errors import SinkError
from esper_core.events import Divergence, PolicyEvaluated, RunFinished, RunStarted
from esper_core.health import RunState
from esper_core.hooks import SinkContext
from esper_core.semconv.names import GAUGES
from esper_core.semconv.points import points as named_points
from esper_core.testing import SinkContract, SinkHarness, awkward_updates, make_event, make_heads, make_update
from esper_sink_tensorboard import TensorboardConfig, TensorboardSink
from esper_sink_tensorboard.files import EventFile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class TestContract(SinkContract):
    sink = TensorboardSink
    bad_configs: ClassVar[Sequence[Mapping[str, Any]]] = ({"step": "epoch"}, {"flush_s": -1})


def records(path: Path) -> list[Any]:
    """The whole records of one file: a length, its checksum, the record, its checksum."""
    data, found, at = path.read_bytes(), [], 0
    while at + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        if at + 16 + length > len(data):
            break
        found.append(Event.FromString(data[at + 12 : at + 12 + length]))
        at += 16 + length
    return found


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("events.out.tfevents.*"), key=lambda path: (path.name.split(".")[3], path.suffix))


def points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag to (step, value), of every file of a folder."""
    found: dict[str, list[tuple[int, float]]] = {}
    for path in files(folder):
        for event in records(path):
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def texts(folder: Path) -> dict[str, str]:
    return {
        value.tag: value.tensor.string_val[0].decode()
        for path in files(folder)
        for event in records(path)
        for value in event.summary.value
        if value.tensor.string_val
    }


def test_heads_whose_names_differ_in_what_a_tag_may_not_have_keep_their_own_curves(tmp_path: Path) -> None:
    heads = make_heads(0.01, ("left arm", "left_arm", "left/arm"))
    own = tuple(replace(head, share=number / 8) for number, head in enumerate(heads))
    with SinkHarness(TensorboardSink, run_dir=tmp_path) as harness:
        harness.send(make_update(1, heads=own))
    shares = {tag: value for tag, value in points(tmp_path / "tensorboard").items() if tag.endswith("/share")}
    assert {tag: value for tag, ((_, value),) in shares.items()} == {
        "head/left_arm_2/share": 0.0,
        "head/left_arm/share": 1 / 8,
        "head/left_arm_3/share": 2 / 8,
    }


def test_every_gauge_of_every_update_is_a_point_and_heads_have_their_own(tmp_path: Path) -> None:
    updates = [make_update(number, kl_divergence=number / 1000, env_steps=number * 100) for number in (1, 2, 3)]
    with SinkHarness(TensorboardSink, run_dir=tmp_path) as harness:
        harness.send(*updates)
    assert harness.report.lost == 0
    found = points(tmp_path / "tensorboard")
    assert [list(point) for point in found["ppo/kl_divergence"]] == [
        [n, pytest.approx(n / 1000, rel=1e-6)] for n in (1, 2, 3)
    ]
    expected = dict(named_points(updates[2]))
    assert {tag: pytest.approx(items[-1][1], rel=1e-6) for tag, items in found.items()} == expected
    whole = [gauge.field for gauge in GAUGES if not gauge.head and getattr(updates[0], gauge.field) is not None]
    assert {f"ppo/{field}" for field in whole} <= set(found)
    assert len(whole) > 20
    per_head = {gauge.field.partition(".")[2] for gauge in GAUGES if gauge.head}
    for head in updates[0].heads:
        assert {f"head/{head.name}/{field}" for field in per_head if getattr(head, field) is not None} <= set(found)


def test_the_axis_may_be_environment_steps_and_times_are_the_events(tmp_path: Path) -> None:
    event = make_event(make_update(7, env_steps=2048))
    with SinkHarness(TensorboardSink, {"step": "env_steps"}, run_dir=tmp_path) as harness:
        harness.send(event)
    (path,) = files(tmp_path / "tensorboard")
    assert points(path.parent)["ppo/update_id"] == [(2048, 7.0)]
    assert records(path)[-1].wall_time == pytest.approx(event.time_ns / 1e9)


@pytest.mark.parametrize(("axis", "step"), [("update_id", 3), ("env_steps", 300)])
def test_an_evaluation_has_its_own_points_at_the_step_of_its_update(tmp_path: Path, axis: str, step: int) -> None:
    played = PolicyEvaluated(update_id=3, return_mean=9.5, return_std=0.5, env_steps=300)
    with SinkHarness(TensorboardSink, {"step": axis}, run_dir=tmp_path) as harness:
        harness.send(make_update(3, env_steps=300), played)
    found = points(tmp_path / "tensorboard")
    own = {tag: items for tag, items in found.items() if tag.startswith("evaluation/")}
    assert own == {"evaluation/return_mean": [(step, 9.5)], "evaluation/return_std": [(step, 0.5)]}


def test_what_was_not_measured_has_no_point_and_nan_has_one() -> None:
    found = dict(named_points(make_update(1, kl_joint=None, kl_divergence=math.nan, heads=())))
    assert "ppo/kl_joint" not in found
    assert math.isnan(found["ppo/kl_divergence"])
    assert not [tag for tag in found if tag.startswith("head/")]
    for update in awkward_updates():
        assert all(isinstance(value, float) for _, value in named_points(update))


def test_a_run_that_is_no_longer_finite_does_not_fill_the_programs_terminal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with SinkHarness(TensorboardSink, run_dir=tmp_path) as harness:
        harness.send(make_update(1, kl_divergence=math.nan, policy_loss=math.inf))
    found = points(tmp_path / "tensorboard")
    assert math.isnan(found["ppo/kl_divergence"][0][1])
    assert found["ppo/policy_loss"] == [(1, math.inf)]
    assert not [record for record in caplog.records if record.name.startswith("tensorboardX")]


def test_divergences_have_tags_of_their_own() -> None:
    item = Divergence(name="reference", reference="reference_model", estimator="k3", per_decision=0.1, per_step=None)
    found = dict(named_points(make_update(1, divergences=(item,))))
    assert {tag: value for tag, value in found.items() if tag.startswith("divergence/")} == {
        "divergence/reference/per_decision": 0.1
    }


def test_run_configuration_and_end_are_texts(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[ppo]\nlearning_rate = 0.001\n")
    with SinkHarness(TensorboardSink, run_dir=tmp_path) as harness:
        harness.send(RunStarted(environment="a|b", heads=("slot", "tempo"), seed=7), make_update(1))
        harness.send(RunFinished(state=RunState.DONE, reason="1 update", updates=1, env_steps=64))
    found = texts(tmp_path / "tensorboard")
    assert "| environment | a\\|b |" in found["esper/run/text_summary"]
    assert "| heads | slot, tempo |" in found["esper/run/text_summary"]
    assert "learning_rate = 0.001" in found["esper/config/text_summary"]
    assert found["esper/end/text_summary"] == "done: 1 update; 1 updates, 64 steps"


def test_a_folder_of_ones_own_has_a_folder_for_each_run_and_rank(tmp_path: Path) -> None:
    sink = TensorboardSink(TensorboardConfig(dir=str(tmp_path)))
    sink.esper_sink_opened(SinkContext(run_id="r1", rank=2))
    sink.esper_ppo_updated(make_event(make_update(1)))
    sink.esper_sink_closed()
    assert points(tmp_path / "r1" / "rank-2")["ppo/update_id"] == [(1, 1.0)]


def test_without_a_place_to_write_it_does_not_open(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="nowhere to write"), SinkHarness(TensorboardSink):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match="cannot create"), SinkHarness(TensorboardSink, {"dir": f"{tmp_path}/file/x"}):
        pass


def test_the_check_says_where_it_wrote(tmp_path: Path) -> None:
    with SinkHarness(TensorboardSink, run_dir=tmp_path, mode="check") as harness:
        with pytest.raises(SinkError, match="nothing was written"):
            harness.sink.check_report()
        harness.send(make_event(make_update(1), marked=True))
        harness.drain()
        assert harness.sink.check_report() == f"wrote the marked update to {tmp_path / 'tensorboard'}"
        assert points(tmp_path / "tensorboard")
    assert not (tmp_path / "tensorboard").exists(), "a check leaves nothing"


_TRAINER = """
import sys
from pathlib import Path
from esper_core.testing import SinkHarness, make_update
from esper_sink_tensorboard import TensorboardSink

with SinkHarness(TensorboardSink, {"flush_s": float(sys.argv[2])}, run_dir=Path(sys.argv[1])) as harness:
    for number in range(1, 6):
        harness.send(make_update(number))
    harness.drain()
    print("there", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize(("flush_s", "left"), [("0", 5), ("3600", 0)])
def test_a_killed_trainer_leaves_what_was_flushed(tmp_path: Path, flush_s: str, left: int) -> None:
    command = [sys.executable, "-c", _TRAINER, str(tmp_path), flush_s]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as trainer:
        assert trainer.stdout is not None
        assert trainer.stdout.readline() == b"there\n"
        os.kill(trainer.pid, signal.SIGKILL)
    kept = points(tmp_path / "tensorboard").get("ppo/update_id", [])
    assert len(kept) >= left
    assert kept == [(n, float(n)) for n in range(1, len(kept) + 1)]
    assert len(kept) == 5 or flush_s != "0"


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """While its one element is True, nothing is forced to the disk."""
    flush, full = EventFile.flush, [False]

    def refusing(self: EventFile) -> None:
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(self)

    monkeypatch.setattr(EventFile, "flush", refusing)
    return full


def test_a_disk_that_refuses_for_a_while_costs_nothing_and_another_file_begins(
    tmp_path: Path, full_disk: list[bool]
) -> None:
    with SinkHarness(TensorboardSink, {"flush_s": 0}, run_dir=tmp_path) as harness:
        harness.send(make_update(1))
        harness.drain()
        full_disk[0] = True
        harness.send(make_update(2))
        while harness.report.failures < 2:
            time.sleep(0.01)
        full_disk[0] = False
        harness.send(make_update(3))
        harness.drain(250)
    assert harness.report.lost == 0
    assert len(files(tmp_path / "tensorboard")) == 2, "what holds nothing is removed"
    assert {step for step, _ in points(tmp_path / "tensorboard")["ppo/update_id"]} == {1, 2, 3}


def test_what_the_disk_refuses_at_the_end_is_counted(tmp_path: Path, full_disk: list[bool]) -> None:
    with SinkHarness(TensorboardSink, {"flush_s": 3600}, run_dir=tmp_path) as harness:
        harness.send(make_update(1), make_update(2), make_update(3))
        harness.drain()
        full_disk[0] = True
    assert harness.report.lost == 3


def _resumed(folder: Path) -> None:
    for attempt, numbers in ((1, (1, 2, 3, 4)), (2, (3, 4, 5))):
        sink = TensorboardSink(TensorboardConfig(dir=str(folder)))
        sink.esper_sink_opened(SinkContext(run_id="run", attempt=attempt))
        sink.esper_run_started(replace(make_event(RunStarted(environment="toy")), attempt=attempt))
        for number in numbers:
            value = number / 100 if attempt == 1 else number / 1000
            sink.esper_ppo_updated(replace(make_event(make_update(number, kl_divergence=value)), attempt=attempt))
        sink.esper_sink_closed()


def test_a_resumed_run_says_from_where_the_earlier_attempt_is_replaced(tmp_path: Path) -> None:
    _resumed(tmp_path)
    first, second = files(tmp_path / "run")
    starts = [[event.step for event in records(path) if event.HasField("session_log")] for path in (first, second)]
    assert starts == [[1], [3]]


@pytest.mark.loops
def test_tensorboard_reads_them_and_shows_a_resumed_run_as_one_curve(tmp_path: Path) -> None:
    module = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="TensorBoard is not installed: `make test-loops` installs it",
    )
    _resumed(tmp_path)
    found = module.EventAccumulator(str(tmp_path / "run"))
    found.Reload()
    curve = [(item.step, round(item.value, 6)) for item in found.Scalars("ppo/kl_divergence")]
    assert curve == [(1, 0.01), (2, 0.02), (3, 0.003), (4, 0.004), (5, 0.005)]
    assert {f"head/{head.name}/kl" for head in make_heads()} <= set(found.Tags()["scalars"])
    texts_read = found.Tensors("esper/run/text_summary")
    assert [item.step for item in texts_read] == [1, 3]
    assert b"| environment | toy |" in texts_read[-1].tensor_proto.string_val[0]
