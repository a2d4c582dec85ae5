"""``esper runs rm`` and ``prune``: only runs, never one that may still train, nothing without being asked."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from esper_core.cli.main import main
from esper_core.health import RunState
from esper_core.runs import RunDir, RunRecord, process_identity, write_record

if TYPE_CHECKING:
    from collections.abc import Callable

    Say = Callable[..., tuple[int, str, str]]
    Make = Callable[..., Path]

DAY_S = 86_400


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Say:
    """Run ``esper runs`` on the folder of the test: exit code, output, errors."""

    def call(*words: str) -> tuple[int, str, str]:
        code = main(["runs", *words, "--dir", str(tmp_path / "runs")])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Make a run that gave its last sign of life some days ago."""

    def run(name: str, *, days: float = 0, state: RunState = RunState.DONE, **fields: object) -> Path:
        path = tmp_path / "runs" / name
        (path / "telemetry").mkdir(parents=True)
        (path / "telemetry" / "1-0-0001.otlp.jsonl").write_bytes(b"x" * 500_000)
        beat = time.time_ns() - int(days * DAY_S * 1e9)
        write_record(RunDir(path), RunRecord(run_id=name, state=state, heartbeat_ns=beat, **fields))  # type: ignore[arg-type]  # fields of the record
        return path

    return run


def left(base: Path) -> list[str]:
    return sorted(path.name for path in base.iterdir())


def test_rm_deletes_what_is_named_and_nothing_else(make: Make, say: Say) -> None:
    one, two = make("20260101T000000Z-one-aaaaaa"), make("20260102T000000Z-two-bbbbbb")
    code, out, _ = say("rm", "one", "--yes")
    assert code == 0
    assert "20260101T000000Z-one-aaaaaa" in out
    assert "deleted 1 run, 50" in out
    assert not one.exists()
    assert left(two.parent) == [two.name]


def test_an_exact_name_wins_over_a_part(make: Make, say: Say) -> None:
    exact, longer = make("20260101T000000Z-act-aaaaaa"), make("20260102T000000Z-act0-bbbbbb")
    assert say("rm", "act", "--yes")[0] == 0
    assert left(exact.parent) == [longer.name]


