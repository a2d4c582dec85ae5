"""Which updates count, the index over them, and ``open_run``."""

from __future__ import annotations

import itertools
import math
import random
import time
from typing import TYPE_CHECKING

import msgspec
import pytest

from esper_core.errors import UsageError
from esper_core.events import HeadStats, Payload, PPOUpdatePayload, RunStarted, SpanRef, TelemetryEvent, TraceRef
from esper_core.health import HealthLevel, RunState, VerdictKind, classify_kl
from esper_core.reading import Run, UpdateIndex, effective_updates, open_run, scan_index, stream_updates
from esper_core.runs import JournalWriter, RunDir, RunRecord, SinkRecord, create_run, read_events, write_record
from esper_core.semconv.codec import encode

if TYPE_CHECKING:
    from pathlib import Path

Event = TelemetryEvent[Payload]


def event_of(payload: Payload, attempt: int, *, marked: bool = False) -> Event:
    name = "esper.ppo.update" if isinstance(payload, PPOUpdatePayload) else "esper.run.started"
    span = SpanRef(name=name, span_id="1" * 16, start_ns=1, end_ns=2)
    trace = TraceRef(trace_id="2" * 32, spans=(span,))
    return TelemetryEvent(time_ns=2, run_id="r", attempt=attempt, marked=marked, trace=trace, payload=payload)


def update(number: int, attempt: int = 1, kl: float | None = 0.001, *, marked: bool = False) -> Event:
    payload = PPOUpdatePayload(
        update_id=number,
        kl_divergence=kl,
        health=classify_kl(kl),
        kl_by_epoch=(0.5, 0.5),
        heads=(HeadStats(name="slot", kl=kl, share=0.75), HeadStats(name="tempo", share=0.25)),
    )
    return event_of(payload, attempt, marked=marked)


def started(attempt: int, first: int) -> Event:
    return event_of(RunStarted(environment="CartPole-v1", first_update_id=first), attempt)


def journal(run: RunDir, events: list[Event], *, segment_bytes: int = 2**26) -> None:
    for attempt, group in itertools.groupby(events, key=lambda event: event.attempt):
        writer = JournalWriter(run, attempt=attempt, rank=0, resource={}, segment_bytes=segment_bytes)
        for event in group:
            writer.append(event)
        writer.close()


def keys(updates: list[TelemetryEvent[PPOUpdatePayload]]) -> list[tuple[int, int]]:
    return [(event.attempt, event.payload.update_id) for event in updates]


ONE = [started(1, 1), *(update(number) for number in range(1, 6))]
TWO = [started(2, 4), *(update(number, 2) for number in (4, 5, 6))]
CASES = {
    "one attempt": (ONE, [(1, 1), (1, 2), (1, 3), (1, 4), (1, 5)]),
    "duplicates": ([*ONE, update(3), update(5)], [(1, 1), (1, 2), (1, 3), (1, 4), (1, 5)]),
    "resumed": ([*ONE, *TWO], [(1, 1), (1, 2), (1, 3), (2, 4), (2, 5), (2, 6)]),
    "resumed, nothing done yet": ([*ONE, started(2, 4)], [(1, 1), (1, 2), (1, 3)]),
    "resumed, start not announced": ([*ONE, *TWO[1:]], [(1, 1), (1, 2), (1, 3), (2, 4), (2, 5), (2, 6)]),
    "resumed twice": ([*ONE, *TWO, started(3, 2), update(2, 3)], [(1, 1), (3, 2)]),
    "from scratch": ([*ONE, started(2, 1), update(1, 2)], [(2, 1)]),
    "marked": ([*ONE, update(6, marked=True), update(1, 9, marked=True)], [(1, n) for n in range(1, 6)]),
    "nothing": ([], []),
}


@pytest.mark.parametrize("case", CASES)
def test_effective_updates_in_memory_on_disk_and_in_the_index(case: str, tmp_path: Path) -> None:
    events, expected = CASES[case]
    assert keys(effective_updates(events)) == expected
    run = create_run(tmp_path)
    journal(run, events)
    assert keys(list(stream_updates(run))) == expected
    index = scan_index(run)
    assert [(index[at].attempt, index[at].update_id) for at in range(len(index))] == expected
    assert keys(Run(run).last_updates(2)) == expected[-2:]


