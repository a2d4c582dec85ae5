"""The journal's writer: processes die, disks fill and files vanish, and every finished append survives."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from journal_events import RESOURCE, ids, opened, update
from small_disk import small_disk_at

from esper_core.runs import JournalReader, JournalWriter, RunDir, create_run, read_events
from esper_core.semconv.codec import encode

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return create_run(tmp_path, name="test")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    with small_disk_at(tmp_path / "small", 64) as place:
        yield place


# --- processes that die, disks that fill --------------------------------------------------------


_WRITE_FOREVER = """
import sys
from pathlib import Path
from esper_core.events import PPOUpdatePayload, SpanRef, TelemetryEvent, TraceRef
from esper_core.runs import JournalWriter, RunDir

writer = JournalWriter(
    RunDir(Path(sys.argv[1])),
    attempt=1,
    rank=0,
    resource={},
    compress=sys.argv[2] == "gz",
    segment_bytes=int(sys.argv[3]),
)
number = 0
while True:
    number += 1
    span = SpanRef(name="esper.ppo.update", span_id=f"{number:016x}", start_ns=1, end_ns=2)
    trace = TraceRef(trace_id=f"{number:032x}", spans=(span,))
    writer.append(TelemetryEvent(time_ns=2, run_id="r", trace=trace, payload=PPOUpdatePayload(update_id=number)))
    print(number, flush=True)
"""


@pytest.mark.parametrize(("form", "segment_bytes"), [("plain", 100_000), ("gz", 2_500)])
def test_every_finished_append_survives_kill_9(run: RunDir, form: str, segment_bytes: int) -> None:
    """Compressed with segments of a few lines, so that the kill falls into the thread that compresses."""
    command = [sys.executable, "-c", _WRITE_FOREVER, str(run.path), form, str(segment_bytes)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        last = 0
        while last < 300:
            last = int(child.stdout.readline())
        os.kill(child.pid, signal.SIGKILL)
        said = [int(line) for line in child.stdout.read().split("\n")[:-1]]
    reader = JournalReader(run)
    found = ids(reader.finish())
    assert found == list(range(1, len(found) + 1))
    assert len(found) >= max([last, *said])
    assert reader.corrupt <= 1
    assert any(path.suffix == ".gz" for path in run.telemetry.iterdir()) == (form == "gz")


def test_a_full_disk_costs_what_did_not_fit_and_no_more(small_disk: Path) -> None:
    run = create_run(small_disk)
    writer = opened(run)
    kept: list[int] = []

    def fill() -> None:
        while True:
            writer.append(update(len(kept) + 1))
            kept.append(len(kept) + 1)

    for _ in range(2):
        with pytest.raises(OSError, match="No space left"):
            fill()
    number = len(kept)
    assert ids(JournalReader(run).poll()) == kept
    subprocess.run(["mount", "-o", "remount,size=256k", str(small_disk)], check=True)
    for more in (number + 2, number + 3):
        writer.append(update(more))
        kept.append(more)
    writer.close()
    reader = JournalReader(run)
    assert ids(reader.finish()) == kept
    assert reader.corrupt == 1
    assert len(list(run.telemetry.iterdir())) == 1


def test_a_disk_that_turns_read_only_and_back(small_disk: Path) -> None:
    run = create_run(small_disk)
    writer = opened(run)
    writer.append(update(1))
    writer.close()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    writer = opened(run, attempt=2)
    with pytest.raises(OSError, match="Read-only"):
        writer.append(update(2, attempt=2))
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    writer.append(update(3, attempt=2))
    writer.close()
    assert ids(list(read_events(run))) == [1, 3]


_LIMITED = """
import resource, signal, sys
from pathlib import Path
from esper_core.events import PPOUpdatePayload, SpanRef, TelemetryEvent, TraceRef
from esper_core.runs import JournalWriter, RunDir

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
writer = JournalWriter(RunDir(Path(sys.argv[1])), attempt=1, rank=0, resource={})
soft, hard = 3000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
kept = []
for number in range(1, 13):
    span = SpanRef(name="esper.ppo.update", span_id=f"{number:016x}", start_ns=1, end_ns=2)
    trace = TraceRef(trace_id=f"{number:032x}", spans=(span,))
    if number == 10:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    try:
        writer.append(TelemetryEvent(time_ns=2, run_id="r", trace=trace, payload=PPOUpdatePayload(update_id=number)))
        kept.append(number)
    except OSError:
        pass
