"""A journal's segments at rest: compressed in members that a reader jumps between, by the writer's own thread."""

from __future__ import annotations

import gzip
import io
import random
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from journal_events import ids

from esper_core.events import Payload, PPOUpdatePayload, SpanRef, TelemetryEvent, TraceRef
from esper_core.reading.index import UpdateIndex, scan_index
from esper_core.runs import (
    JournalReader,
    JournalWriter,
    RunDir,
    create_run,
    journal_resource,
    members,
    packer,
    read_events,
    tail_events,
)
from esper_core.runs.files import open_file
from esper_core.runs.members import MemberFile, pack_member

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def lines(count: int, seed: int = 0) -> list[bytes]:
    draw = random.Random(seed)
    return [f'{{"number":{index},"value":{draw.random()}}}\n'.encode() * draw.randint(1, 40) for index in range(count)]


def plain_file(path: Path) -> io.BufferedReader:
    return io.BufferedReader(MemberFile(open_file(path)))


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("members")


@given(
    parts=st.lists(st.binary(min_size=1, max_size=3000), min_size=1, max_size=6),
    moves=st.lists(st.tuples(st.integers(0, 20000), st.integers(0, 5000)), max_size=12),
    told=st.booleans(),
)
def test_a_compressed_file_reads_as_the_plain_one_from_every_position(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], moves: list[tuple[int, int]], told: bool
) -> None:
    """Against a plain file in memory, for members of ours and for those of another program."""
    path = tmp_path_factory.mktemp("any") / "x.gz"
    path.write_bytes(b"".join(pack_member(part) if told else gzip.compress(part) for part in parts))
    plain = io.BytesIO(b"".join(parts))
    with plain_file(path) as file:
        assert file.seek(0, 2) == plain.seek(0, 2)
        for position, count in moves:
            file.seek(position)
            plain.seek(position)
            assert file.read(count) == plain.read(count)
            assert file.readline() == plain.readline()
    assert gzip.decompress(path.read_bytes()) == b"".join(parts)


