"""The app through Textual's Pilot: banner, keys, screens, sizes, export, and that nothing waits for a burst."""

from __future__ import annotations

import asyncio
import time
from io import StringIO
from typing import TYPE_CHECKING, Any

import pytest
from textual.widgets import DataTable, Input

from esper_core.events import Divergence, HeadStats
from esper_core.health import KLLimits, format_kl
from esper_core.reading import open_run
from esper_core.reading.cells import blocks_of
from esper_core.reading.series import Series
from esper_core.reading.source import MemorySource
from esper_core.reading.table import heading
from esper_core.reading.written import write_csv
from esper_sink_tui.app import SanctumApp
from esper_sink_tui.keys import KEYS, help_markdown, help_text
from esper_sink_tui.screens.alerts import AlertsScreen
from esper_sink_tui.screens.confirm_stop import ConfirmStop
from esper_sink_tui.screens.help import HelpScreen
from esper_sink_tui.screens.legend import legend_lines
from esper_sink_tui.screens.plots import PlotsScreen
from esper_sink_tui.screens.runs import RunsScreen
from esper_sink_tui.watch import Watch
from esper_sink_tui.widgets import EventsPanel, HeadsPanel, HealthStatusPanel, StatusBanner, TextPanel

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Kit

WIDE = (120, 36)


def app_over(watch: Watch, **options: Any) -> SanctumApp:
    return SanctumApp(watch, feed=False, **options)


async def settled(pilot: Any, app: SanctumApp) -> None:
    """Everything asked for so far is on the screen."""
    await pilot.pause()
    app.draw()
    await pilot.pause()


def on_screen(app: SanctumApp) -> str:
    """What the terminal shows, widget by widget as the compositor has it."""
    return "\n".join(strip.text for strip in app.screen._compositor.render_strips())


async def test_the_banner_shows_the_journals_last_kl(kit: Kit) -> None:
    events = kit.drift(30)
    app = app_over(kit.watch(events, now=99))
    async with app.run_test(size=WIDE) as pilot:
        await settled(pilot, app)
        kl = format_kl(events[-1].payload.kl_divergence, digits=3)
        assert f"KL {kl}" in app.query_one(StatusBanner).text()
        assert f"KL {kl}" in on_screen(app)
        assert "▲ warn" in app.query_one(HealthStatusPanel).text()
        assert "tempo carries 61%" in app.query_one(HeadsPanel).text()
        assert "crit .030" in on_screen(app)  # the plot's axis


async def test_what_changed_is_repainted_and_nothing_else(kit: Kit) -> None:
    watch = kit.watch(kit.drift(12), now=40)
    app = app_over(watch)
    async with app.run_test(size=WIDE) as pilot:
        await settled(pilot, app)
        repainted: list[str] = []
        for panel in app.query(TextPanel):
            original = panel.refresh

            def spy(*regions: Any, original: Any = original, name: str = panel.panel, **options: Any) -> Any:
                repainted.append(f"{name}:{len(regions)}")
                return original(*regions, **options)

            panel.refresh = spy  # type: ignore[method-assign]  # a spy
        app.draw()
        assert repainted == []
        watched = watch.watched()
        assert watched is not None
        assert isinstance(watched.source, MemorySource)
        watched.source.push([kit.event(kit.update(13, 0.011), at=41.6)])
        watch.tick()
        app.draw()
        assert any(item.startswith("health:") for item in repainted)
        assert not any(item.startswith("sinks:") for item in repainted)


async def test_the_panel_of_divergences_comes_with_the_first_one(kit: Kit) -> None:
    watch = kit.watch(kit.drift(3), now=10)
    app = app_over(watch)
    async with app.run_test(size=WIDE) as pilot:
        await settled(pilot, app)
        assert "OTHER DIVERGENCES" not in on_screen(app)
        watched = watch.watched()
        assert watched is not None
        assert isinstance(watched.source, MemorySource)
        reference = Divergence(name="objective/kl", per_step=0.04)
        watched.source.push([kit.event(kit.update(4, divergences=(reference,)), at=13)])
        watch.tick()
        await settled(pilot, app)
        assert "objective/kl" in on_screen(app)
        assert "KL(policy || reference_model), k3" in on_screen(app)
        assert "EVENTS" in on_screen(app)


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