def test_without_a_terminal_nothing_is_deleted_unasked(make: Make, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make("20260101T000000Z-one-aaaaaa", days=9)
    with Path(os.devnull).open() as nobody:
        monkeypatch.setattr("sys.stdin", nobody)
        for words in (("rm", "one"), ("prune", "--older-than", "1d")):
            code, _, err = say(*words)
            assert code == 64
            assert "there is nobody to ask\n  --yes deletes without asking" in err
    assert run.exists()
    assert say("rm", "one", "--dry-run")[0] == 0
    assert run.exists()


@pytest.mark.parametrize(("answer", "code", "stays"), [("y", 0, False), ("", 1, True), ("no", 1, True)])
def test_the_answer_decides(
    answer: str,
    code: int,
    stays: bool,
    make: Make,
    say: Say,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = make("20260101T000000Z-one-aaaaaa")
    controller, terminal = os.openpty()
    os.write(controller, f"{answer}\n".encode())
    with os.fdopen(terminal) as asked:
        monkeypatch.setattr("sys.stdin", asked)
        assert say("rm", "one")[0] == code
    os.close(controller)
    assert run.exists() == stays


def test_a_run_that_may_train_stays(make: Make, say: Say) -> None:
    me = process_identity()
    who = {name: getattr(me, name) for name in me.__slots__}
    live = make("20260101T000000Z-live-aaaaaa", state=RunState.LIVE, **who)
    hung = make("20260102T000000Z-hung-bbbbbb", state=RunState.LIVE, days=3, **who)
    away = make("20260103T000000Z-away-cccccc", state=RunState.LIVE, days=3, pid=7, host="elsewhere")
    gone = make("20260104T000000Z-gone-dddddd", state=RunState.LIVE, **{**who, "pid": 2**22 + 1})
    new = live.with_name("20260105T000000Z-new-eeeeee")
    (new / "telemetry").mkdir(parents=True)
    for run, word in ((live, "live"), (hung, "stale"), (away, "stale"), (new, "it may be live")):
        code, out, err = say("rm", run.name, "--yes")
        assert (code, out) == (64, "")
        assert word in err
        assert "nothing was deleted" in err
    code, out, _ = say("prune", "--keep", "0", "--yes")
    assert code == 0
    assert out.count("stays: ") == 4
    assert not gone.exists()
    assert left(live.parent) == sorted(run.name for run in (live, hung, away, new))


def test_one_name_that_must_stay_keeps_all(make: Make, say: Say) -> None:
    done = make("20260101T000000Z-done-aaaaaa")
    make("20260102T000000Z-away-bbbbbb", state=RunState.LIVE, pid=7, host="elsewhere")
    assert say("rm", "done", "away", "--yes")[0] == 64
    assert done.exists()


def test_prune_takes_what_fits_every_criterion(make: Make, say: Say) -> None:
    for day in range(1, 7):
        state = RunState.FAILED if day % 2 else RunState.DONE
        make(f"2026010{day}T000000Z-r{day}-aaaaaa", days=10 - day, state=state)
    base = make("20260109T000000Z-new-aaaaaa").parent
    assert say("prune")[0] == 64
    assert "would delete 2 runs" in say("prune", "--state", "failed", "--older-than", "6d", "--dry-run")[1]
    assert say("prune", "--state", "failed", "--keep", "1", "--yes")[0] == 0
    assert [name[17:19] for name in left(base)] == ["r2", "r4", "r5", "r6", "ne"]
    assert say("prune", "--older-than", "150h", "--yes")[0] == 0
    assert [name[17:19] for name in left(base)] == ["r4", "r5", "r6", "ne"]
    assert say("prune", "--keep", "2", "--yes")[0] == 0
    assert [name[17:19] for name in left(base)] == ["r6", "ne"]
    assert "nothing to delete" in say("prune", "--keep", "2", "--yes")[1]
    assert say("prune", "--older-than", "tomorrow")[0] == 64


def test_a_link_takes_no_place_of_a_run_that_prune_keeps(make: Make, say: Say) -> None:
    run = make("20260101T000000Z-one-aaaaaa")
    (run.parent / "latest").symlink_to(run.name)
    assert "nothing to delete" in say("prune", "--keep", "1", "--yes")[1]
    assert run.exists()


def test_links_are_not_followed_out(make: Make, say: Say, tmp_path: Path) -> None:
    run = make("20260101T000000Z-one-aaaaaa")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    (run / "link").symlink_to(outside)
    elsewhere = tmp_path / "20260102T000000Z-two-bbbbbb"
    run.rename(elsewhere)
    (run.parent / elsewhere.name).symlink_to(elsewhere)
    code, _, err = say("rm", "two", "--yes")
    assert code == 64
    assert "it is a link" in err
    assert say("prune", "--keep", "0", "--yes")[0] == 0
    assert elsewhere.exists()
    (run.parent / elsewhere.name).unlink()
    elsewhere.rename(run)
    assert say("rm", "one", "--yes")[0] == 0
    assert (outside / "kept").exists()
    assert left(run.parent) == []


def test_only_runs_are_deleted(make: Make, say: Say, tmp_path: Path) -> None:
    run = make("20260101T000000Z-one-aaaaaa")
    project = run.parent / "project"
    (project / "telemetry").mkdir(parents=True)
    (project / "run.json").write_text('{"name": "npm"}')
    holder = make("holder")
    make("holder/20260103T000000Z-inner-bbbbbb")
    for spec, word in (
        ("project", "neither a record nor a journal"),
        ("holder", "it holds another run"),
        (str(run / "run.json"), "is a file of the run"),
        (str(tmp_path), "holds no run"),
    ):
        code, _, err = say("rm", spec, "--yes")
        assert code == 64, spec
        assert word in err
    assert left(run.parent) == sorted([run.name, "holder", "project"])
    assert holder.exists()


def test_the_current_folder_is_not_deleted(make: Make, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make("20260101T000000Z-one-aaaaaa")
    monkeypatch.chdir(run / "telemetry")
    code, _, err = say("rm", "one", "--yes")
    assert code == 64
    assert "the current folder lies in it" in err