def test_the_order_of_arrival_does_not_matter() -> None:
    events = [*ONE, *TWO]
    expected = keys(effective_updates(events))
    for seed in range(50):
        shuffled = random.Random(seed).sample(events, len(events))
        assert keys(effective_updates(shuffled)) == expected


def test_a_negative_count_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"count: expected 0 or more \(is -1\)"):
        Run(create_run(tmp_path)).last_updates(-1)


def test_two_runs_are_equal_when_they_are_one_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = create_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    run, same, other = Run(directory), open_run(directory.path.name, "."), Run(create_run(tmp_path))
    assert run == same
    assert len({run, same, other}) == 2
    assert run != other
    assert run != directory.path


def test_the_last_updates_reach_behind_a_long_abandoned_attempt(tmp_path: Path) -> None:
    run = create_run(tmp_path)
    journal(run, [started(1, 1), *(update(number) for number in range(1, 200)), started(2, 3), update(3, 2)])
    assert keys(Run(run).last_updates(3)) == [(1, 1), (1, 2), (2, 3)]
    assert keys(Run(run).last_updates(0)) == []


# --- the index ----------------------------------------------------------------------------------


def test_the_index_knows_kl_level_and_place_of_each_update(tmp_path: Path) -> None:
    run = create_run(tmp_path)
    kls = [0.001, 0.0149999999, 0.015, 0.03, math.nan, math.inf, None, 1e-9]
    journal(run, [update(number, kl=kl) for number, kl in enumerate(kls, start=1)], segment_bytes=6000)
    index = scan_index(run)
    assert len(list(run.telemetry.iterdir())) > 2
    for at, kl in enumerate(kls):
        entry = index[at]
        assert entry.level is classify_kl(kl)
        assert entry.kl == (None if kl is None else pytest.approx(kl, rel=1e-6, nan_ok=True))
        assert index.event(at) == update(at + 1, kl=kl)
        assert index.position(at + 1) == at
    assert index[-1].update_id == len(kls)
    assert index.position(99) is None
    assert index.nbytes == 25 * len(kls)


def test_the_index_grows_with_the_run_in_slices(tmp_path: Path) -> None:
    run = create_run(tmp_path)
    index = UpdateIndex(run)
    assert not index.extend()
    journal(run, [update(number) for number in range(1, 101)])
    calls = 1
    while index.extend(max_bytes=20_000):
        calls += 1
    assert len(index) == 100
    assert calls > 5
    journal(run, [started(2, 90), *(update(number, 2) for number in range(90, 95))])
    assert not index.extend()
    assert len(index) == 94
    assert [index[at].attempt for at in (88, 89)] == [1, 2]
    assert index.event(89).attempt == 2


def test_the_index_takes_lines_written_otherwise_and_skips_damage(tmp_path: Path) -> None:
    run = create_run(tmp_path)
    lines = [encode(update(number), {}) for number in range(1, 5)]
    lines[1] = msgspec.json.format(lines[1], indent=0).replace(b'":', b'" : ')
    lines[2] = lines[2][:-40]
    (run.telemetry / "1-0-0001.otlp.jsonl").write_bytes(b"\n".join(lines) + b'\n{"torn')
    index = scan_index(run)
    assert [index.update_id(at) for at in range(len(index))] == [1, 2, 4]


def test_the_index_costs_a_fraction_of_reading_the_events(tmp_path: Path) -> None:
    """In CPU time of this thread. Measured at a sixteenth; tests/benchmarks/bench_sanctum.py has updates a second."""
    run = create_run(tmp_path)
    line = encode(update(1), {}) + b"\n"
    mark = b'"esper.ppo.update_id","value":{"intValue":"1"}'
    count = 5000
    content = b"".join(line.replace(mark, mark.replace(b"1", b"%d" % number)) for number in range(1, count + 1))
    (run.telemetry / "1-0-0001.otlp.jsonl").write_bytes(content)
    start = time.thread_time()
    index = scan_index(run)
    indexed = time.thread_time()
    assert len(index) == len(list(read_events(run))) == count
    assert indexed - start < (time.thread_time() - indexed) / 4


