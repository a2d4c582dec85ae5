"""Making and finding runs on disk."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path

import pytest

from esper_core.errors import RunNotFoundError, UsageError
from esper_core.runs import RunRecord, create_run, find_run, list_runs, write_record
from esper_core.runs.layout import JournalFile, journal_files


def make(base: Path, name: str) -> Path:
    path = base / name
    (path / "telemetry").mkdir(parents=True)
    return path


def test_a_run_id_holds_the_time_the_name_and_something_random(tmp_path: Path) -> None:
    run = create_run(tmp_path / "runs", name="my drift/../x")
    assert re.fullmatch(r"\d{8}T\d{6}Z-my-drift-..-x-[0-9a-z]{6}", run.run_id)
    assert run.path.parent == tmp_path / "runs"
    assert run.telemetry.is_dir()
    assert create_run(tmp_path / "runs").run_id.split("-")[1] == "ppo"


def test_many_at_once_get_a_directory_each(tmp_path: Path) -> None:
    made: list[Path] = []
    threads = [threading.Thread(target=lambda: made.append(create_run(tmp_path).path)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(250)
    assert len(set(made)) == 16


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot make a run in .*file"):
        create_run(tmp_path / "file")
    with pytest.raises(UsageError, match=r"cannot make a run in .*under"):
        create_run(tmp_path / "file" / "under")


def test_runs_are_listed_newest_first_and_only_runs(tmp_path: Path) -> None:
    for name in ("20260101T000000Z-a-000001", "20260301T000000Z-b-000002", "20260201T000000Z-c-000003"):
        make(tmp_path, name)
    (tmp_path / "notes").mkdir()
    assert [run.path.name[16:18] for run in list_runs(tmp_path)] == ["-b", "-c", "-a"]
    assert list_runs(tmp_path / "missing") == []


def test_a_run_is_found_by_path_id_part_or_latest(tmp_path: Path) -> None:
    first = make(tmp_path, "20260101T000000Z-base-aaaaaa")
    second = make(tmp_path, "20260201T000000Z-drift-bbbbbb")
    assert find_run(str(first), Path("elsewhere")).path == first
    assert find_run(second.name, tmp_path).path == second
    assert find_run("20260101", tmp_path).path == first
    assert find_run("drift", tmp_path).path == second
    assert find_run("aaaaaa", tmp_path).path == first
    assert find_run("latest", tmp_path).path == second


def test_a_copied_run_keeps_the_id_its_events_carry(tmp_path: Path) -> None:
    run = create_run(tmp_path, name="one")
    write_record(run, RunRecord(run_id=run.run_id))
    run.path.rename(tmp_path / "renamed")
    assert find_run(str(tmp_path / "renamed"), tmp_path).run_id == run.run_id


def test_an_unknown_run_names_the_nearest_and_the_place(tmp_path: Path) -> None:
    make(tmp_path, "20260201T000000Z-drift-bbbbbb")
    with pytest.raises(RunNotFoundError) as caught:
        find_run("20260201T000000Z-drfit-bbbbbb", tmp_path)
    assert 'did you mean "20260201T000000Z-drift-bbbbbb"?' in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(RunNotFoundError, match=r"there are no runs in .*empty"):
        find_run("latest", tmp_path / "empty")


def test_a_file_of_a_run_names_the_run(tmp_path: Path) -> None:
    run = create_run(tmp_path, name="one")
    write_record(run, RunRecord(run_id=run.run_id))
    file = run.telemetry / "1-0-0001.otlp.jsonl"
    file.parent.mkdir(exist_ok=True)
    file.touch()
    for path in (run.record_path, file):
        assert find_run(str(path), Path("elsewhere")).path == run.path


def test_a_folder_or_file_that_is_no_run_is_said_to_hold_none(tmp_path: Path) -> None:
    create_run(tmp_path, name="one")
    with pytest.raises(
        RunNotFoundError, match=r"holds no run\n  it is a folder of runs; name one of them, such as .*one"
    ):
        find_run(str(tmp_path), Path("elsewhere"))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(RunNotFoundError, match=r"empty holds no run\n  list runs"):
        find_run(str(empty), tmp_path)


def test_an_ambiguous_name_lists_what_it_fits(tmp_path: Path) -> None:
    for index in range(7):
        make(tmp_path, f"2026020{index + 1}T000000Z-drift-{index:06d}")
    with pytest.raises(RunNotFoundError, match=r"fits 7 runs") as caught:
        find_run("drift", tmp_path)
    assert "and 2 more" in str(caught.value)


def test_journal_files_sort_by_number_and_ignore_strangers(tmp_path: Path) -> None:
    run = create_run(tmp_path)
    for attempt, rank, segment in ((10, 0, 1), (2, 0, 10000), (2, 0, 9999), (2, 1, 1)):
        JournalFile.named(run.telemetry, attempt, rank, segment).path.touch()
    (run.telemetry / "notes.txt").touch()
    os.mkfifo(run.telemetry / "1-0-x.otlp.jsonl")
    found = [(item.attempt, item.rank, item.segment) for item in journal_files(run)]
    assert found == [(2, 0, 9999), (2, 0, 10000), (2, 1, 1), (10, 0, 1)]