@pytest.mark.parametrize("hurt", ["body", "magic", "end", "cut", "not gzip", "empty"])
def test_damage_costs_its_own_member_and_one_bad_line(folder: Path, hurt: str) -> None:
    """Every line of the other members is read, and what is lost shows as at least one line that is none."""
    parts = [b"".join(lines(30, seed)) for seed in range(4)]
    packed = [pack_member(part) for part in parts]
    at = sum(map(len, packed[:2]))
    content = bytearray(b"".join(packed))
    if hurt == "body":
        content[at + 100 : at + 140] = bytes(40)
    elif hurt == "magic":
        content[at : at + 4] = b"\0\0\0\0"
    elif hurt == "end":
        content[at + len(packed[2]) - 8] ^= 1  # the checksum
    elif hurt == "cut":
        del content[at + len(packed[2]) // 2 :]
    elif hurt == "empty":
        content.clear()
    else:
        content[:] = b"neither gzip nor anything" * 20
    path = folder / "x.gz"
    path.write_bytes(content)
    with plain_file(path) as file:
        read = file.readlines()
    good = [line for part in parts for line in part.splitlines(keepends=True)]
    sound = [line for line in read if line in set(good)]
    kept = {"cut": parts[:2], "not gzip": [], "empty": []}.get(hurt, [parts[0], parts[1], parts[3]])
    assert set(b"".join(kept).splitlines(keepends=True)) <= set(sound)
    assert [line for line in read if line not in set(good)]


def test_only_the_members_that_are_asked_for_are_unpacked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a tail, and each step back in the viewer, would cost the whole file."""
    parts = [b"".join(lines(200, seed)) for seed in range(20)]
    path = folder / "x.gz"
    path.write_bytes(b"".join(map(pack_member, parts)))
    unpacked: list[int] = []
    real = members._Unpacked

    class Counted(real):  # type: ignore[misc, valid-type]  # a class held in a variable
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)
            unpacked.append(1)

    monkeypatch.setattr(members, "_Unpacked", Counted)
    with plain_file(path) as file:
        file.seek(-100, 2)
        assert file.read() == parts[-1][-100:]
    assert len(unpacked) == 1


# --- the writer's thread -------------------------------------------------------------------------


def opened(run: RunDir, segment_bytes: int = 40_000) -> JournalWriter:
    return JournalWriter(run, attempt=1, rank=0, resource={"k": "v"}, compress=True, segment_bytes=segment_bytes)


def update(number: int) -> TelemetryEvent[Payload]:
    span = SpanRef(name="esper.ppo.update", span_id=f"{number:016x}", start_ns=1, end_ns=2)
    trace = TraceRef(trace_id=f"{number:032x}", spans=(span,))
    payload = PPOUpdatePayload(update_id=number, kl_divergence=number / 1000)
    return TelemetryEvent(time_ns=2, run_id="r", attempt=1, trace=trace, payload=payload)


def names(run: RunDir) -> list[str]:
    return sorted(path.name for path in run.telemetry.iterdir())


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return create_run(tmp_path)


def test_at_rest_every_segment_is_compressed_and_no_number_changes(run: RunDir) -> None:
    """A follower that saw the segments grow goes on in them; a new reader, the index and the tail find the same."""
    writer = opened(run)
    follower, index, followed = JournalReader(run), UpdateIndex(run), []
    for number in range(1, 401):
        writer.append(update(number))
        if number % 7 == 0:
            followed += ids(follower.poll())
            index.extend()
    writer.close()
    assert len(names(run)) > 3
    assert all(name.endswith(".otlp.jsonl.gz") for name in names(run))
    everything = list(range(1, 401))
    assert followed + ids(follower.finish()) == everything == ids(read_events(run))
    index.extend()
    fresh = scan_index(run)
    for found in (index, fresh):
        assert [found.event(place).payload.update_id for place in range(0, len(found), 50)] == everything[::50]
        assert len(found) == 400
    assert ids(tail_events(run, 30)) == everything[-30:]
    assert follower.corrupt == 0
    assert journal_resource(run)["k"] == "v"
    plain = sum(len(gzip.decompress(path.read_bytes())) for path in run.telemetry.iterdir())
    assert sum(path.stat().st_size for path in run.telemetry.iterdir()) < plain / 3


def test_a_large_segment_is_compressed_while_it_grows(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that its end finds little left to do."""
    monkeypatch.setattr(packer, "MEMBER_BYTES", 10_000)
    writer = opened(run, segment_bytes=2**26)
    for number in range(1, 301):
        writer.append(update(number))
    partial = run.telemetry / ".1-0-0001.otlp.jsonl.gz.partial"
    while not partial.exists():
        time.sleep(0.01)
    assert ids(read_events(run)) == list(range(1, 301))
    writer.close()
    assert names(run) == ["1-0-0001.otlp.jsonl.gz"]
    assert ids(read_events(run)) == list(range(1, 301))


def test_a_resumed_rank_begins_behind_its_compressed_segments(run: RunDir) -> None:
    for begin in (1, 101):
        writer = opened(run)
        for number in range(begin, begin + 100):
            writer.append(update(number))
        writer.close()
    assert ids(read_events(run)) == list(range(1, 201))


def test_what_cannot_be_compressed_stays_plain(run: RunDir) -> None:
    """Here because something has the place of the partial file; a full disk ends there too."""
    (run.telemetry / ".1-0-0001.otlp.jsonl.gz.partial").mkdir()
    writer = opened(run, segment_bytes=2**26)
    for number in range(1, 11):
        writer.append(update(number))
    writer.close()
    assert (run.telemetry / "1-0-0001.otlp.jsonl").exists()
    assert ids(read_events(run)) == list(range(1, 11))


def test_without_a_thread_segments_stay_plain(run: RunDir, no_thread: Callable[[str], None]) -> None:
    no_thread("esper-journal-packer")
    writer = opened(run, segment_bytes=10_000)
    for number in range(1, 11):
        writer.append(update(number))
    writer.close()
    assert not [name for name in names(run) if name.endswith(".gz")]
    assert ids(read_events(run)) == list(range(1, 11))


def test_a_compressed_segment_that_is_deleted_counts_as_lost(run: RunDir) -> None:
    lost: list[int] = []
    writer = JournalWriter(
        run,
        attempt=1,
        rank=0,
        resource={},
        compress=True,
        segment_bytes=3_000,
        on_vanished=lambda _, count: lost.append(count),
    )
    for number in range(1, 21):
        writer.append(update(number))
    first = run.telemetry / "1-0-0001.otlp.jsonl.gz"
    while not first.exists():
        time.sleep(0.01)
    held = len(list(JournalReader(run).stream())) - len(list(_without(run, first)))
    for number in range(21, 41):
        writer.append(update(number))
    writer.close()
    assert sum(lost) == held > 0
    assert len(ids(read_events(run))) == 40 - held


def _without(run: RunDir, path: Path) -> list[TelemetryEvent[Payload]]:
    path.unlink()
    return list(read_events(run))


def test_a_file_that_is_there_plain_and_compressed_counts_once(run: RunDir) -> None:
    writer = opened(run, segment_bytes=2**26)
    for number in range(1, 6):
        writer.append(update(number))
    writer.close()
    packed = run.telemetry / "1-0-0001.otlp.jsonl.gz"
    packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
    assert ids(read_events(run)) == [1, 2, 3, 4, 5]
