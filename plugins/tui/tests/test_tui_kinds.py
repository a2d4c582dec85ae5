"""Kinds of fault that a viewer once had, one number a kind; a test here or elsewhere in this folder stands for each.

The docstring of such a test begins with "Kind" and its number. 27 is the kind of small things: words, digits, signs.
"""

from __future__ import annotations

import ast
import gc
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sanctum_app import text_of

from esper_core.cli.main import main
from esper_core.events import HeadStats, PPOUpdatePayload
from esper_core.health import HealthLevel, RunState, VerdictKind
from esper_core.host.process.child import ChildFailedError
from esper_core.reading.numbers import scaled
from esper_core.reading.sentences import run_finished
from esper_core.reading.trend import trend
from esper_sink_tui.app import SanctumApp
from esper_sink_tui.keys import GLOSSARY
from esper_sink_tui.layout import Cell, cell_lines, layout
from esper_sink_tui.lines import plain_text
from esper_sink_tui.quiet import QuietCollector
from esper_sink_tui.screens.confirm_stop import ConfirmStop
from esper_sink_tui.screens.plots import PlotsScreen
from esper_sink_tui.widgets.axes import WholeAxis

if TYPE_CHECKING:
    from sanctum_kit import Kit

    from esper_core.reading.model import ScreenModel

KINDS = range(1, 28)


def panel(model: ScreenModel, name: str, width: int = 67, height: int = 12) -> list[str]:
    return [plain_text(item) for item in cell_lines(model, Cell(name, 0, 0, width, height))]


def bare(number: int, kl: float = 0.042) -> PPOUpdatePayload:
    """What a sender of another library tells: the update and its KL, nothing else."""
    return PPOUpdatePayload(update_id=number, kl_divergence=kl, health=HealthLevel.UNKNOWN)