@pytest.mark.parametrize("start", [WIDE, (20, 3)])
async def test_every_size_draws_and_keeps_the_age(kit: Kit, start: tuple[int, int]) -> None:
    app = app_over(kit.watch(kit.drift(30), now=99))
    async with app.run_test(size=start) as pilot:
        for size in ((120, 36), (100, 34), (80, 24), (60, 20), (60, 16), (40, 6), (39, 5), (200, 60), (120, 36)):
            await pilot.resize_terminal(*size)
            await pilot.pause(0.05)  # Textual gathers sizes for 1/120 s
            await settled(pilot, app)
            text = on_screen(app)
            assert "3 s" in text, size
            assert "WARN" in text, size
        assert "KL BY HEAD" in text


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


def test_the_legend_of_groups_has_no_mean_over_two_kinds_of_kl() -> None:
    joint = KLLimits(on="joint", warning=0.05, critical=0.1)

    def of(kl: float, limits: KLLimits) -> Series:
        return Series("run", "drift", (1, 2), (kl, kl), (1, 2), (3.0, 3.0), limits=limits)

    runs = [of(0.01, KLLimits()), of(0.0499996, joint), of(0.02, KLLimits()), of(0.0499996, joint)]
    weighted, judged_joint = legend_lines(runs, grouped=True).splitlines()
    assert weighted.startswith("a  drift  2 seeds  KL 0.0150  return 3.0")
    assert judged_joint.startswith("b  drift  2 seeds  joint KL 0.0499996  return 3.0")


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


@pytest.mark.parametrize("size", [(200, 60), (120, 36), (100, 30), (80, 24), (60, 15), (40, 6)])
async def test_the_footer_always_has_help_and_the_way_out(kit: Kit, size: tuple[int, int]) -> None:
    """Kind 22: on small screens the footer was cut before its help."""
    app = app_over(kit.watch(kit.drift(5), now=9))
    async with app.run_test(size=size) as pilot:
        await settled(pilot, app)
        footer = on_screen(app).splitlines()[-1]
        assert "q detach" in footer
        assert "? help" in footer


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
    app = app_over(kit.watch(kit.drift(3), now=10), request_stop=lambda run_id: asked.append(run_id) or "asked")
    async with app.run_test(size=WIDE) as pilot:
        await settled(pilot, app)
        await pilot.press("x")
        assert isinstance(app.screen, ConfirmStop)
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


