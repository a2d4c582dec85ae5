"""Tables written column by column are, byte for byte, those that the codec and the standard library would write."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import random
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from esper_core.cli.main import main
from esper_core.events import (
    Divergence,
    EarlyStop,
    EpisodeFinished,
    HeadStats,
    Payload,
    PolicyEvaluated,
    PPOUpdatePayload,
    RunStarted,
    SpanRef,
    TelemetryEvent,
    TraceRef,
)
from esper_core.health import HealthLevel
from esper_core.reading import open_run
from esper_core.reading.cells import Block, Cells, blocks_of, cells_of_columns
from esper_core.reading.table import columns, heading, json_value, row
from esper_core.reading.written import write_csv, write_jsonl
from esper_core.runs import JournalWriter, RunDir, create_run
from esper_core.runs.segments import read_segment
from esper_core.semconv.attributes import SPAN_NAMES
from esper_core.semconv.codec import CodecError, decode, encode
from esper_core.semconv.columns import ColumnReader

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Event = TelemetryEvent[Payload]
EXAMPLES = sorted(
    path.parent for path in (Path(__file__).parents[2] / "docs" / "examples" / "runs").glob("*/telemetry")
)
ODD_FLOATS = (
    0.0,
    -0.0,
    1e-5,
    9.999e-5,
    0.0001,
    1e15,
    1e16,
    123456789012345680.0,
    5e-324,
    -math.inf,
    math.nan,
    10.00001,
)


def event_of(payload: Payload, number: int, *, spans: int = 1) -> Event:
    own = SpanRef(name=SPAN_NAMES[payload.kind], span_id="a" * 16, start_ns=number, end_ns=10**18 + number)
    outer = replace(own, name="esper.iteration", span_id="b" * 16)
    between = replace(own, name="esper.rollout", span_id="c" * 16, parent_span_id="b" * 16)
    trace = (outer, between, replace(own, parent_span_id="b" * 16)) if spans == 3 else (own,)
    return TelemetryEvent(
        time_ns=own.end_ns, run_id="r", attempt=1, trace=TraceRef(trace_id="f" * 32, spans=trace), payload=payload
    )


def updates(count: int) -> list[Event]:
    """Updates as they come: some stopped, some without a return, heads without a decision, odd numbers."""
    draw = random.Random(7)
    found: list[Event] = []
    for number in range(1, count + 1):
        heads = tuple(
            HeadStats(name=name, kl=draw.choice((None, draw.random(), *ODD_FLOATS)), decisions=number)
            for name in ("slot", 'an "odd", name', "slot")
        )
        payload = PPOUpdatePayload(
            update_id=number,
            heads=heads if number % 7 else (),
            health=draw.choice(list(HealthLevel)),
            reason=draw.choice(("", "", "a, b", "two\nlines")),
            kl_divergence=draw.choice(ODD_FLOATS),
            kl_by_epoch=tuple(draw.random() for _ in range(number % 3)),
            env_steps=draw.choice((number, 2**63, -(2**63))),
            joint_would_stop=draw.choice((None, True, False)),
            early_stop=EarlyStop(epoch=1, minibatch=2, threshold=0.03, head="slot") if number % 5 == 0 else None,
            divergences=(Divergence(name="kl", per_step=0.5),) if number % 11 == 0 else (),
        )
        found.append(event_of(payload, number, spans=3 if number % 2 else 1))
    return found


def lines_of(events: Iterable[Event], resource: dict[str, str | int] | None = None) -> list[bytes]:
    return [encode(event, resource or {"service.name": "esper"}) + b"\n" for event in events]


def by_columns(lines: Sequence[bytes]) -> dict[int, dict[str, object]]:
    """The rows that were read by columns, by their lines' places."""
    found: dict[int, dict[str, object]] = {}
    for part in map(cells_of_columns, ColumnReader().read(lines)):
        for at, place in enumerate(part.places):
            found[place] = {name: values[at] for name, values in part.columns.items()}
    return found


def decoded(line: bytes) -> list[Event]:
    try:
        return decode(line)
    except CodecError:
        return []


