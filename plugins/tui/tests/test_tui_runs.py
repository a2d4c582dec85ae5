"""The list of all runs, what describes a run, its log, and how verdicts changed: from files, and on their screens."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from present import present
from rich.cells import cell_len
from textual.containers import VerticalScroll
from textual.widgets import DataTable, Static

from esper_core.events import PolicyHealthChanged
from esper_core.health import HealthLevel, RunState, VerdictKind
from esper_core.reading.alerts import AlertBook, Alerts
from esper_core.reading.listing import sorted_rows
from esper_core.reading.logtail import log_tail
from esper_core.reading.model import RunRow
from esper_core.reading.source import MemorySource
from esper_core.runs import RunDir
from esper_core.runs.state import StartRecord, SystemRecord
from esper_sink_tui.app import SanctumApp
from esper_sink_tui.lines import plain_text
from esper_sink_tui.names import shown_names
from esper_sink_tui.panels.runs import COLUMNS, columns_for, run_cells, runs_panel
from esper_sink_tui.screens.log import LogScreen
from esper_sink_tui.screens.page import Page
from esper_sink_tui.screens.runs import RunsScreen
from esper_sink_tui.watch import Watch
from esper_sink_tui.widgets import RunsPanel

if TYPE_CHECKING:
    from pathlib import Path

    from sanctum_kit import Kit


def test_every_run_of_the_folder_is_listed_found_sorted_and_opened(kit: Kit, tmp_path: Path, read_through: Any) -> None:
    """Kind 11: of 60 runs twelve were listed, and no filter found the others."""
    for number in range(1, 21):
        run = kit.run(tmp_path, f"202601{number:02}T000000Z-sweep-{number:06}", kit.drift(number % 4 + 1))
        kit.record(run, state=RunState.DONE)
    watch = Watch(tmp_path, listed=3)
    read_through(watch)
    assert len(watch.all()) == 3
    rows = watch.rows()
    assert [row.label for row in rows] == [f"sweep-{number:06}" for number in range(20, 0, -1)]
    followed = Watch(tmp_path)
    for row in rows:
        followed.select(row.run_id)
    read_through(followed)
    for row in rows:  # what is listed is what following it gives
        followed.select(row.run_id)
        read_through(followed)
    assert followed.rows() == rows
    watch.run_filter = "000003"
    assert [row.label for row in watch.rows()] == ["sweep-000020", "sweep-000003"]  # the one on show stays
    watch.select("20260103T000000Z-sweep-000003")
    read_through(watch)
    assert watch.model().snapshot.updates == 4
    watch.run_filter = ""
    watch.run_sort = "return"
    returns = [present(row.return_mean) for row in watch.rows()]
    assert returns == sorted(returns, reverse=True)
    shutil.rmtree(tmp_path / "20260102T000000Z-sweep-000002")
    watch._discovered = float("-inf")
    read_through(watch)
    assert len(watch.rows()) == 19


def test_the_worst_verdicts_come_first_and_unknown_ones_last() -> None:
    rows = [
        RunRow(run_id=kind.value, label=kind.value, kind=kind, started_ns=place)
        for place, kind in enumerate(
            (VerdictKind.UNKNOWN, VerdictKind.HEALTHY, VerdictKind.CRASHED, VerdictKind.WARNING)
        )
    ]
    assert [row.run_id for row in sorted_rows(rows, "verdict")] == ["crashed", "warning", "healthy", "unknown"]
    assert [row.run_id for row in sorted_rows(rows, "time")] == ["warning", "crashed", "healthy", "unknown"]


def test_a_listed_run_that_goes_on_is_read_again(
    kit: Kit, tmp_path: Path, read_through: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("esper_sink_tui.unfollowed._REREAD_S", 0.0)
    for name in ("run-a", "run-b"):
        kit.record(kit.run(tmp_path, name, kit.drift(2)))
    watch = Watch(tmp_path, listed=0)
    read_through(watch)
    assert [row.state for row in watch.rows()] == [RunState.LIVE, RunState.LIVE]
    kit.record(RunDir(tmp_path / "run-a"), state=RunState.DONE, updates=7)
    read_through(watch)
    assert {(row.run_id, row.state, row.updates) for row in watch.rows()} == {
        ("run-a", RunState.DONE, 7),
        ("run-b", RunState.LIVE, 2),
    }


def test_runs_received_in_one_minute_differ_in_their_names(kit: Kit) -> None:
    """Kind 20: names were cut where they differ."""
    assert MemorySource("20261125T161800Z-ppo-a1b2c3").label == "ppo-a1b2c3"
    model = kit.model(kit.drift(3), runs=(kit.row("a-name-that-is-far-too-long-for-the-panel-zzzzzz"),))
    assert any("-zzzzzz" in plain_text(item) for item in runs_panel(model, 67, 6))


def test_runs_whose_names_agree_where_they_are_seen_are_told_apart(kit: Kit) -> None:
    """Also runs of one name whose ids differ in their time alone, and names that differ in the middle, or are wide."""
    groups = [
        ["20260101T000000Z-run", "20260101T000001Z-run", "20260102T000000Z-run"],
        [f"a-very-long-name-{letter}-of-an-experiment-with-seed-{seed}-0000001" for letter in "ab" for seed in (1, 2)],
        ["\u6f22" * 30 + "1", "\u6f22" * 30 + "2"],
        ["run\x1b", "run\x1b\x1b", "run\\x1b"],
    ]
    for ids in groups:
        watch = Watch()
        for run_id in ids:
            watch.receive(kit.drift(1, run_id=run_id), where="OTLP")
        watch.tick()
        for width in (12, 40, 66):
            lines = [plain_text(item) for item in runs_panel(watch.model(), width, 8)][2 : 2 + len(ids)]
            assert {cell_len(item) for item in lines} == {width}
            assert len({item.replace("\u25b6", " ") for item in lines}) == len(ids), lines
        for width in range(1, 50):
            names = shown_names(watch.rows(), width)
            assert all(cell_len(name) <= width for name in names.values())
            if width >= 6:
                assert len(set(names.values())) == len(ids), names


def test_ranks_of_a_run_received_over_the_network_are_one_line(kit: Kit) -> None:
    """Whichever of them tells of the end, the alert is one, and the overview names the ranks."""
    finished = kit.finished(state=RunState.FAILED, reason="rank 1 of 2 lost the others: rank 0 is gone")
    events = [kit.event(kit.started(ranks=2)), *(kit.event(kit.update(number), at=number) for number in (1, 2, 3))]
    events += [replace(kit.event(kit.started(ranks=2)), rank=1), replace(kit.event(finished, at=9), rank=1)]
    watch = kit.watch(events, now=10.0)
    (row,) = watch.rows()
    assert (row.ranks, row.state, row.updates) == (2, RunState.FAILED, 3)
    assert dict(zip(COLUMNS, run_cells(row, 0, name="x"), strict=True))["ranks"] == ("2", "")
    watched = watch.watched()
    assert watched is not None
    named = {row[0]: row[1] for row in watched.overview()[0].rows}
    assert (named["ranks"], named["rank 1"]) == ("2", f"failed: {finished.reason}")
    assert named["rank 0"].startswith("last heard ")
    assert watch.receive([kit.event(kit.finished(state=RunState.FAILED, reason="NaN"), at=9)], where="OTLP")
    watch.tick()
    ((_, alerts),) = watch.changes(AlertBook())
    assert [alert.reason for alert in alerts if alert.now is VerdictKind.FAILED] == ["NaN"]


def test_how_the_verdict_changed_is_in_the_journal(kit: Kit, tmp_path: Path, read_through: Any) -> None:
    """Kind 24: changes of the verdict were those that this viewer saw, of the run on show alone."""

    def changed(number: int, before: HealthLevel, now: HealthLevel) -> PolicyHealthChanged:
        return PolicyHealthChanged(previous=before, current=now, update_id=number, kl_divergence=0.04)

    good, warn, bad = HealthLevel.HEALTHY, HealthLevel.WARNING, HealthLevel.CRITICAL
    run = kit.run(
        tmp_path,
        "run-a",
        [
            kit.event(kit.started(), at=1),
            kit.event(changed(4, good, bad), at=2),
            kit.event(changed(9, bad, warn), at=3),
        ],
    )
    resumed = [kit.event(kit.started(first_update_id=7), at=5, attempt=2)]  # update 9 is made anew
    resumed.append(kit.event(kit.finished(state=RunState.FAILED, reason="out of memory", updates=8), at=6, attempt=2))
    kit.journal(run, resumed, attempt=2).close()
    kit.record(run, state=RunState.FAILED)
    book = AlertBook()
    watch = Watch(tmp_path, listed=0)
    read_through(watch)
    ((label, found),) = watch.changes(book)
    assert label == "run-a"
    assert [(item.update_id, item.before, item.now, item.worse) for item in found] == [
        (4, VerdictKind.HEALTHY, VerdictKind.CRITICAL, True),
        (8, None, VerdictKind.FAILED, True),
    ]
    assert [(label, found)] == list(watch.changes(book))
    received = kit.watch([kit.event(kit.started(), at=1), kit.event(changed(4, good, bad), at=2)])
    assert [[item.now for item in group] for _, group in received.changes(book)] == [[VerdictKind.CRITICAL]]


CONFIG = """[run]
seed = {seed}
name = "{name}"
[ppo]
learning_rate = {rate}
hidden = [64, 64]
[env]
id = "CartPole-v1"
"""


def text_of(app: SanctumApp) -> str:
    return str(app.screen.query_one(Static).render())


def described(kit: Kit, base: Path, name: str, *, rate: float, seed: int = 1) -> RunDir:
    run = kit.run(base, name, [kit.event(kit.started(versions=("python==3.11.9", "torch==2.13.0"))), *kit.drift(3)[1:]])
    run.config_path.write_text(CONFIG.format(seed=seed, name=name, rate=rate))
    start = StartRecord(
        command=("esper", "ppo", "--set", "ppo.learning_rate=0.5 "),
        directory="/home/x",
        origins={"ppo.learning_rate": "--set"},
    )
    system = SystemRecord(cpu_cores=1.5, cpu_count=8, memory=3 * 2**20)
    kit.record(run, start=start, system=system, environment="CartPole-v1", message="")
    return run


async def test_the_overview_has_every_value_and_its_origin(kit: Kit, tmp_path: Path) -> None:
    run = described(kit, tmp_path, "run-a", rate=0.5)
    watch = Watch(tmp_path)
    while watch.tick():
        pass
    app = SanctumApp(watch, feed=False)
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("i")
        assert isinstance(app.screen, Page)
        lines = [" ".join(line.split()) for line in text_of(app).splitlines()]
        for expected in (
            "ppo.learning_rate 0.5 --set",
            "ppo.hidden [64, 64] default",
            "command esper ppo --set 'ppo.learning_rate=0.5 '",
            "in folder /home/x",
            f"folder {run.path}",
            "torch 2.13.0",
            "environment CartPole-v1",
            "took CPU 1.5/8 mem 3.00 MiB",
        ):
            assert expected in lines
        assert any(line.startswith("host ") for line in lines)
        await pilot.press("escape")
        assert not isinstance(app.screen, Page)


async def test_a_run_received_over_the_network_has_an_overview_and_no_log(kit: Kit) -> None:
    app = SanctumApp(kit.watch(kit.drift(3), now=9), feed=False)
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("i")
        assert "environment  morphogenesis" in text_of(app)
        await pilot.press("escape", "o")
        assert not isinstance(app.screen, LogScreen)


async def test_marked_runs_are_compared_by_their_configuration(kit: Kit, tmp_path: Path) -> None:
    described(kit, tmp_path, "20260101T000000Z-slow-aaaaaa", rate=0.1, seed=1)
    described(kit, tmp_path, "20260102T000000Z-fast-bbbbbb", rate=0.2, seed=2)
    watch = Watch(tmp_path)
    while watch.tick():
        pass
    app = SanctumApp(watch, feed=False)
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("w")
        assert not isinstance(app.screen, Page)
        await pilot.press("r", "space", "down", "space", "w")
        await pilot.pause()
        assert isinstance(app.screen, Page)
        rows = [line.split() for line in text_of(app).splitlines()]
        assert ["key", "a", "b"] in rows
        assert sorted(rows[-2:]) in (
            [["ppo.learning_rate", "0.1", "0.2"], ["run.seed", "1", "2"]],
            [["ppo.learning_rate", "0.2", "0.1"], ["run.seed", "2", "1"]],
        )


async def test_the_list_is_sorted_by_keys_and_heads_and_opened_by_one_click(kit: Kit, tmp_path: Path) -> None:
    for number in range(1, 15):
        kit.record(kit.run(tmp_path, f"202601{number:02}T000000Z-sweep-{number:06}", kit.drift(2)), state=RunState.DONE)
    watch = Watch(tmp_path, listed=2)
    while watch.tick():
        pass
    app = SanctumApp(watch, feed=False)
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("r")
        screen = app.screen
        assert isinstance(screen, RunsScreen)
        assert screen.query_one(DataTable).row_count == 14
        await pilot.press("s")
        by = watch.run_sort
        assert by == "return"
        await pilot.press("s", "s")
        assert watch.run_sort == "time"
        await pilot.click(DataTable, offset=(20, 9))  # below the head: the ninth run
        await pilot.pause()
        assert not isinstance(app.screen, RunsScreen)
        assert watch.selected == "20260106T000000Z-sweep-000006"
        app.draw()
        await pilot.pause()
        panel = app.query_one(RunsPanel)
        second = panel.text().splitlines()[3]
        await pilot.click(RunsPanel, offset=(9, 3))
        assert watch.selected.removeprefix(watch.selected[:17]) in second
        await pilot.press("r")
        await pilot.press("slash", *"000003", "enter", "enter")
        await pilot.pause()
        assert watch.selected == "20260103T000000Z-sweep-000003"


def test_columns_of_the_list_are_whole_or_left_out(kit: Kit) -> None:
    """The last ones were cut at 120 columns; ranks are told where a run has several."""
    rows = [kit.row("ppo-aaaaaa", group="CartPole-v1#2eac", kl=0.02, started_ns=1), kit.row("ppo-bbbbbb")]
    for several in (False, True):
        cells = [run_cells(row, 0, name=row.label) for row in rows]
        for width in range(24, 160):
            columns, room = columns_for(cells, width)
            texts = [dict(zip(COLUMNS, found, strict=True)) for found in cells]
            widths = [max(len(name), *(len(found[name][0]) for found in texts)) for name in columns if name != "run"]
            assert sum(widths) + room + 2 * len(columns) <= width or room == 1
        assert set(columns) == set(COLUMNS) - (set() if several else {"ranks"})
        rows[1] = replace(rows[1], ranks=4)
    assert run_cells(rows[0], 0, name="x", here=True)[0] == ("▶ ", "cursor")


@pytest.mark.parametrize("size", [(120, 36), (80, 24)])
async def test_the_list_fits_and_shows_verdicts_by_colour_and_the_run_on_screen(
    kit: Kit, tmp_path: Path, size: tuple[int, int]
) -> None:
    for number in (1, 2):
        run = described(kit, tmp_path, f"2026010{number}T000000Z-sweep-{number:06}", rate=0.1, seed=number)
        kit.record(run, state=RunState.FAILED, message="NaN")
    watch = Watch(tmp_path)
    while watch.tick():
        pass
    app = SanctumApp(watch, feed=False)
    async with app.run_test(size=size) as pilot:
        await pilot.press("r")
        await pilot.pause()
        table = app.screen.query_one(DataTable)
        assert table.virtual_size.width <= table.scrollable_content_region.width
        names = [column.label.plain for column in table.ordered_columns]
        first = dict(zip(names, table.get_row_at(0), strict=True))
        assert (first[" "].plain, first["updates"].plain, first["updates"].justify) == ("▶ ", "3", "right")
        assert first["verdict"].style == app.theme_variables["role-crit"]
        await pilot.press("t")  # colours follow the theme
        app.screen.fill()  # type: ignore[attr-defined]  # the list's own method
        assert table.get_row_at(0)[names.index("verdict")].style == app.theme_variables["role-crit"]


async def test_the_log_is_followed_until_one_scrolls_up(kit: Kit, tmp_path: Path) -> None:
    run = described(kit, tmp_path, "run-a", rate=0.5)
    run.log_path.write_bytes(b"".join(b"line %d\n" % number for number in range(200)))
    watch = Watch(tmp_path)
    while watch.tick():
        pass
    app = SanctumApp(watch, feed=False)
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("o")
        screen = app.screen
        assert isinstance(screen, LogScreen)
        await pilot.pause()
        assert text_of(app).endswith("line 199")
        box = screen.query_one(VerticalScroll)
        assert box.is_vertical_scroll_end
        with run.log_path.open("ab") as file:
            file.write(b"the \x1b]0;title\x07 \x1b[31mend\x1b[0m\n50%\r60%\r70%\n")
        screen.look()
        await pilot.pause()
        assert text_of(app).endswith("line 199\nthe \\u001b]0;title\\u0007 end\n70%")
        assert box.is_vertical_scroll_end
        await pilot.press("home")
        while box.scroll_y:
            await pilot.pause()
        with run.log_path.open("ab") as file:
            file.write(b"more\n")
        screen.look()
        await pilot.pause()
        assert box.scroll_y == 0
        run.log_path.unlink()
        assert log_tail(run).startswith("no log")


def test_the_end_of_a_large_log_begins_with_a_whole_line(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.log_path.write_bytes(b"x" * 100 + b"\nsecond\nthird\xff\n")
    assert log_tail(run, most_bytes=60) == "second\nthird\ufffd"
    run.log_path.write_bytes(b"")
    assert log_tail(run) == "the log is empty"
    run.log_path.unlink()
    run.log_path.mkdir()
    assert "cannot be read" in log_tail(run)


def test_what_a_run_came_to_before_it_was_read_is_no_news(kit: Kit, tmp_path: Path) -> None:
    """A viewer that was opened beside an old crashed run told of the crash, having read a part of its journal first."""
    run = kit.run(tmp_path, "20261126T114133Z-old", kit.drift(200))
    kit.record(run, state=RunState.CRASHED)
    watch, alerts = Watch(), Alerts()
    watch.add_run(run, select=True)
    for _ in range(20):
        assert alerts.see(watch.rows(), 0) == []
        watch.tick(budget_s=0.0)
    (row,) = watch.rows()
    assert row.judged
    assert row.updates == 200
    watched = watch.watched()
    assert watched is not None
    told = {row[0]: row[1] for row in watched.overview()[0].rows}
    # run.json of a run that crashed lies behind its journal.
    assert (told["updates"], told["environment steps"]) == ("200", "204,800")
    for listed in (1, 0):  # followed, or read for the list alone
        folder = Watch(tmp_path, listed=listed)
        while folder.tick():
            pass
        ((_, changes),) = folder.changes(AlertBook())
        assert [(item.now, item.update_id) for item in changes] == [(VerdictKind.CRASHED, 200)]


async def test_one_toast_a_worsening_and_none_on_a_small_screen(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kind 8: toasts stacked, and covered the numbers."""
    rung: list[int] = []
    monkeypatch.setattr(SanctumApp, "bell", lambda self: rung.append(1))
    watch = Watch(clock_ns=lambda: 9 * kit.second)
    sources = [MemorySource(f"run-{name}") for name in "abc"]
    for source in sources:
        source.push([kit.event(kit.update(n, 0.004), at=n, run_id=source.run_id) for n in range(1, 6)])
        watch.add(source)
    while watch.tick():
        pass
    app = SanctumApp(watch, feed=False, bell=True)
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.pause()
        app.draw()
        for source in sources:  # none of b and c is on show
            source.push([kit.event(kit.update(6, 0.04), at=6, run_id=source.run_id)])
        watch.tick()
        app.draw()
        await pilot.pause()
        assert [item.message for item in app._notifications] == ["✖ critical: run-c and 2 more"]
        sources[0].push([kit.event(kit.update(7, float("nan")), at=7, run_id="run-a")])
        watch.tick()
        app.draw()
        await pilot.pause()
        assert len(app._notifications) == 1  # the next one comes after a while
        assert rung == [1, 1]
        app.clear_notifications()
        app._toasts.next = 0.0
        await pilot.resize_terminal(80, 24)
        sources[1].push([kit.event(kit.update(7, float("nan")), at=7, run_id="run-b")])
        watch.tick()
        app.draw()
        await pilot.pause()
        assert len(app._notifications) == 0
        assert rung == [1, 1, 1]
