"""Watching runs on disk: the end first, then what is added; rotation, resume, damage, death and deletion."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from esper_core.health import HealthLevel, RunState, VerdictKind
from esper_core.reading import open_run
from esper_core.reading.account import SinkAccount, merged
from esper_core.reading.document import document
from esper_core.reading.judged import judge_snapshot
from esper_core.reading.life import Life, life_from_events
from esper_core.reading.progress import progress_of
from esper_core.reading.source import MemorySource
from esper_core.runs import find_run
from esper_core.runs.layout import journal_files
from esper_sink_tui.watch import Watch

if TYPE_CHECKING:
    from sanctum_kit import Kit


def test_a_run_on_disk_is_shown_and_followed(kit: Kit, tmp_path: Path, read_through: Any) -> None:
    run = kit.run(tmp_path, "run-a", kit.drift(5))
    kit.record(run, updates=5)
    watch = Watch(tmp_path)
    read_through(watch)
    assert watch.model().snapshot.updates == 5
    assert watch.model().life.state is RunState.LIVE
    kit.journal(run, [kit.event(kit.update(6), at=30)], attempt=1).close()
    version = watch.version
    read_through(watch)
    assert watch.model().snapshot.updates == 6
    assert watch.version > version


def test_live_through_the_hub_and_from_the_journal_snapshots_are_equal(
    kit: Kit, tmp_path: Path, read_through: Any
) -> None:
    events = [*kit.drift(30), kit.event(kit.update(31, math.nan, non_finite=3), at=100)]
    live = kit.fed(events).snapshot()
    run = kit.run(tmp_path, "run-a", events)
    watch = Watch()
    watch.add_run(run)
    read_through(watch)
    watched = watch.watched()
    assert watched is not None
    from_disk = watched.snapshot
    # Only the count of events differs: the beginning of an attempt is read ahead and met again.
    assert document_of(from_disk) == document_of(live)
    assert from_disk.events == live.events
    assert from_disk.duplicates == live.duplicates == 0


def document_of(snapshot: Any) -> Any:
    from esper_core.reading.model import build

    return document(build(snapshot, Life(), now_ns=0))


def test_a_torn_last_line_is_waited_for(kit: Kit, tmp_path: Path, read_through: Any) -> None:
    run = kit.run(tmp_path, "run-a", kit.drift(3))
    path = journal_files(run)[0].path
    whole = path.read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    path.write_bytes(whole[: last + 200])
    watch = Watch()
    watch.add_run(run)
    read_through(watch)
    assert watch.model().snapshot.updates == 2
    with path.open("ab") as file:
        file.write(whole[last + 200 :])
    read_through(watch)
    assert watch.model().snapshot.updates == 3
    assert watch.model().corrupt == 0


def test_a_corrupt_line_is_counted_and_costs_nothing_else(kit: Kit, tmp_path: Path, read_through: Any) -> None:
    run = kit.run(tmp_path, "run-a", kit.drift(3))
    watch = Watch()
    watch.add_run(run)
    read_through(watch)
    with journal_files(run)[0].path.open("ab") as file:
        file.write(b'{"resourceSpans": [\x00\xff\n')
    kit.journal(run, [kit.event(kit.update(4), at=20)]).close()
    read_through(watch)
    assert watch.model().snapshot.updates == 4
    assert watch.model().corrupt == 1


def test_segments_are_followed_from_one_to_the_next(kit: Kit, tmp_path: Path, read_through: Any) -> None:
    run = kit.run(tmp_path, "run-a")
    writer = kit.journal(run, kit.drift(4), segment_bytes=20_000)
    watch = Watch()
    watch.add_run(run)
    read_through(watch)
    for number in range(5, 25):
        writer.append(kit.event(kit.update(number), at=number * 4))
        read_through(watch)
        assert watch.model().snapshot.updates == number
    writer.close()
    assert len(journal_files(run)) > 2


def test_a_resumed_attempt_replaces_what_came_after_its_checkpoint(kit: Kit, tmp_path: Path, read_through: Any) -> None:
    run = kit.run(tmp_path, "run-a", [kit.event(kit.update(n, 0.02), at=n) for n in range(1, 9)])
    watch = Watch()
    watch.add_run(run)
    read_through(watch)
    second = [kit.event(kit.started(first_update_id=6, resumed_from=1), at=20, attempt=2)]
    second += [kit.event(kit.update(n, 0.001), at=20 + n, attempt=2) for n in (6, 7)]
    kit.journal(run, second, attempt=2).close()
    read_through(watch)
    fresh = Watch()
    fresh.add_run(run)
    read_through(fresh)
    expected = [0.02] * 5 + [0.001] * 2
    for seen in (watch, fresh):
        model = seen.model()
        assert list(model.snapshot.tamiyo.kl_divergence_history) == expected
        assert model.snapshot.attempt == 2
    assert [event.payload.kl_divergence for event in open_run(run.path).updates()] == expected


def test_what_a_resume_replaced_cannot_be_stepped_to(kit: Kit) -> None:
    first = [kit.event(kit.update(n, 0.02), at=n) for n in range(1, 9)]
    second = [kit.event(kit.started(first_update_id=6, resumed_from=1), at=20, attempt=2)]
    second += [kit.event(kit.update(n, 0.001), at=20 + n, attempt=2) for n in (6, 7)]
    watch = kit.watch([*first, *second])
    watch.step_to(first=False)
    model = watch.model()
    assert model.frozen is not None
    assert (model.frozen.update_id, model.snapshot.attempt) == (7, 2)
    watch.step(-2)
    model = watch.model()
    assert model.frozen is not None
    assert (model.frozen.update_id, model.snapshot.tamiyo.kl_divergence) == (5, 0.02)


def test_a_long_run_opens_with_its_end_and_its_plan(kit: Kit, tmp_path: Path, read_through: Any) -> None:
    events = [kit.event(kit.started(updates_planned=1000), at=0)]
    events += [kit.event(kit.update(n, 0.004), at=n) for n in range(1, 601)]
    run = kit.run(tmp_path, "run-a", events)
    watch = Watch()
    watched = watch.add_run(run)
    read_through(watch)
    model = watch.model()
    assert model.snapshot.plan.updates == 1000
    assert model.snapshot.seen < 200
    assert len(model.snapshot.recent) == 120
    while watch.extend_index():
        pass
    assert watched.timeline.index is not None
    assert len(watched.timeline.index) == 600
    assert watched.timeline.index.nbytes <= 25 * 600


def test_stepping_reaches_every_update_of_a_long_run(kit: Kit, tmp_path: Path, read_through: Any) -> None:
    events = [kit.event(kit.started(), at=0)]
    events += [kit.event(kit.update(n, n / 100_000), at=n) for n in range(1, 601)]
    watch = Watch()
    watch.add_run(kit.run(tmp_path, "run-a", events))
    read_through(watch)
    while watch.extend_index():
        pass
    watch.step_to(first=True)
    first = watch.model()
    assert (first.snapshot.updates, first.frozen) == (1, first.frozen)
    assert first.frozen is not None
    assert first.frozen.behind == 599
    watch.step(299)
    middle = watch.model().snapshot
    assert middle.updates == 300
    assert list(middle.tamiyo.kl_divergence_history) == [round(n / 100_000, 4) for n in range(291, 301)]
    assert middle.recent[0].update_id == 181
    watch.step(-1)
    assert watch.model().snapshot.updates == 299
    watch.step(10_000)
    assert watch.model().snapshot.updates == 600
    watch.thaw()
    assert watch.model().frozen is None


def test_a_frozen_view_stands_while_the_run_goes_on(kit: Kit, read_through: Any) -> None:
    watch = kit.watch(kit.drift(10), now=40)
    watch.freeze()
    source = watch.watched()
    assert source is not None
    assert isinstance(source.source, MemorySource)
    source.source.push([kit.event(kit.update(n), at=40 + n) for n in (11, 12)])
    read_through(watch)
    model = watch.model()
    assert model.snapshot.updates == 10
    assert model.frozen is not None
    assert model.frozen.behind == 2
    watch.step(1)
    assert watch.model().snapshot.updates == 11
    assert watch.frozen


def test_a_killed_trainer_is_crashed_and_its_last_update_is_shown(kit: Kit, tmp_path: Path, read_through: Any) -> None:
    script = "import time; print(flush=True); time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    run = kit.run(tmp_path, "run-a", kit.drift(4))
    stat = Path(f"/proc/{child.pid}/stat").read_bytes()
    started = int(stat.rpartition(b")")[2].split()[19])
    kit.record(run, pid=child.pid, process_start=started, heartbeat_ns=time.time_ns() - 60 * kit.second)
    watch = Watch()
    watched = watch.add_run(run)
    read_through(watch)
    assert watch.model().life.state is RunState.STALE  # late, but the process is there
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    watched.life_at = -1.0
    read_through(watch)
    model = watch.model()
    assert model.verdict.kind is VerdictKind.CRASHED
    assert model.verdict.exit_code == 2
    assert model.snapshot.updates == 4


@pytest.mark.parametrize(
    ("state", "shown"),
    [(RunState.LIVE, RunState.STALE), (RunState.DONE, RunState.DONE), (RunState.STOPPED, RunState.STOPPED)],
)
def test_a_deleted_run_keeps_its_end_and_says_that_its_folder_is_gone(
    kit: Kit, tmp_path: Path, read_through: Any, state: RunState, shown: RunState
) -> None:
    """Kind 10: a finished run whose folder was deleted became stale."""
    run = kit.run(tmp_path, "run-a", kit.drift(4))
    kit.record(run, state=state)
    watch = Watch(tmp_path)
    watched = watch.add_run(run, select=True)
    read_through(watch)
    assert watch.model().notice == ""
    shutil.rmtree(run.path)
    watched.life_at = watched.rests_until = -1.0
    read_through(watch)
    model = watch.model()
    assert model.life.state is shown
    assert model.progress.eta_s is None or not shown.ended
    assert model.notice == f"the folder {run.path} is gone: this is what was read before"
    assert model.snapshot.updates == 4


def test_a_run_without_anything_yet_waits(tmp_path: Path, kit: Kit, read_through: Any) -> None:
    watch = Watch()
    watch.add_run(kit.run(tmp_path, "run-a"))
    read_through(watch)
    assert watch.model().verdict.kind is VerdictKind.UNKNOWN
    empty = Watch(tmp_path / "nowhere")
    read_through(empty)
    assert empty.model().selected == ""


def test_two_viewers_of_one_run_disturb_nobody(kit: Kit, tmp_path: Path, read_through: Any) -> None:
    run = kit.run(tmp_path, "run-a", kit.drift(3))
    before = journal_files(run)[0].path.read_bytes()
    viewers = [Watch(), Watch()]
    for watch in viewers:
        watch.add_run(run)
        read_through(watch)
    assert document(viewers[0].model())["kl"] == document(viewers[1].model())["kl"]
    assert journal_files(run)[0].path.read_bytes() == before


def test_a_storm_of_non_finite_values_is_shown(kit: Kit) -> None:
    storm = [math.nan, math.inf, -math.inf]
    events = [
        kit.event(kit.update(n, storm[n % 3], grad_norm=storm[n % 3], value_loss=math.nan, non_finite=9), at=n)
        for n in range(1, 31)
    ]
    model = kit.watch(events, now=31).model()
    assert model.verdict.kind is VerdictKind.NON_FINITE
    assert model.snapshot.bad == 0
    assert document(model)["kl"]["value"] in {"NaN", "Infinity", "-Infinity"}


def test_a_burst_loses_no_update_and_reads_in_bites(kit: Kit) -> None:
    source = MemorySource("run-a")
    source.push(kit.event(kit.update(n), at=n / 100) for n in range(1, 20_001))
    watch = Watch(clock_ns=lambda: 0)
    watched = watch.add(source)
    bites, more = [0], True
    while more:
        more = watch.tick(budget_s=0.0)  # no time at all: one bite, so that the lock is free again
        bites.append(watched.aggregator.snapshot().seen)
    assert max(after - before for before, after in pairwise(bites)) <= 128
    assert watched.aggregator.snapshot().seen == 20_000
    assert watch.model().snapshot.updates == 20_000
    assert watched.aggregator.snapshot().duplicates == 0


def test_the_verdict_is_the_one_that_esper_runs_shows(kit: Kit, tmp_path: Path, read_through: Any) -> None:
    for name, events in {
        "calm": kit.drift(5),
        "warm": kit.drift(2),
        "drift": kit.drift(30),
        "nan": [kit.event(kit.update(1, math.nan), at=1)],
        "none": [],
    }.items():
        run = kit.run(tmp_path, name, events)
        kit.record(run)
        watch = Watch()
        watch.add_run(run)
        read_through(watch)
        seen, told = watch.model().verdict, open_run(run.path).verdict()
        assert (seen.kind, seen.label, seen.level, seen.exit_code) == (
            told.kind,
            told.label,
            told.level,
            told.exit_code,
        )


@pytest.mark.parametrize(
    ("silent_s", "gap_s", "state"),
    [
        (1, 1, RunState.LIVE),
        (10, 1, RunState.LIVE),
        (11, 1, RunState.STALE),
        (29, 10, RunState.LIVE),
        (31, 10, RunState.STALE),
    ],
)
def test_a_run_heard_of_by_its_events_is_stale_after_silence(
    kit: Kit, silent_s: int, gap_s: int, state: RunState
) -> None:
    events = [kit.event(kit.update(n), at=n * gap_s) for n in range(1, 6)]
    snapshot = kit.fed(events).snapshot()
    assert life_from_events(snapshot, int((5 * gap_s + silent_s) * kit.second)).state is state


def test_a_run_heard_of_ends_as_it_says(kit: Kit) -> None:
    events = [*kit.drift(3), kit.event(kit.finished(state=RunState.FAILED, reason="out of memory"), at=20)]
    snapshot = kit.fed(events).snapshot()
    life = life_from_events(snapshot, 10**18)
    assert life.state is RunState.FAILED
    verdict = judge_snapshot(snapshot, life)
    assert (verdict.kind, verdict.reason) == (VerdictKind.FAILED, "out of memory")
    assert life_from_events(kit.fed([]).snapshot(), 0).state is RunState.UNKNOWN


def test_sinks_of_events_and_host_are_one_list() -> None:
    told = [SinkAccount(name="otlp", lost=20, message="refused"), SinkAccount(name="old", lost=1)]
    host = [SinkAccount(name="otlp", queued=3, capacity=8, lost=17), SinkAccount(name="journal")]
    found = merged(told, host)
    assert [item.name for item in found] == ["journal", "old", "otlp"]
    assert (found[2].lost, found[2].queued, found[2].message) == (20, 3, "refused")


@pytest.mark.parametrize(
    ("plan", "done", "planned", "unit", "eta_s"),
    [
        ({"updates_planned": 40}, 10, 40, "upd", 96.0),
        ({"updates_planned": None, "steps_planned": 40960}, 11264, 40960, "steps", 92.8),
        ({"updates_planned": None, "episodes_planned": 60}, 30, 60, "episodes", 32.0),
        ({"updates_planned": None}, 10, None, "upd", None),
        ({"updates_planned": 100000, "steps_planned": 40960}, 11264, 40960, "steps", 92.8),
        ({"updates_planned": 20, "steps_planned": 40960}, 10, 20, "upd", 32.0),
    ],
)
def test_progress_and_time_to_go(
    kit: Kit, plan: dict[str, Any], done: int, planned: int | None, unit: str, eta_s: float | None
) -> None:
    """Kind 6: of two limits the one that does not bind was shown."""
    events = [kit.event(kit.started(**plan), at=0), *kit.drift(10)[1:]]
    found = progress_of(kit.fed(events).snapshot(), Life(state=RunState.LIVE))
    assert (found.done, found.planned, found.unit) == (done, planned, unit)
    assert found.eta_s == (None if eta_s is None else pytest.approx(eta_s))
    ended = progress_of(kit.fed(events).snapshot(), Life(state=RunState.DONE))
    assert ended.eta_s is None


def test_runs_are_listed_filtered_and_marked(kit: Kit, tmp_path: Path, read_through: Any) -> None:
    for name in ("20260101T000000Z-calm-aaaaaa", "20260102T000000Z-drift-bbbbbb"):
        run = kit.run(tmp_path, name, kit.drift(3 if "calm" in name else 30))
        kit.record(run)
    watch = Watch(tmp_path)
    read_through(watch)
    assert [row.label for row in watch.rows()] == ["drift-bbbbbb", "calm-aaaaaa"]
    assert watch.selected == "20260102T000000Z-drift-bbbbbb"
    watch.run_filter = "CALM"
    assert [row.label for row in watch.rows()] == ["drift-bbbbbb", "calm-aaaaaa"]  # the one on show stays
    watch.neighbour(1)
    assert [row.label for row in watch.rows()] == ["calm-aaaaaa"]
    watch.mark(watch.selected)
    assert watch.rows()[0].marked
    assert watch.rows()[0].kind is not VerdictKind.UNKNOWN


def test_progress_in_episodes_is_known_in_the_middle_of_a_long_or_resumed_run(kit: Kit) -> None:
    """Kind 5: progress in episodes was lost after 120 updates."""
    plan = {"updates_planned": 100_000, "episodes_planned": 600}
    updates = [kit.update(number, run_episodes=3 * number) for number in range(150, 160)]
    events = [kit.event(kit.started(**plan), at=0)]
    events += [kit.event(item, at=place * 2.0) for place, item in enumerate(updates)]
    found = progress_of(kit.fed(events).snapshot(), Life(state=RunState.LIVE))
    assert [found.done, found.planned, found.unit, found.eta_s] == [477, 600, "episodes", pytest.approx(82.0)]
    ended = progress_of(kit.fed(events).snapshot(), Life(state=RunState.DONE))
    assert (ended.unit, ended.fraction, ended.eta_s) == ("episodes", 477 / 600, None)


def test_new_runs_of_the_folder_appear(kit: Kit, tmp_path: Path, read_through: Any) -> None:
    watch = Watch(tmp_path)
    kit.record(kit.run(tmp_path, "run-a", kit.drift(1)))
    read_through(watch)
    kit.record(kit.run(tmp_path, "run-b", kit.drift(1)))
    watch._discovered = float("-inf")
    read_through(watch)
    assert {row.run_id for row in watch.rows()} == {"run-a", "run-b"}


def test_seeds_of_one_experiment_share_a_group(kit: Kit, tmp_path: Path, read_through: Any) -> None:
    text = '[env]\nid = "CartPole-v1"\n[run]\nseed = {seed}\nname = "{name}"\n[ppo]\nlearning_rate = {rate}\n'
    for name, seed, rate in (("a", 1, 0.1), ("b", 2, 0.1), ("c", 1, 0.2)):
        run = kit.run(tmp_path, name, kit.drift(2))
        run.config_path.write_text(text.format(seed=seed, name=name, rate=rate), encoding="utf-8")
        kit.record(run)
    watch = Watch(tmp_path)
    read_through(watch)
    groups = {row.run_id: row.group for row in watch.rows()}
    assert groups["a"] == groups["b"] != groups["c"]


def test_runs_that_strangers_invent_are_bounded(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esper_sink_tui.watch.MOST_HEARD", 3)
    watch = Watch()
    for number in range(10):
        assert watch.receive([kit.event(kit.update(1), run_id=f"run-{number}")], where="OTLP")
    assert len(watch.all()) == 3
    assert "3 runs are followed" in watch.notice


def test_many_runs_share_the_memory_for_events_and_the_one_on_show_keeps_its(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, read_through: Any
) -> None:
    monkeypatch.setattr("esper_sink_tui.watch._MOST_EVENTS", 300)
    watch = Watch()
    names = [f"run-{number}" for number in range(3)]
    for name in names:
        watch.receive([kit.event(kit.update(n), at=n, run_id=name) for n in range(1, 201)], where="OTLP")
    watch.select(names[0])
    read_through(watch)
    held = [len(watched.timeline.updates()) for watched in watch.all()]
    assert held == [200, 100, 100]
    assert {watched.snapshot.updates for watched in watch.all()} == {200}


def test_a_level_that_calms_needs_three_good_updates(kit: Kit) -> None:
    kls = [0.004, 0.004, 0.004, 0.004, 0.02, 0.004, 0.004, 0.004]
    kinds = []
    for count in range(4, 9):
        events = [kit.event(kit.update(n, kl), at=n) for n, kl in enumerate(kls[:count], start=1)]
        kinds.append(kit.model(events).verdict.level)
    healthy, warning = HealthLevel.HEALTHY, HealthLevel.WARNING
    assert kinds == [healthy, warning, warning, warning, healthy]


def test_a_run_whose_folder_was_renamed_is_listed_once(tmp_path: Path, read_through: Any) -> None:
    drift = Path(__file__).parents[3] / "docs" / "examples" / "runs" / "drift"
    shutil.copytree(drift, tmp_path / "drift")  # its run id is longer than its folder's name
    watch = Watch(tmp_path)
    watch.add_run(find_run("drift", tmp_path), select=True)
    read_through(watch)
    assert len(watch.all()) == 1
