"""Benchmarks beside peers: quartiles, the rule of ``make bench-check``, turns in processes, the record and its page."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from esper_bench import record, table, worker
from esper_bench.__main__ import main
from esper_bench.meter import Meter, Turns
from esper_bench.peers import Library
from esper_bench.row import OWN, Party, Row
from esper_bench.spread import Spread, ratios, spread
from esper_bench.subjects import SUBJECTS, find_row
from esper_bench.verdict import compare, judge

from benchmark_page import benchmark_page

if TYPE_CHECKING:
    from pathlib import Path


def nothing(_: object) -> Any:
    return lambda: 1


def a_row(**changes: Any) -> Row:
    row = Row("a row", "some work", "ms", nothing, (Party("peer", nothing),), per="thing")
    return replace(row, **changes) if changes else row


def found(ours: list[float], peer: list[float], **more: Any) -> record.Measured:
    turns = Turns(costs={OWN: ours, "peer": peer}, **more)
    return record.measured("A subject", a_row(), turns, load=1.25)


def test_quartiles_are_interpolated_between_the_rounds() -> None:
    assert spread([4.0, 1.0, 3.0, 2.0, 5.0]) == (2.0, 3.0, 4.0)
    assert spread([1.0, 2.0]) == (1.25, 1.5, 1.75)
    assert spread([7.0]) == (7.0, 7.0, 7.0)
    with pytest.raises(ValueError, match="no rounds"):
        spread([])


def test_a_slow_round_slows_both_and_leaves_the_ratio_alone() -> None:
    assert ratios([1.0, 10.0, 1.0], [2.0, 20.0, 2.0]) == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("recorded", "today", "verdict"),
    [
        ((0.9, 1.0, 1.1), (0.9, 1.0, 1.1), "held"),
        ((0.9, 1.0, 1.1), (1.39, 1.5, 1.6), "held"),  # the fence stands at 1.1 + 1.5 * 0.2
        ((0.9, 1.0, 1.1), (1.41, 1.5, 1.6), "slower"),
        ((0.9, 1.0, 1.1), (1.2, 1.9, 2.0), "held"),  # a quarter of today's rounds lie within
        ((0.5, 0.5, 0.5), (0.54, 0.54, 0.54), "held"),  # rounds that agreed have a tenth of play
        ((0.5, 0.5, 0.5), (0.56, 0.56, 0.56), "slower"),
        ((0.9, 1.0, 1.1), (0.4, 0.5, 0.59), "faster"),
        ((0.9, 1.0, 1.1), (0.4, 0.5, 0.61), "held"),
    ],
)
def test_a_ratio_is_slower_when_three_quarters_of_the_rounds_lie_beyond_the_recorded_fence(
    recorded: tuple[float, float, float], today: tuple[float, float, float], verdict: str
) -> None:
    assert judge(Spread(*recorded), Spread(*today)) == verdict


def test_only_what_is_slower_or_lost_fails_the_check() -> None:
    before = found([1.0, 1.0, 1.0], [2.0, 2.0, 2.0])
    slower = found([2.0, 2.0, 2.0], [2.0, 2.0, 2.0])
    assert [(one.verdict, one.fails) for one in compare(before, before)] == [("held", False)]
    assert [(one.verdict, one.fails) for one in compare(before, slower)] == [("slower", True)]
    assert [(one.verdict, one.fails) for one in compare(slower, before)] == [("faster", False)]
    assert [(one.verdict, one.fails) for one in compare(None, before)] == [("not recorded", False)]
    gone = found([1.0], [1.0], absent={"peer": "peer not installed: make bench-peers"})
    assert [(one.verdict, one.fails) for one in compare(before, gone)] == [("not measured", False)]
    assert [(one.verdict, one.fails) for one in compare(gone, before)] == [("not recorded", False)]


def test_a_row_that_does_other_work_than_the_recorded_one_is_not_compared() -> None:
    before, today = found([1.0], [2.0]), found([9.0], [2.0])
    other = msgspec.structs.replace(before, what="other work")
    assert [one.verdict for one in compare(other, today)] == ["not recorded"]


def test_a_burst_that_keeps_less_than_was_recorded_fails() -> None:
    row = a_row(planned=100)
    kept = [record.measured("A", row, Turns(costs={OWN: [1.0], "peer": [1.0]}, kept=n), load=0.0) for n in (100, 99)]
    assert [one.verdict for one in compare(kept[0], kept[1])] == ["lost", "held"]
    assert "kept 99 of 100" in "\n".join(table.lines(kept[1]))


def test_a_record_is_read_as_it_was_written_and_takes_new_rows_in_the_order_of_the_page(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    assert record.read(path) is None
    one, other = found([1.0], [2.0]), msgspec.structs.replace(found([1.0], [2.0]), name="another")
    gone = msgspec.structs.replace(one, name="no row any more")
    kept = record.Record(machine=record.machine(), rows=(gone, one))
    newer = msgspec.structs.replace(one, rounds=17)
    merged = kept.with_rows([newer, other], ["another", "a row"])
    record.write(merged, path)
    assert record.read(path) == merged
    assert [(row.name, row.rounds) for row in merged.rows] == [("another", 1), ("a row", 17)]


def test_a_worker_answers_each_question_and_says_why_it_failed() -> None:
    party = "json.dumps and write"
    asked = [{"open": "no such row"}, {"open": "journal, append"}, {"turn": True}, {"close": True}]
    answers = io.StringIO()
    worker.main(io.StringIO("".join(json.dumps(one) + "\n" for one in asked)), answers, party)
    failed, opened, turn, closed = (json.loads(line) for line in answers.getvalue().splitlines())
    assert "no such row" in failed["failed"]
    assert (opened, closed) == ({"opened": True}, {"closed": True})
    assert turn["things"] > 1
    assert isinstance(turn["seconds"], float)


def test_parties_take_turns_in_processes_of_their_own_and_an_absent_peer_says_what_installs_it() -> None:
    row = find_row("journal, append")
    absent = Library("gone", "esper-no-such-distribution").doing(nothing)
    with Meter() as meter:
        turns = meter.measure(replace(row, others=(row.others[0], absent)), rounds=2)
    assert {name: len(costs) for name, costs in turns.costs.items()} == {OWN: 2, "json.dumps and write": 2}
    assert all(cost > 0 for costs in turns.costs.values() for cost in costs)
    assert turns.absent == {"gone": "peer not installed: make bench-peers"}
    shown = "\n".join(
        table.lines(record.measured("A", replace(row, others=(*row.others[:1], absent)), turns, load=0.0))
    )
    assert "peer not installed: make bench-peers" in shown


def test_the_page_has_the_machine_the_ratio_and_what_installs_an_absent_peer() -> None:
    machine = record.Machine(cpu="A processor", cores=3, system="Linux", python="3.11.7", torch="2.13.0")
    measured = found([1.0, 1.0, 1.0], [2.0, 2.0, 2.0], versions={"peer": "1.2"})
    without = msgspec.structs.replace(
        measured,
        name="another",
        peers=(record.Compared(name="gone", absent="peer not installed: make bench-peers"),),
        planned=10,
        kept=9,
    )
    page = benchmark_page(msgspec.to_builtins(record.Record(machine=machine, rows=(measured, without))))
    assert "A processor, 3 cores" in page
    assert "peers: peer 1.2" in page
    assert "| a row | 1,000 ms (1,000 to 1,000) | peer | 2,000 ms (2,000 to 2,000) | **0.5** (0.5 to 0.5) | 3 |" in page
    assert "| gone | peer not installed: make bench-peers |" in page
    assert "kept 9 of 10" in page


def test_each_row_has_a_name_of_its_own_and_somebody_to_compare_with() -> None:
    rows = [row for rows in SUBJECTS.values() for row in rows]
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        assert len({party.name for party in row.parties}) == len(row.parties) > 1, row.name
        assert not row.what.endswith("."), row.name
    assert any(row.quick for row in rows)


def test_a_word_that_is_in_no_name_of_a_row_is_refused_with_the_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["no-such-row"]) == 64
    assert "update, small" in capsys.readouterr().err