def test_every_kind_has_a_test() -> None:
    found: set[int] = set()
    for path in Path(__file__).parent.glob("test_tui_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                told = re.match(r"Kinds? ([\d, and]+)[:.]", ast.get_docstring(node) or "")
                found |= {int(number) for number in re.findall(r"\d+", told[1])} if told else set()
    assert found == set(KINDS)


def test_a_sender_that_tells_no_level_is_judged_by_its_kl(kit: Kit) -> None:
    """Kind 1: a critical KL without a level read as unknown, with nothing to do."""
    model = kit.model([kit.event(bare(number), at=number) for number in range(1, 9)])
    assert model.verdict.kind is VerdictKind.CRITICAL
    assert "KL >= 0.03 in 3 of last 3 updates" in model.why
    assert "lower learning_rate" in str(model.advice)
    assert "✖ crit" in next(item for item in panel(model, "health") if "KL nats" in item)


@pytest.mark.parametrize("kl", [0.004, 0.0149, 0.015, 0.02, 0.03, 0.06])
def test_an_alarm_never_comes_with_nothing_to_do(kit: Kit, kl: float) -> None:
    """Kind 3: verdict, number and advice of three moments contradicted each other."""
    for breach in range(4, 9):
        events = [kit.event(kit.update(n, kl if n == breach else 0.004), at=n) for n in range(1, 9)]
        for model in (kit.model(events[:count]) for count in range(4, 9)):
            alarmed = model.verdict.kind in {VerdictKind.WARNING, VerdictKind.CRITICAL}
            said = panel(model, "banner", 160, 4)
            assert ("nothing to do" in said[2]) is not alarmed
            assert (f"at update {breach}" in said[1]) is (alarmed and model.snapshot.updates > breach)


def test_what_a_sender_did_not_tell_is_not_claimed(kit: Kit) -> None:
    """Kind 20: "on cpu" and "early stop is off" were said of runs that had told neither."""
    untold = text_of(kit.model([kit.event(bare(number), at=number) for number in range(1, 9)]))
    assert "on cpu" not in untold
    assert "early stop is off" not in untold
    assert "no limit of early stopping was told" in untold
    assert "this run reports no heads" in untold
    told = text_of(kit.model([kit.event(kit.started(target_kl=0.0, stop_threshold=None)), kit.event(bare(1), at=1)]))
    assert "on cpu" in told
    assert "early stop is off (target_kl = 0)" in told


def test_the_return_is_there_when_no_episode_ended_in_the_rollout(kit: Kit) -> None:
    """Kind 21: the return was missing most of the time on short rollouts, though the mean of 100 was known."""
    events = [kit.event(kit.update(n, return_mean=None), at=n) for n in range(1, 13)]
    row = next(item for item in panel(kit.model(events), "throughput", 53, 8) if "return" in item)
    assert "30.0" in row
    assert "·" not in row


@pytest.mark.parametrize("size", [(80, 24), (100, 30), (100, 34), (120, 36), (160, 45), (200, 60)])
def test_a_larger_terminal_has_a_larger_plot_and_every_one_from_80x24_has_one(size: tuple[int, int]) -> None:
    """Kind 22: 100x30 had no plot, and 200x60 one of nine rows beside empty columns."""
    cells = {cell.name: cell for cell in layout(*size)}
    plot = cells["plot"]
    assert plot.width * plot.height >= size[0] * size[1] / 12
    if size == (200, 60):
        assert plot.height >= 30
        assert plot.width == cells["throughput"].width + cells["sinks"].width


@pytest.mark.parametrize("ends", [(0.0, 1.0), (1.0, 2.0), (1.0, 3.0), (19980.0, 20000.0)])
def test_a_short_axis_of_updates_has_no_tick_twice(ends: tuple[float, float]) -> None:
    """Kind 23: the first updates had the ticks 1 2 2 2 3, and an empty plot 0 0 0 1 1 1."""
    axis = WholeAxis()
    labels = axis.get_labels_for_ticks(axis.get_ticks(*ends))
    assert len(set(labels)) == len(labels) >= 2


# --- 27: small things ------------------------------------------------------------------------------


def test_limits_are_legible_at_any_scale(kit: Kit) -> None:
    """Kind 27: limits were cut ("95.779 / 319.2…") or all zeros."""
    for size in (1e-9, 3e-5, 4e-4, 0.4, 31.9, 123.0, 9876.0, 31926.3, 4e7):
        events = [kit.event(kit.update(n, value_loss=size, grad_norm=size, advantage_std=size), at=n) for n in range(9)]
        for row in panel(kit.model(events), "health"):
            assert "…" not in row, row
            if any(name in row for name in ("value loss", "grad norm", "advantage std")):
                assert not {"0.00", "0.000", "non-finite"} & set(row.split()), row
    assert [scaled(value, 2) for value in (0.0, None, -0.00012, 0.12, 1234.5, 123456.0, 5e15)] == [
        "0.00",
        "—",
        "-1.2e-4",
        "0.12",
        "1234",
        "123k",
        "5.0e15",
    ]


@pytest.mark.parametrize("width", [80, 100, 120, 160])
def test_no_cell_of_the_banner_comes_or_goes_with_the_age(kit: Kit, width: int) -> None:
    """Kind 27: the time to go vanished when the age grew by a letter."""
    shown = {
        len([word for word in ("ETA", "upd", "warn", "LIVE") if word in panel(model, "banner", width, 4)[0]])
        for model in (kit.model(kit.drift(30), age=age) for age in (8.0, 10.0, 59.0, 100.0, 1000.0, 1e6, 1e9))
    }
    assert len(shown) == 1


def test_warm_up_is_over_in_every_panel_at_once(kit: Kit) -> None:
    """Kind 27: the banner said update 3 of 3, another panel that the warm-up was done; the value row was critical."""
    events = [kit.event(kit.update(n, explained_variance=-0.2), at=n) for n in range(1, 5)]
    for count in (1, 3, 4):
        model = kit.model(events[:count])
        assert (model.verdict.kind is VerdictKind.WARM_UP) is (count < 4)
        assert ("warm-up done" in text_of(model)) is (count == 4)
        row = next(item for item in panel(model, "health") if "expl. variance" in item)
        assert row.rstrip(" │").endswith("✖ crit" if count == 4 else "◌ warm-up")


def test_a_number_that_jumps_has_no_direction() -> None:
    """Kind 27: a KL that jumped between 0.006 and 0.032 was called steady."""
    jumping = [0.006, 0.032] * 5
    assert trend(jumping) == trend(jumping[1:]) == trend([0.019, *jumping]) == ""
    assert trend([0.008, 0.009, 0.007, 0.0085, 0.008, 0.0075, 0.009]) == "steady"
    assert trend([0.001 * number for number in range(10)]) == "rising"
    assert trend([0.004] * 8 + [0.03] * 2) == "rising"
    assert trend([0.0] * 10) == "steady"


def test_words_of_the_screen_are_in_the_glossary(kit: Kit) -> None:
    """Kind 27: signs and words of the screen that the help did not know."""
    told = " ".join(f"{sign} {text}" for sign, text in GLOSSARY)
    events = [kit.event(kit.update(n), at=n) for n in range(1, 9)]
    idle = (*kit.update(9).heads[:2], HeadStats(name="tempo"))
    text = text_of(kit.model([*events, kit.event(kit.update(9, heads=idle), at=9)]))
    for word in ("most", "idle", "ok", "non-finite only"):
        assert word in text
        assert word in told


def test_a_count_is_said_once(kit: Kit) -> None:
    """Kind 27: "400 of 400 updates, 400 updates", and a reason that was a signal's name alone."""
    assert run_finished(kit.finished(reason="400 of 400 updates", updates=400)) == "done: 400 of 400 updates"
    assert run_finished(kit.finished(reason="", updates=400)) == "done, 400 updates"


def test_the_mark_of_the_run_on_show_is_seen(kit: Kit) -> None:
    """Kind 27: the sign of the run on show hid that it was marked."""
    runs = tuple(kit.row(f"run-{letter}", marked=letter in "ab") for letter in "abc")
    lines = panel(kit.model(kit.drift(3), runs=runs, selected="run-a"), "runs", 67, 8)
    assert [item[2:4] for item in lines[2:5]] == ["▶■", " ■", "  "]


def test_the_share_bar_tells_a_tenth_from_a_quarter(kit: Kit) -> None:
    """Kind 27: shares of 10 % and 26 % looked alike."""
    bars = set()
    for share in (0.02, 0.10, 0.18, 0.26, 0.34):
        heads = (HeadStats(name="a", kl=0.004, share=share, weight=1.0, decisions=4),)
        row = next(
            item for item in panel(kit.model([kit.event(kit.update(1, heads=heads), at=1)]), "heads") if " a " in item
        )
        bars.add("".join(sign for sign in row if "▏" >= sign >= "█"))
    assert len(bars) == 5


async def test_a_run_that_has_ended_is_not_offered_to_be_stopped(kit: Kit) -> None:
    """Kind 27: the question whether to stop was put about a run that had ended."""
    watch = kit.watch([*kit.drift(5), kit.event(kit.finished(), at=40)], now=50)
    app = SanctumApp(watch, feed=False, request_stop=lambda _: "asked")
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.pause()
        app.draw()
        assert app.model.life.state is RunState.DONE
        await pilot.press("x")
        assert not isinstance(app.screen, ConfirmStop)
        assert [item.message for item in app._notifications] == ["this run has ended: done"]


async def test_an_export_says_that_it_replaced_a_file(kit: Kit, tmp_path: Path) -> None:
    """Kind 27: an export replaced a file and did not say so."""
    app = SanctumApp(kit.watch(kit.drift(5), now=50), feed=False, export_dir=tmp_path)
    async with app.run_test(size=(120, 36)) as pilot:
        for _ in range(2):
            app.export("svg")
            await pilot.pause()
        assert [item.message.split()[0] for item in app._notifications] == ["wrote", "replaced"]


async def test_comparing_goes_on_with_its_runs(kit: Kit) -> None:
    """Kinds 12 and 27: the plots of several runs were read once, and limits lay beside their ticks."""
    watch = kit.watch(kit.drift(5), now=50)
    app = SanctumApp(watch, feed=False)
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("v")
        await app.workers.wait_for_complete()
        await pilot.pause()
        assert isinstance(app.screen, PlotsScreen)
        rows = [strip.text for strip in app.screen._compositor.render_strips()]
        for name in ("warn .0150", "crit .0300"):
            assert next(row for row in rows if name in row).count("─") > 60
        watched = watch.watched()
        assert watched is not None
        watched.source.push([kit.event(kit.update(6), at=30)])  # type: ignore[attr-defined]  # a source in memory
        while watch.tick():
            pass
        app.screen._due = 0.0
        app.screen.refresh_runs()
        await app.workers.wait_for_complete()
        await pilot.pause()
        assert app.screen.series[0].last == (6, 0.004)


def test_a_line_is_printed_before_the_training_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Kind 25: the terminal was blank until the training's imports were done."""
    printed: list[str] = []

    def fails(argv: Any) -> Any:
        printed.append(capsys.readouterr().err)
        raise ChildFailedError(f"no child for {list(argv)[:1]}", code=7)

    monkeypatch.setattr("esper_core.cli._foreground.start_child", fails)
    monkeypatch.chdir(tmp_path)
    assert main(["ppo", "--sink", "tui", "--env", "CartPole-v1", "--updates", "1"]) == 7
    assert len(printed) == 1
    assert printed[0].startswith("esper: starting the training; tui ")


def test_a_full_collection_of_garbage_waits_until_nobody_presses_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kind 27: of many keys one took a tenth of a second."""
    now = [0.0]
    monkeypatch.setattr("esper_sink_tui.quiet.time.monotonic", lambda: now[0])
    before = gc.get_threshold()
    quiet = QuietCollector()
    assert not quiet.rest()
    quiet.start()
    try:
        assert gc.get_threshold()[:2] == before[:2]
        assert gc.get_threshold()[2] > 1_000_000
        for moment, used, collects in ((60, False, False), (130, True, False), (140, False, True), (200, False, False)):
            now[0] = float(moment)
            if used:
                quiet.used()
            assert quiet.rest() is collects, moment
        for moment in range(201, 1041):
            now[0] = float(moment)
            quiet.used()
            assert quiet.rest() is (moment == 1040)  # at last, whatever is pressed
    finally:
        quiet.stop()
    assert gc.get_threshold() == before


async def test_no_screen_breaks_at_any_size(kit: Kit) -> None:
    """Kind 27: a window dragged down to a column while a question was open ended the viewer."""
    app = SanctumApp(kit.watch(kit.drift(5), now=50), feed=False, request_stop=lambda _: "asked")
    async with app.run_test(size=(120, 36)) as pilot:
        for opened in ("h", "v", "r", "a", "i", "question_mark", "x", "e", "h+k", "h+p"):
            for size in ((1, 1), (2, 40), (5, 3), (400, 2), (120, 36)):
                if size == (1, 1):
                    await pilot.press(*opened.split("+"))
                    await app.workers.wait_for_complete()
                    assert len(app.screen_stack) > 1, opened
                await pilot.resize_terminal(*size)
                await pilot.pause()
            while len(app.screen_stack) > 1:
                await pilot.press("escape")
                await pilot.pause()
