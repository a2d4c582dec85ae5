"""The journal: every finished append survives, damage is counted and named, and nothing around it is lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from esper_core.errors import JournalError
from esper_core.events import (
    Payload,
    PPOUpdatePayload,
    RunFinished,
    RunStarted,
    SpanRef,
    TelemetryEvent,
    TraceRef,
)
from esper_core.health import RunState
from esper_core.reading import scan_index
from esper_core.runs import (
    JournalReader,
    JournalWriter,
    RunDir,
    create_run,
    journal_resource,
    read_events,
    tail_events,
)
from esper_core.runs.layout import journal_files
from esper_core.runs.reader import MAX_LINE_BYTES
from esper_core.semconv.codec import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RESOURCE = {"service.name": "esper", "esper.run.attempt": 1}
BASE_NS = 1_700_000_000_000_000_000


def event_of(payload: Payload, *, attempt: int = 1, number: int = 1) -> TelemetryEvent[Payload]:
    now = BASE_NS + number
    names = {
        "ppo_updated": "esper.ppo.update",
        "run_started": "esper.run.started",
        "run_finished": "esper.run.finished",
    }
    span = SpanRef(name=names[payload.kind], span_id=f"{number:016x}", start_ns=now, end_ns=now)
    return TelemetryEvent(
        time_ns=now,
        run_id="r",
        attempt=attempt,
        trace=TraceRef(trace_id=f"{number:032x}", spans=(span,)),
        payload=payload,
    )


def update(number: int, *, attempt: int = 1) -> TelemetryEvent[Payload]:
    return event_of(PPOUpdatePayload(update_id=number, kl_divergence=number / 1000), attempt=attempt, number=number)


def ids(events: list[TelemetryEvent[Payload]]) -> list[int]:
    return [event.payload.update_id for event in events if isinstance(event.payload, PPOUpdatePayload)]


def opened(run: RunDir, *, attempt: int = 1, segment_bytes: int = 2**26) -> JournalWriter:
    return JournalWriter(run, attempt=attempt, rank=0, resource=RESOURCE, segment_bytes=segment_bytes)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return create_run(tmp_path, name="test")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("cannot mount a tmpfs here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


# --- writing and reading back -------------------------------------------------------------------


def test_what_is_appended_is_read_back_equal(run: RunDir) -> None:
    events = [
        event_of(RunStarted(environment="CartPole-v1")),
        update(1),
        update(2),
        event_of(RunFinished(state=RunState.DONE)),
    ]
    writer = opened(run)
    sizes = [writer.append(event) for event in events]
    writer.close()
    assert list(read_events(run)) == events
    files = list(run.telemetry.iterdir())
    assert [file.name for file in files] == ["1-0-0001.otlp.jsonl"]
    assert files[0].stat().st_size == sum(sizes)


def test_a_reader_follows_while_it_is_written(run: RunDir) -> None:
    reader = JournalReader(run)
    assert reader.poll() == []
    writer = opened(run)
    assert reader.poll() == []
    writer.append(update(1))
    assert ids(reader.poll()) == [1]
    assert reader.poll() == []
    for number in (2, 3, 4):
        writer.append(update(number))
    assert ids(reader.poll(limit=2)) == [2, 3]
    assert ids(reader.poll()) == [4]
    writer.close()


def test_a_full_segment_is_followed_by_another(run: RunDir) -> None:
    size = opened(run).append(update(1))
    shutil.rmtree(run.telemetry)
    run.telemetry.mkdir()
    writer = opened(run, segment_bytes=3 * size)
    reader = JournalReader(run)
    seen: list[int] = []
    for number in range(1, 9):
        writer.append(update(number))
        seen += ids(reader.poll())
    writer.close()
    assert seen == list(range(1, 9))
    assert ids(list(read_events(run))) == seen
    assert sorted(file.name for file in run.telemetry.iterdir()) == [f"1-0-{n:04d}.otlp.jsonl" for n in (1, 2, 3)]


def test_an_attempt_never_writes_into_another_file(run: RunDir) -> None:
    first = opened(run)
    first.append(update(1))
    again = opened(run)  # the same attempt, begun twice
    again.append(update(2))
    first.append(update(3))
    second = opened(run, attempt=2)
    second.append(update(3, attempt=2))
    names = ["1-0-0001", "1-0-0002", "2-0-0001"]
    assert sorted(file.name for file in run.telemetry.iterdir()) == [f"{name}.otlp.jsonl" for name in names]
    found = [(event.attempt, event.payload.update_id) for event in read_events(run)]
    assert found == [(1, 1), (1, 3), (1, 2), (2, 3)]


def test_a_closed_writer_says_so(run: RunDir) -> None:
    writer = opened(run)
    writer.close()
    writer.close()
    with pytest.raises(ValueError, match="closed"):
        writer.append(update(1))


def test_two_readers_at_once_see_everything(run: RunDir) -> None:
    total = 400
    seen: list[list[int]] = [[], []]
    done = threading.Event()

    def read(mine: list[int]) -> None:
        reader = JournalReader(run)
        while not done.is_set():
            mine += ids(reader.poll())
        mine += ids(reader.poll())

    threads = [threading.Thread(target=read, args=(mine,)) for mine in seen]
    for thread in threads:
        thread.start()
    writer = opened(run, segment_bytes=40_000)
    for number in range(1, total + 1):
        writer.append(update(number))
    writer.close()
    done.set()
    for thread in threads:
        thread.join(250)
    assert seen == [list(range(1, total + 1))] * 2


# --- damage -------------------------------------------------------------------------------------


def test_a_torn_tail_is_waited_for_and_counted_at_the_end(run: RunDir) -> None:
    writer = opened(run)
    writer.append(update(1))
    writer.append(update(2))
    file = next(run.telemetry.iterdir())
    whole = file.read_bytes()
    cut = whole.index(b"\n") + 100
    file.write_bytes(whole[:cut])
    reader = JournalReader(run)
    assert ids(reader.poll()) == [1]
    assert reader.poll() == []
    assert reader.corrupt == 0
    with file.open("ab") as late:
        late.write(whole[cut:])
    assert ids(reader.poll()) == [2]
    file.write_bytes(whole[:cut])
    ended = JournalReader(run)
    assert ids(ended.finish()) == [1]
    assert ended.corrupt == 1
    assert str(ended.problems[0]) == f"{file}:2: torn: the write was cut short"
    assert ended.finish() == []
    assert ended.corrupt == 1


def test_a_last_line_that_lacks_only_its_newline_counts(run: RunDir) -> None:
    opened(run).append(update(1))
    file = next(run.telemetry.iterdir())
    file.write_bytes(file.read_bytes()[:-1])
    reader = JournalReader(run)
    assert ids(reader.finish()) == [1]
    assert reader.corrupt == 0


def test_corrupt_lines_are_counted_and_named_and_their_neighbours_stay(run: RunDir) -> None:
    writer = opened(run)
    for number in range(1, 6):
        writer.append(update(number))
    file = next(run.telemetry.iterdir())
    lines = file.read_bytes().splitlines(keepends=True)
    lines[1] = b"\0" * 200 + b"\n"
    lines[3] = lines[3].replace(b'"doubleValue"', b'"doubleValue', 1)
    file.write_bytes(b"".join(lines))
    reader = JournalReader(run)
    assert ids(reader.poll()) == [1, 3, 5]
    assert reader.corrupt == 2
    assert [str(item).startswith(f"{file}:{line}: ") for item, line in zip(reader.problems, (2, 4), strict=True)]
    tailed = JournalReader(run)
    assert ids(tailed.tail(10)) == [1, 3, 5]
    assert sorted(item.line for item in tailed.problems) == [2, 4]


def test_a_hole_without_newlines_does_not_stop_the_reader(run: RunDir) -> None:
    writer = opened(run)
    writer.append(update(1))
    file = next(run.telemetry.iterdir())
    with file.open("ab") as damage:
        damage.truncate(file.stat().st_size + MAX_LINE_BYTES + 10)  # sparse zeros
    with file.open("ab") as damage:
        damage.write(b"\n")
    writer.append(update(2))
    reader = JournalReader(run)
    assert ids(reader.poll()) == [1, 2]
    assert reader.corrupt == 1


def test_a_torn_line_at_the_end_of_a_past_segment_is_counted_while_following(run: RunDir) -> None:
    opened(run).append(update(1))
    file = next(run.telemetry.iterdir())
    with file.open("ab") as damage:
        damage.write(b'{"resourceSpans":[{"res')
    reader = JournalReader(run)
    assert ids(reader.poll()) == [1]
    opened(run).append(update(2))
    assert ids(reader.poll()) == [2]
    assert reader.corrupt == 1


def test_a_deleted_run_is_the_end_of_it(run: RunDir) -> None:
    opened(run).append(update(1))
    reader = JournalReader(run)
    assert ids(reader.poll()) == [1]
    shutil.rmtree(run.path)
    assert reader.poll() == []
    assert reader.deleted
    assert reader.tail(5) == []


@pytest.mark.parametrize("kind", ["fifo", "directory", "loop", "link to nothing"])
def test_a_file_that_cannot_be_read_hides_no_other_and_is_named(kind: str, run: RunDir) -> None:
    path = run.telemetry / "1-0-0001.otlp.jsonl"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(path if kind == "loop" else "nothing")
    other = JournalWriter(run, attempt=2, rank=0, resource={})
    for number in (1, 2):
        other.append(update(number, attempt=2))
    other.close()
    reads: dict[str, Callable[[JournalReader], list[Any]]] = {
        "poll": lambda reader: reader.poll(),
        "finish": lambda reader: reader.finish(),
        "tail": lambda reader: reader.tail(3),
    }
    for name, read in reads.items():
        reader = JournalReader(run)
        assert ids(read(reader)) == [1, 2], name
        with pytest.raises(
            JournalError, match=r"cannot read .*1-0-0001.otlp.jsonl: .*\n  .*; everything else was read"
        ):
            reader.check()
    assert len(scan_index(run)) == 2
    for script in (lambda: list(read_events(run)), lambda: tail_events(run, 3)):
        with pytest.raises(JournalError):
            script()
    reader = JournalReader(run)
    assert ids(reader.tail(2)) == [1, 2]
    reader.check()  # what lies before the tail was not asked for


def test_a_byte_order_mark_before_a_line_is_passed_over(run: RunDir) -> None:
    opened(run).append(update(1))
    path = journal_files(run)[0].path
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    reader = JournalReader(run)
    assert ids(reader.finish()) == [1]
    assert reader.corrupt == 0
    assert scan_index(run).event(0).payload.update_id == 1
    assert journal_resource(run)


# --- the tail -----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 7, 10, 100])
def test_the_tail_is_the_end_of_everything(run: RunDir, count: int) -> None:
    size = opened(run).append(update(1))
    writer = opened(run, segment_bytes=3 * size)
    for number in range(2, 11):
        writer.append(update(number))
    assert ids(tail_events(run, count)) == list(range(1, 11))[max(0, 10 - count) :]


def test_following_goes_on_behind_the_tail(run: RunDir) -> None:
    writer = opened(run)
    for number in range(1, 4):
        writer.append(update(number))
    with next(run.telemetry.iterdir()).open("ab") as torn:
        torn.write(b'{"resource')
    reader = JournalReader(run)
    assert ids(reader.tail(2)) == [2, 3]
    assert reader.poll() == []
    with next(run.telemetry.iterdir()).open("ab") as torn:
        torn.write(b"\n")
    writer.append(update(4))
    assert ids(reader.poll()) == [4]
    assert reader.corrupt == 1


def test_the_tail_reads_lines_longer_than_a_block(run: RunDir) -> None:
    writer = opened(run)
    long = "x" * 700_000
    for number in range(1, 4):
        writer.append(event_of(PPOUpdatePayload(update_id=number, reason=long), number=number))
    found = tail_events(run, 2)
    assert ids(found) == [2, 3]
    assert {event.payload.reason for event in found if isinstance(event.payload, PPOUpdatePayload)} == {long}


def test_the_tail_can_count_updates_only(run: RunDir) -> None:
    writer = opened(run)
    writer.append(update(1))
    writer.append(update(2))
    writer.append(event_of(RunFinished(state=RunState.DONE)))
    kinds = [event.kind for event in tail_events(run, 2, updates_only=True)]
    assert kinds == ["ppo_updated", "ppo_updated", "run_finished"]


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
    kept = []

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