writer.close()
print(*kept)
"""


def test_after_a_torn_write_the_next_record_begins_on_a_fresh_line(run: RunDir) -> None:
    done = subprocess.run([sys.executable, "-c", _LIMITED, str(run.path)], capture_output=True, text=True, check=True)
    kept = [int(word) for word in done.stdout.split()]
    assert kept[-3:] == [10, 11, 12]
    assert 1 <= len(kept) < 12
    reader = JournalReader(run)
    assert ids(reader.finish()) == kept
    assert reader.corrupt == 1


def test_a_run_deleted_under_the_writer_is_made_again(run: RunDir) -> None:
    writer = opened(run)
    shutil.rmtree(run.path)
    for number in (1, 2):
        writer.append(update(number))
    writer.close()
    assert ids(list(read_events(run))) == [1, 2]


def test_a_run_that_cannot_be_made_again_is_an_error_each_time(run: RunDir) -> None:
    writer = opened(run)
    shutil.rmtree(run.path)
    run.path.write_text("a file in its place")
    for _ in range(2):
        with pytest.raises(NotADirectoryError):
            writer.append(update(1))
    run.path.unlink()
    writer.append(update(2))
    writer.close()
    assert ids(list(read_events(run))) == [2]


def test_a_deleted_file_is_noticed_at_once_and_another_one_begins(run: RunDir) -> None:
    told: list[tuple[str, int]] = []
    writer = JournalWriter(
        run, attempt=1, rank=0, resource=RESOURCE, on_vanished=lambda name, lost: told.append((name, lost))
    )
    writer.append(update(1))
    writer.append(update(2))
    Path(writer.path).unlink()
    assert not told
    writer.append(update(3))
    assert told == [("1-0-0001.otlp.jsonl was deleted", 2)]
    writer.append(update(4))
    assert ids(list(read_events(run))) == [3, 4]
    Path(writer.path).unlink()
    writer.close()
    assert told[1:] == [("1-0-0002.otlp.jsonl was deleted", 2)]


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_a_file_that_was_shortened_costs_what_was_cut_off_it(run: RunDir, kept: int) -> None:
    """``> file`` under a running training: eight events were in no number."""
    told: list[tuple[str, int]] = []
    writer = JournalWriter(
        run, attempt=1, rank=0, resource=RESOURCE, on_vanished=lambda what, lost: told.append((what, lost))
    )
    sizes = [writer.append(update(number)) for number in (1, 2, 3)]
    os.truncate(writer.path, sum(sizes[:kept]) + 9)
    for number in (4, 5):
        writer.append(update(number))
    writer.close()
    assert told == [("1-0-0001.otlp.jsonl was shortened by someone else", 3 - kept)]
    assert ids(list(read_events(run))) == [*range(1, kept + 1), 4, 5]


def test_what_a_deleted_run_had_in_finished_files_counts_too(run: RunDir) -> None:
    told: list[int] = []
    writer = JournalWriter(
        run,
        attempt=1,
        rank=0,
        resource=RESOURCE,
        segment_bytes=1,
        on_vanished=lambda _, lost: told.append(lost),
    )
    for number in range(1, 4):
        writer.append(update(number))
    shutil.rmtree(run.path)
    for number in (4, 5):
        writer.append(update(number))
    writer.close()
    assert told == [3]
    assert ids(list(read_events(run))) == [4, 5]


def test_a_finished_file_that_is_deleted_counts_although_nobody_writes_there(run: RunDir) -> None:
    told: list[tuple[str, int]] = []
    writer = JournalWriter(
        run,
        attempt=1,
        rank=0,
        resource=RESOURCE,
        segment_bytes=1,
        on_vanished=lambda what, lost: told.append((what, lost)),
    )
    for number in range(1, 4):
        writer.append(update(number))
    first, second, _ = sorted(run.telemetry.iterdir())
    first.unlink()
    for number in range(4, 8):
        writer.append(update(number))
    assert told == [(f"{first.name} was deleted", 1)]
    second.unlink()
    writer.close()
    assert told[1:] == [(f"{second.name} was deleted", 1)]


def test_a_file_that_was_moved_out_of_the_run_is_no_part_of_it(run: RunDir, tmp_path: Path) -> None:
    told: list[tuple[str, int]] = []
    writer = JournalWriter(
        run, attempt=1, rank=0, resource=RESOURCE, on_vanished=lambda what, lost: told.append((what, lost))
    )
    writer.append(update(1))
    moved = tmp_path / "moved.jsonl"
    Path(writer.path).rename(moved)
    writer.append(update(2))
    writer.close()
    assert len(moved.read_bytes().splitlines()) == 1
    assert told == [("1-0-0001.otlp.jsonl was moved out of the run", 1)]
    assert ids(list(read_events(run))) == [2]


def test_a_run_that_was_renamed_keeps_its_journal(run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    monkeypatch.chdir(run.path.parent)
    writer = JournalWriter(
        RunDir(Path(run.path.name)),
        attempt=1,
        rank=0,
        resource=RESOURCE,
        segment_bytes=1,
        on_vanished=lambda _, lost: told.append(lost),
    )
    writer.append(update(1))
    moved = run.path.rename(tmp_path / "renamed")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    writer.append(update(2))
    writer.append(update(3))
    writer.close()
    assert ids(list(read_events(RunDir(moved)))) == [1, 2, 3]
    assert not told
    assert not run.path.exists()
    assert not list(Path().iterdir())


def test_a_descriptor_closed_by_someone_else_loses_nothing(run: RunDir, tmp_path: Path) -> None:
    writer = opened(run)
    writer.append(update(1))
    assert writer._fd is not None
    os.close(writer._fd)
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    assert other == writer._fd, "the number is another file's now"
    writer.append(update(2))
    writer.close()
    assert os.fstat(other).st_size == 0
    os.close(other)
    assert ids(list(read_events(run))) == [1, 2]


def test_an_append_costs_little_more_than_encoding(run: RunDir) -> None:
    """Medians of the caller's CPU time. Measured at twice the encoding."""
    writer = opened(run)
    appending, encoding = [], []
    for number in range(1, 301):
        event = update(number)
        start = time.thread_time_ns()
        writer.append(event)
        appended = time.thread_time_ns()
        encode(event, RESOURCE)
        appending.append(appended - start)
        encoding.append(time.thread_time_ns() - appended)
    writer.close()
    assert sorted(appending)[150] < 10 * sorted(encoding)[150]