# --- open_run -----------------------------------------------------------------------------------


def test_open_run_gives_everything(tmp_path: Path) -> None:
    run = create_run(tmp_path, name="one")
    journal(run, [*ONE, *TWO])
    now = time.time_ns()
    write_record(run, RunRecord(run_id=run.run_id, started_ns=now, heartbeat_ns=now, updates=6))
    run.config_path.write_text("[ppo]\ntarget_kl = 0.02\n")
    opened = open_run("one", tmp_path)
    assert opened.path == run.path
    assert opened.run_id == run.run_id
    assert opened.state is RunState.LIVE
    assert opened.record is not None
    assert opened.record.updates == 6
    assert len(list(opened.events())) == len(ONE) + len(TWO)
    assert keys(list(opened.updates()))[-1] == (2, 6)
    assert opened.config == {"ppo": {"target_kl": 0.02}}
    before = opened.summary
    assert before is None
    run.summary_path.write_text('{"updates": 6}')
    assert opened.summary == {"updates": 6}
    assert opened.verdict().kind is VerdictKind.HEALTHY


def test_a_run_without_anything_is_unknown(tmp_path: Path) -> None:
    opened = Run(create_run(tmp_path))
    assert opened.state is RunState.UNKNOWN
    assert opened.config == {}
    assert list(opened.updates()) == []
    assert opened.verdict().kind is VerdictKind.UNKNOWN


def sinks(**lost: int) -> list[SinkRecord]:
    return [SinkRecord(name=name, lost=count) for name, count in lost.items()]


@pytest.mark.parametrize(
    ("kls", "changes", "kind"),
    [
        ([0.001] * 5, {}, VerdictKind.HEALTHY),
        ([0.001] * 2, {}, VerdictKind.WARM_UP),
        ([0.001] * 4 + [0.02], {}, VerdictKind.WARNING),
        ([0.05] + [0.001] * 2 + [0.05, 0.001, 0.001], {}, VerdictKind.CRITICAL),
        ([0.001] * 4 + [math.nan], {}, VerdictKind.NON_FINITE),
        ([0.001] * 5, {"sinks": sinks(journal=1)}, VerdictKind.LOSSY),
        ([0.05] * 5, {"sinks": sinks(console=1)}, VerdictKind.CRITICAL),
        ([0.001] * 5, {"sinks": sinks(console=1)}, VerdictKind.LOSSY),
        ([0.001] * 5, {"state": RunState.FAILED, "message": "boom"}, VerdictKind.FAILED),
        ([0.001] * 5, {"heartbeat_ns": 0}, VerdictKind.STALE),
    ],
)
def test_the_verdict_is_fed_from_record_and_journal(
    kls: list[float], changes: dict[str, object], kind: VerdictKind, tmp_path: Path
) -> None:
    run = create_run(tmp_path)
    journal(run, [update(number, kl=kl) for number, kl in enumerate(kls, start=1)])
    now = time.time_ns()
    record = RunRecord(run_id=run.run_id, started_ns=now, heartbeat_ns=now)
    write_record(run, msgspec.structs.replace(record, **changes))
    judged = Run(run).verdict()
    assert judged.kind is kind
    if kind is VerdictKind.CRITICAL:
        assert "head slot carries 75%" in judged.reason
    if kind is VerdictKind.FAILED:
        assert judged.reason == "boom"


def test_a_verdict_on_a_long_run_reads_only_its_end(tmp_path: Path) -> None:
    """In CPU time of this thread, against reading all of it. Measured at a five-hundredth."""
    run = create_run(tmp_path)
    content = b"".join(encode(update(number), {}) + b"\n" for number in range(1, 51)) * 200
    (run.telemetry / "1-0-0001.otlp.jsonl").write_bytes(content)
    start = time.thread_time()
    assert Run(run).verdict().level is HealthLevel.HEALTHY
    judged = time.thread_time()
    assert len(list(read_events(run))) == 10_000
    assert judged - start < (time.thread_time() - judged) / 20