def assert_same(lines: Sequence[bytes]) -> int:
    """What is read by columns is what the codec reads; returns how many were."""
    found = by_columns(lines)
    for place, cells in found.items():
        (event,) = decoded(lines[place])
        wanted = row(event)  # type: ignore[arg-type]  # an update, or row fails
        absent = {name: None for name in columns() if name.startswith("early_stop.") and wanted[name] is None}
        assert repr(sorted((absent | cells).items())) == repr(sorted(wanted.items()))
        assert [name for name in wanted if name in cells] == list(cells)  # the order that JSON lines have
        assert not event.marked
    return len(found)


def test_columns_are_what_the_codec_reads() -> None:
    events = updates(200)
    assert assert_same(lines_of(events)) == len(events)
    marked = [replace(event, marked=True) for event in events[:3]]
    others = [
        event_of(RunStarted(environment="Toy"), 1),
        event_of(EpisodeFinished(episode=1, episode_return=1.0, length=2), 2),
    ]
    assert by_columns(lines_of([*marked, *others])) == {}


def test_a_line_that_is_damaged_or_anothers_is_the_codecs() -> None:
    line = lines_of(updates(1))[0]
    changes = [
        (b'"kind":1', b'"kind":'),
        (b'"traceId":"ffff', b'"traceId":"xfff'),
        (b'"spanId":"aaaa', b'"spanId":"aaa'),
        (b'"endTimeUnixNano":"1', b'"endTimeUnixNano":"-1'),
        (b'"esper.ppo.update_id","value":{"intValue":"1"}', b'"esper.ppo.update_id","value":{"intValue":"1x"}'),
        (b'"esper.ppo.update_id","value":{"intValue":"1"}', b'"esper.ppo.update_id"'),
        (b'"esper.ppo.health","value":{"stringValue":"', b'"esper.ppo.health","value":{"stringValue":"?'),
        (
            b'"esper.ppo.head.decisions","value":{"arrayValue":{"values":[',
            b'"esper.ppo.head.decisions","value":{"arrayValue":{"values":[{"intValue":"1"},',
        ),
        (b'"name":"esper.iteration"', b'"name":"esper.run.started"'),
        (b'"scopeSpans":[', b'"scopeSpans":[{"spans":[]},'),
        (b"]}]}]}\n", b"]}]}]} \n"),
    ]
    for old, new in changes:
        assert old in line
        assert by_columns([line.replace(old, new)]) == {}, old


@pytest.mark.parametrize("seed", range(3))
def test_changed_bytes_never_make_another_number(seed: int) -> None:
    draw = random.Random(seed)
    lines = lines_of(updates(12), {"service.name": "esper", "esper.run.attempt": 2})
    for _ in range(40):
        changed = [bytearray(line) for line in lines]
        for line in changed:
            for _ in range(draw.randint(0, 2)):
                line[draw.randrange(len(line) - 1)] = draw.choice(b'0123456789-+.eE"{}[],:NaxT\\ ')
        assert_same(list(map(bytes, changed)))