async def test_series_and_screen_are_exported(kit: Kit, tmp_path: Path) -> None:
    run = kit.run(tmp_path / "runs", "run-a", kit.drift(30))
    watch = Watch()
    watch.add_run(run)
    while watch.tick():
        pass
    app = app_over(watch, export_dir=tmp_path)
    async with app.run_test(size=WIDE) as pilot:
        await settled(pilot, app)
        app.export("svg")
        app.export("kl_divergence")
        app.export("all")
        await app.workers.wait_for_complete()
        await pilot.pause()
    svg = (tmp_path / "sanctum-run-a-screen.svg").read_text(encoding="utf-8")
    assert svg.startswith("<svg")
    assert "POLICY" in svg
    rows = (tmp_path / "sanctum-run-a-kl_divergence.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0] == "update_id,env_steps,kl_divergence"
    assert len(rows) == 31
    out = StringIO()
    updates = list(open_run(run.path).updates())
    write_csv(blocks_of(updates), heading(event.payload for event in updates), out)
    assert (tmp_path / "sanctum-run-a-all.csv").read_text(encoding="utf-8") == out.getvalue()


async def test_an_export_that_cannot_be_written_is_one_message(kit: Kit, tmp_path: Path) -> None:
    app = app_over(kit.watch(kit.drift(3), now=10), export_dir=tmp_path / "nowhere")
    async with app.run_test(size=WIDE) as pilot:
        await settled(pilot, app)
        app.export("svg")
        await pilot.pause()
        assert any("cannot write" in item.message for item in app._notifications)


async def test_a_worse_verdict_is_told_once_and_rings(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    rung: list[int] = []
    monkeypatch.setattr(SanctumApp, "bell", lambda self: rung.append(1))
    watch = kit.watch([kit.event(kit.update(n, 0.004), at=n) for n in range(1, 6)], now=6)
    app = app_over(watch, bell=True)
    watched = watch.watched()
    assert watched is not None
    assert isinstance(watched.source, MemorySource)
    async with app.run_test(size=WIDE) as pilot:
        await settled(pilot, app)
        for number in range(6, 12):
            watched.source.push([kit.event(kit.update(number, 0.04 if number < 9 else 0.004), at=number)])
            watch.tick()
            app.draw()
        assert rung == [1]
        assert [item.now.value for item in app.alerts.history] == ["critical", "healthy"]
        await pilot.press("a")
        assert isinstance(app.screen, AlertsScreen)
        await app.workers.wait_for_complete()
        await pilot.pause()
        assert "critical (was healthy)" in on_screen(app)


async def test_themes_and_no_colour(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    app = app_over(kit.watch(kit.drift(30), now=99))
    async with app.run_test(size=WIDE) as pilot:
        await settled(pilot, app)
        assert app.theme == "esper"
        await pilot.press("t")
        assert app.theme == "esper-light"
        app.theme = "textual-light"
        await settled(pilot, app)
        assert "WARNING" in on_screen(app)
    monkeypatch.setenv("NO_COLOR", "1")
    bare = app_over(kit.watch(kit.drift(30), now=99))
    async with bare.run_test(size=WIDE) as pilot:
        await settled(pilot, bare)
        assert bare.theme == "esper-mono"
        assert "▲ WARNING" in on_screen(bare)


async def test_ascii_mode_draws_ascii_only(kit: Kit) -> None:
    app = app_over(kit.watch(kit.drift(30), now=99), ascii_only=True)
    async with app.run_test(size=WIDE) as pilot:
        await settled(pilot, app)
        text = on_screen(app)
        assert "! WARNING" in text
        assert text.isascii()


async def test_markup_in_names_is_text(kit: Kit) -> None:
    events = [kit.event(kit.update(1, heads=(HeadStats(name="[red]x[/red]", kl=0.04, share=1.0),)), at=1)]
    events.append(kit.event(kit.update(2, 0.04, heads=(HeadStats(name="[/]", kl=0.04, share=1.0),)), at=2))
    app = app_over(kit.watch(events, now=3))
    async with app.run_test(size=WIDE) as pilot:
        await settled(pilot, app)
        assert "[/]" in app.query_one(HeadsPanel).text()
        await pilot.press("a", "escape", "question_mark", "escape")


async def test_a_burst_freezes_no_key(kit: Kit) -> None:
    """While 20,000 updates come in through the feeder, the event loop goes on turning.

    No turn costs it a quarter of what the burst costs the process, both in CPU time: neither other programs on the
    machine nor its speed decide anything.
    """
    watch = Watch(clock_ns=lambda: 0)
    source = MemorySource("run-a")
    watch.add(source, select=True)
    payloads = [kit.event(kit.update(n), at=n / 100) for n in range(1, 20_001)]
    app = SanctumApp(watch)
    async with app.run_test(size=WIDE) as pilot:
        await pilot.pause(0.3)
        source.push(payloads)
        began, longest, last = time.process_time(), 0.0, time.thread_time()
        deadline = time.monotonic() + 250
        while app.model.snapshot.updates < 20_000 and time.monotonic() < deadline:
            await asyncio.sleep(0.002)
            now = time.thread_time()
            longest, last = max(longest, now - last), now
        spent = time.process_time() - began
        assert app.model.snapshot.updates == 20_000
        watched = watch.watched()
        assert watched is not None
        assert watched.aggregator.snapshot().seen == 20_000
        assert longest < spent / 4


async def test_a_reader_that_fails_is_told_and_keys_go_on(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = kit.watch(kit.drift(3), now=10)

    def broken(**_: Any) -> bool:
        raise RuntimeError("disk on fire")

    monkeypatch.setattr(watch, "tick", broken)
    app = SanctumApp(watch)
    async with app.run_test(size=WIDE) as pilot:
        deadline = time.monotonic() + 250
        while "reading stopped: RuntimeError: disk on fire" not in on_screen(app):
            assert time.monotonic() < deadline
            await pilot.pause(0.02)
            app.tick()
            app.draw()
        await pilot.press("f")
        assert watch.frozen


async def test_no_run_yet_is_a_screen_too() -> None:
    app = app_over(Watch())
    async with app.run_test(size=WIDE) as pilot:
        await settled(pilot, app)
        await pilot.press("f", "left", "z", "escape", "d", "l", "h", "v", "m", "left_square_bracket", "c")
        assert "UNKNOWN" in on_screen(app)
