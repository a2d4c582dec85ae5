"""Keys through Textual's Pilot: what each does, on which screen, and that help and palette know them all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sanctum_app import WIDE, app_over, on_screen, settled
from textual.widgets import DataTable, Input

from esper_core.reading.source import MemorySource
from esper_sink_tui.app import SanctumApp
from esper_sink_tui.keys import KEYS, help_markdown, help_text
from esper_sink_tui.screens.confirm_stop import ConfirmStop
from esper_sink_tui.screens.help import HelpScreen
from esper_sink_tui.screens.legend import legend_lines
from esper_sink_tui.screens.plots import PlotsScreen
from esper_sink_tui.screens.runs import RunsScreen
from esper_sink_tui.watch import Watch
from esper_sink_tui.widgets import EventsPanel, HeadsPanel, HealthStatusPanel, StatusBanner, TextPanel

if TYPE_CHECKING:
    from pathlib import Path

    from sanctum_kit import Kit


async def test_freeze_step_and_back(kit: Kit) -> None:
    app = app_over(kit.watch(kit.drift(30), now=99))
    async with app.run_test(size=WIDE) as pilot:
        await settled(pilot, app)
        await pilot.press("f")
        assert "‖ frozen at 30" in app.query_one(StatusBanner).text()
        await pilot.press("left", "left")
        assert "‖ frozen at 28, 2 behind" in app.query_one(StatusBanner).text()
        await pilot.press("shift+left")
        assert app.model.snapshot.updates == 18
        await pilot.press("home")
        assert app.model.snapshot.updates == 1
        await pilot.press("end")
        assert app.model.snapshot.updates == 30
        await pilot.press("escape")
        assert "● LIVE" in app.query_one(StatusBanner).text()


async def test_the_plot_in_focus_does_not_swallow_the_arrows(kit: Kit) -> None:
    app = app_over(kit.watch(kit.drift(30), now=99))
    async with app.run_test(size=WIDE) as pilot:
        await settled(pilot, app)
        app.query_one("#plot").focus()
        await pilot.press("left", "z")
        assert app.model.snapshot.updates == 29
        assert app.query_one("#plot").size.width > 100


async def test_zoom_gives_a_panel_the_screen_and_back(kit: Kit) -> None:
    app = app_over(kit.watch(kit.drift(30), now=99))
    async with app.run_test(size=WIDE) as pilot:
        await settled(pilot, app)
        app.query_one(HeadsPanel).focus()
        await pilot.press("z")
        await settled(pilot, app)
        assert app.query_one(HeadsPanel).size.width == 120
        assert not app.query_one(HealthStatusPanel).display
        assert app.query_one(StatusBanner).display
        await pilot.press("escape")
        await settled(pilot, app)
        assert app.query_one(HeadsPanel).size.width == 67
        await pilot.press("enter")
        await settled(pilot, app)
        assert app.query_one("#events").size.height > 20


async def test_levels_and_heads_can_be_switched(kit: Kit) -> None:
    app = app_over(kit.watch(kit.drift(5), now=20))
    async with app.run_test(size=WIDE) as pilot:
        await settled(pilot, app)
        await pilot.press("d", "l")
        assert "ENTROPY AND CLIP" in app.query_one(HeadsPanel).text()
        assert "NOTABLE ONLY" in on_screen(app) or "NOTABLE" in app.query_one("#events", TextPanel).text()


async def test_runs_are_filtered_marked_and_compared(kit: Kit, tmp_path: Path) -> None:
    for name, count in (("20260101T000000Z-calm-aaaaaa", 3), ("20260102T000000Z-drift-bbbbbb", 30)):
        kit.record(kit.run(tmp_path, name, kit.drift(count)))
    watch = Watch(tmp_path)
    while watch.tick():
        pass
    app = app_over(watch)
    async with app.run_test(size=WIDE) as pilot:
        await settled(pilot, app)
        await pilot.press("r")
        assert isinstance(app.screen, RunsScreen)
        table = app.screen.query_one(DataTable)
        assert table.row_count == 2
        await pilot.press("space", "down", "space")
        assert [row.marked for row in watch.rows()] == [True, True]
        await pilot.press("slash", *"calm")
        assert app.screen.query_one(Input).value == "calm"
        await pilot.press("enter")
        assert app.screen.query_one(DataTable).row_count == 2  # the one on show stays listed
        await pilot.press("v")
        await pilot.pause()
        assert isinstance(app.screen, PlotsScreen)
        await app.workers.wait_for_complete()
        await pilot.pause()
        assert [item.label for item in app.screen.series] == ["drift-bbbbbb", "calm-aaaaaa"]
        assert "a  drift-bbbbbb" in legend_lines(app.screen.series, grouped=False)
        await pilot.press("g")
        assert "2 seeds" in legend_lines(app.screen.series, grouped=True)
        await pilot.press("escape", "right_square_bracket")
        await settled(pilot, app)
        assert "run calm-aaaaaa" in app.query_one(StatusBanner).text()


async def test_history_shows_the_whole_run(kit: Kit, tmp_path: Path) -> None:
    events = [kit.event(kit.update(n, 0.02 if n == 7 else 0.004), at=n) for n in range(1, 701)]
    watch = Watch()
    watch.add_run(kit.run(tmp_path, "run-a", events))
    while watch.tick():
        pass
    app = app_over(watch)
    async with app.run_test(size=WIDE) as pilot:
        await settled(pilot, app)
        await pilot.press("h")
        await app.workers.wait_for_complete()
        await pilot.pause()
        assert isinstance(app.screen, PlotsScreen)
        series = app.screen.series[0]
        assert series.joined > 1
        assert max(series.kl) == pytest.approx(0.02)  # a peak survives the joining
        assert (series.updates[0], series.return_updates[-1]) == (1, 700)


async def test_help_is_made_from_the_bindings(kit: Kit) -> None:
    app = app_over(kit.watch([], now=1))
    bound = {binding.action for binding in SanctumApp.BINDINGS}
    assert {key.action for key in KEYS} <= bound
    for key in KEYS:
        assert key.text in help_text()
        assert key.text in help_markdown()
    async with app.run_test(size=WIDE) as pilot:
        await pilot.press("question_mark")
        assert isinstance(app.screen, HelpScreen)
        assert "detach: training goes on" in on_screen(app)
        await pilot.press("escape")
        assert not isinstance(app.screen, HelpScreen)


async def test_the_palette_knows_every_key(kit: Kit) -> None:
    """Kind 18: the palette could tear panels apart, and listed commands twice."""
    app = app_over(kit.watch([], now=1))
    async with app.run_test(size=WIDE) as pilot:
        await pilot.pause()
        titles = {command.title for command in app.get_system_commands(app.screen)}
        assert "Sanctum: freeze or thaw the view" in titles
        assert "Sanctum: compare the marked runs" in titles
        assert any("heme" in title for title in titles)
        commands = list(app.get_system_commands(app.screen))
        assert len({command.title for command in commands}) == len(commands) == len({c.help for c in commands})
        assert not {command.title for command in commands} & {"Maximize", "Quit", "Keys", "Screenshot"}


@pytest.mark.parametrize("opened", ["h", "v", "r", "a", "i", "question_mark", "x", "e"])
async def test_keys_of_the_main_screen_do_nothing_behind_another(kit: Kit, opened: str) -> None:
    """Kind 13: keys acted on the screen behind."""
    watch = kit.watch(kit.drift(30), now=99)
    app = app_over(watch, request_stop=lambda _: "asked")
    async with app.run_test(size=WIDE) as pilot:
        await settled(pilot, app)
        await pilot.press(opened)
        await pilot.pause()
        assert len(app.screen_stack) == 2
        before = (watch.frozen, watch.head_view, watch.event_filter, app._zoomed)
        await pilot.press("f", "z", "d", "l", "left", "home", "right_square_bracket")
        await pilot.pause()
        assert (watch.frozen, watch.head_view, watch.event_filter, app._zoomed) == before


async def test_the_log_scrolls_by_key_page_and_wheel_and_stays_where_it_is(kit: Kit) -> None:
    """Kind 17: "every event" was as many as had room."""
    watch = kit.watch(kit.drift(60), now=999)
    app = app_over(watch)
    async with app.run_test(size=WIDE) as pilot:
        await settled(pilot, app)
        await pilot.press("enter")
        await settled(pilot, app)
        panel = app.query_one(EventsPanel)
        assert panel.has_focus
        assert " 60  KL" in panel.text().splitlines()[1]
        await pilot.press("down", "down")
        assert " 58  KL" in panel.text().splitlines()[1]
        assert "EVENTS, 2 NEWER" in panel.text()
        watched = watch.watched()
        assert watched is not None
        assert isinstance(watched.source, MemorySource)
        watched.source.push([kit.event(kit.update(61), at=400)])
        while watch.tick():
            pass
        app.draw()
        assert " 58  KL" in panel.text().splitlines()[1]
        await pilot.press("pagedown", "pagedown", "pagedown")
        assert "started" in panel.text().splitlines()[-2]
        await pilot.press("pageup", "pageup", "pageup")
        panel.action_scroll_events(-99)
        assert " 61  KL" in panel.text().splitlines()[1]
        panel.on_mouse_scroll_down()
        assert "3 NEWER" in panel.text()


async def test_stopping_the_training_is_asked_for_twice(kit: Kit) -> None:
    asked: list[str] = []

    def request_stop(run_id: str) -> str:
        asked.append(run_id)
        return "asked"

    app = app_over(kit.watch(kit.drift(3), now=10), request_stop=request_stop)
    async with app.run_test(size=WIDE) as pilot:
        await settled(pilot, app)
        await pilot.press("x")
        confirming = app.screen
        assert isinstance(confirming, ConfirmStop)
        await pilot.press("n")
        assert asked == []
        await pilot.press("x")
        while not isinstance(app.screen, ConfirmStop):  # the test's own time-out is the guard
            await pilot.pause()
        await pilot.press("y")
        while not asked:
            await pilot.pause()
        assert asked == ["run-a"]


async def test_without_a_way_to_stop_it_says_so(kit: Kit) -> None:
    app = app_over(kit.watch(kit.drift(3), now=10))
    async with app.run_test(size=WIDE) as pilot:
        await settled(pilot, app)
        await pilot.press("x")
        assert not isinstance(app.screen, ConfirmStop)


async def test_a_panel_is_copied_as_text(kit: Kit) -> None:
    app = app_over(kit.watch(kit.drift(30), now=99))
    async with app.run_test(size=WIDE) as pilot:
        await settled(pilot, app)
        app.query_one(HeadsPanel).focus()
        await pilot.press("c")
        assert "tempo_offset" in app.clipboard
        assert app.clipboard.splitlines()[0].startswith("┌─ KL BY HEAD")