def reference_csv(events: Sequence[Event], names: Sequence[str]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(names), restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for event in events:
        writer.writerow(row(event))  # type: ignore[arg-type]  # an update
    return out.getvalue()


def reference_jsonl(events: Sequence[Event]) -> str:
    rows = (
        {name: json_value(value) for name, value in row(event).items() if value is not None}  # type: ignore[arg-type]
        for event in events
    )
    return "".join(json.dumps(cells, ensure_ascii=False) + "\n" for cells in rows)


def journal(run: RunDir, events: Iterable[Event]) -> None:
    writer = JournalWriter(run, attempt=1, rank=0, resource={"service.name": "esper"}, segment_bytes=200_000)
    for event in events:
        writer.append(event)
    writer.close()


@pytest.mark.parametrize("case", ["many kinds", "duplicates and a damaged line", "out of order"])
def test_what_is_written_is_what_the_standard_library_writes(case: str, tmp_path: Path) -> None:
    run = create_run(tmp_path / "runs")
    made: list[Event] = [event_of(RunStarted(environment="Toy"), 0), *updates(300)]
    if case == "duplicates and a damaged line":
        made[100:100] = made[20:40]
    elif case == "out of order":
        made[100:110] = reversed(made[100:110])
    journal(run, made)
    if case == "duplicates and a damaged line":
        path = min(run.telemetry.iterdir())
        lines = read_segment(path).splitlines(keepends=True)
        path.unlink()
        path.with_name(path.name.removesuffix(".gz")).write_bytes(
            b"".join([*lines[:5], lines[5][:500] + b"\n", *lines[6:]])
        )
    events: list[Event] = list(open_run(run.path).updates())
    assert len(events) == (299 if "damaged" in case else 300)
    names = heading(event.payload for event in events if isinstance(event.payload, PPOUpdatePayload))
    for form, wanted in (("--csv", reference_csv(events, names)), ("--jsonl", reference_jsonl(events))):
        out = tmp_path / f"updates{form}"
        assert main(["export", str(run.path), form, "-o", str(out)]) == 0
        assert out.read_text(encoding="utf-8") == wanted


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_are_written_the_same(path: Path, tmp_path: Path) -> None:
    events: list[Event] = list(open_run(path).updates())
    names = heading(event.payload for event in events if isinstance(event.payload, PPOUpdatePayload))
    out = tmp_path / "updates.csv"
    assert main(["export", str(path), "-o", str(out)]) == 0
    assert out.read_text(encoding="utf-8") == reference_csv(events, names)


@pytest.mark.parametrize("disordered", [False, True])
def test_an_evaluation_stands_in_the_row_of_the_update_whose_policy_played(disordered: bool, tmp_path: Path) -> None:
    run = create_run(tmp_path / "runs")
    made: list[Event] = [event_of(RunStarted(environment="Toy"), 0), *updates(100)]
    for number, value in ((70, 9.5), (2, 0.25)):
        played = PolicyEvaluated(update_id=number, return_mean=value, episodes=3, best_update_id=2)
        made.insert(number + 1, event_of(played, 200 + number))
    if disordered:
        made[10:12] = reversed(made[10:12])
    journal(run, made)
    assert main(["export", str(run.path), "-o", str(tmp_path / "a.csv")]) == 0
    with (tmp_path / "a.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = {row["update_id"]: row["evaluation.return_mean"] for row in rows if row["evaluation.return_mean"]}
    assert (len(rows), found) == (100, {"2": "0.25", "70": "9.5"})
    assert main(["export", str(run.path), "-o", str(tmp_path / "a.jsonl")]) == 0
    lines = list(map(json.loads, (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()))
    assert [line["update_id"] for line in lines if "evaluation.episodes" in line] == [2, 70]
    assert main(["export", str(run.path), "--sqlite", str(tmp_path / "a.sqlite")]) == 0
    with contextlib.closing(sqlite3.connect(tmp_path / "a.sqlite")) as base:
        best = base.execute(
            'SELECT update_id, "evaluation.best_update_id" FROM updates WHERE "evaluation.episodes" = 3'
        )
        assert sorted(best) == [(2, 2), (70, 2)]


def test_floats_are_written_as_repr_writes_them() -> None:
    draw = random.Random(3)
    values = [*ODD_FLOATS, *(draw.uniform(0.1, 10) * 10.0**power for power in range(-30, 30) for _ in range(20))]
    block = Block(len(values), [Cells(range(len(values)), {"value": values})])
    out = io.StringIO()
    write_csv([block], ["value"], out)
    assert out.getvalue().splitlines()[1:] == list(map(repr, values))
    out = io.StringIO()
    write_jsonl([block], out)
    assert [json.loads(line)["value"] for line in out.getvalue().splitlines()] == list(map(json_value, values))


def test_events_in_memory_are_written_the_same() -> None:
    events = updates(100)
    names = ["update_id", "time", "head.slot#2.kl", "reason"]
    out = io.StringIO()
    assert write_csv(blocks_of(events), names, out) == 100  # type: ignore[arg-type]  # updates
    assert out.getvalue() == reference_csv(events, names)
