"""The journal: what is appended is read back, damage is counted and named, and nothing around it is lost."""

from __future__ import annotations

import os
import shutil
import threading
from typing import TYPE_CHECKING, Any

import pytest
from journal_events import event_of, ids, opened, update

from esper_core.errors import JournalError
from esper_core.events import PPOUpdatePayload, RunFinished, RunStarted
from esper_core.health import RunState
from esper_core.reading import scan_index
from esper_core.runs import JournalReader, JournalWriter, RunDir, create_run, journal_resource, read_events, tail_events
from esper_core.runs.layout import journal_files
from esper_core.runs.lines import MAX_LINE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return create_run(tmp_path, name="test")


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
    events = list(read_events(run))
    found = list(zip([event.attempt for event in events], ids(events), strict=True))
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
    scripts: tuple[Callable[[], object], ...] = (lambda: list(read_events(run)), lambda: tail_events(run, 3))
    for script in scripts:
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
