"""The app through Textual's Pilot: what it draws at each size and theme, exports, and that no burst holds it up."""

from __future__ import annotations

import asyncio
import time
from io import StringIO
from typing import TYPE_CHECKING, Any

import pytest
from sanctum_app import WIDE, app_over, on_screen, settled

from esper_core.events import Divergence, HeadStats
from esper_core.health import KLLimits, format_kl
from esper_core.reading import open_run
from esper_core.reading.cells import blocks_of
from esper_core.reading.series import Series
from esper_core.reading.source import MemorySource
from esper_core.reading.table import heading
from esper_core.reading.written import write_csv
from esper_sink_tui.app import SanctumApp
from esper_sink_tui.panels import PANELS
from esper_sink_tui.screens.alerts import AlertsScreen
from esper_sink_tui.screens.legend import legend_lines
from esper_sink_tui.watch import Watch
from esper_sink_tui.widgets import HeadsPanel, HealthStatusPanel, StatusBanner, TextPanel

if TYPE_CHECKING:
    from pathlib import Path

    from sanctum_kit import Kit


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


def test_the_legend_of_groups_has_no_mean_over_two_kinds_of_kl() -> None:
    joint = KLLimits(on="joint", warning=0.05, critical=0.1)

    def of(kl: float, limits: KLLimits) -> Series:
        return Series("run", "drift", (1, 2), (kl, kl), (1, 2), (3.0, 3.0), limits=limits)

    runs = [of(0.01, KLLimits()), of(0.0499996, joint), of(0.02, KLLimits()), of(0.0499996, joint)]
    weighted, judged_joint = legend_lines(runs, grouped=True).splitlines()
    assert weighted.startswith("a  drift  2 seeds  KL 0.0150  return 3.0")
    assert judged_joint.startswith("b  drift  2 seeds  joint KL 0.0499996  return 3.0")


@pytest.mark.parametrize("size", [(200, 60), (120, 36), (100, 30), (80, 24), (60, 15), (40, 6)])
async def test_the_footer_always_has_help_and_the_way_out(kit: Kit, size: tuple[int, int]) -> None:
    """Kind 22: on small screens the footer was cut before its help."""
    app = app_over(kit.watch(kit.drift(5), now=9))
    async with app.run_test(size=size) as pilot:
        await settled(pilot, app)
        footer = on_screen(app).splitlines()[-1]
        assert "q detach" in footer
        assert "? help" in footer


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


async def test_a_panel_that_cannot_be_drawn_says_so_and_the_others_stand(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log, which draws itself, ended the viewer."""

    def broken(*_: Any, **__: Any) -> Any:
        raise OverflowError("a number")

    monkeypatch.setitem(PANELS, "sinks", broken)
    monkeypatch.setattr("esper_sink_tui.widgets.panels.events_panel", broken)
    app = SanctumApp(kit.watch(kit.drift(5), now=30), feed=False)
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("enter", "enter")
        for name in ("sinks", "events"):
            assert "cannot be drawn: OverflowError: a number" in app._panel(name).text()
        assert "entropy" in app._panel("health").text()
