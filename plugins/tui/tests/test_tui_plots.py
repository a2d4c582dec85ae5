"""Plots draw everything: in cells, and on the canvas of the screens for whole runs."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.widgets import Static
from textual_hires_canvas import Canvas

from esper_core.events import HeadStats, PolicyEvaluated
from esper_core.health import DEFAULT_KL_LIMITS, HealthLevel
from esper_core.reading.curves import HeadColumn, head_columns, plottable, smoothed
from esper_core.reading.glyphs import ABOVE, BELOW, EVALUATED, NON_FINITE, RESUME, SHADES, STOP, to_ascii
from esper_core.reading.index import UpdateIndex
from esper_core.reading.series import headroom
from esper_core.reading.seriesreader import SeriesReader
from esper_core.reading.source import MemorySource
from esper_sink_tui.app import SanctumApp
from esper_sink_tui.chart import Rule, chart, column_of, ids_line, row_of
from esper_sink_tui.layout import Cell, cell_lines
from esper_sink_tui.lines import plain_text, width_of
from esper_sink_tui.panels.heatmap import heat_lines, heat_room
from esper_sink_tui.screens.legend import legend_lines
from esper_sink_tui.screens.plots import PlotsScreen
from esper_sink_tui.watch import Watch
from esper_sink_tui.widgets.axes import SCALES, LogAxis, TimeAxis, Upright, WholeAxis
from esper_sink_tui.widgets.heat_map import HeatMap
from esper_sink_tui.widgets.history_plot import HistoryPlot

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sanctum_kit import Kit

    from esper_sink_tui.widgets.axes import Scale

NAN = math.nan
KL = (0.0, 0.045)
FINITE = st.floats(allow_nan=False, allow_infinity=False)


def drawn(values: Sequence[float | None], bounds: tuple[float, float] = KL, **options: Any) -> list[str]:
    points = list(enumerate(values, start=1))
    given_: dict[str, Any] = {"ends": (1.0, float(len(values))), "size": (20, 4), **options}
    return [plain_text(item) for item in chart(points, bounds=bounds, **given_)]


def painted(sign: str) -> bool:
    return 0x2800 < ord(sign) < 0x2900 or sign in {ABOVE, BELOW}


@given(
    values=st.lists(FINITE, min_size=1, max_size=130),
    width=st.integers(1, 90),
    height=st.integers(1, 9),
    bounds=st.one_of(st.none(), st.tuples(FINITE, FINITE).filter(lambda pair: pair[0] < pair[1])),
)
def test_every_finite_value_paints_the_cell_it_lies_in(
    values: list[float], width: int, height: int, bounds: tuple[float, float] | None
) -> None:
    """Kind 2: values on the upper edge of a plot were not drawn."""
    ends, used = (1.0, float(len(values))), bounds if bounds is not None else headroom(values)
    lines = [
        plain_text(item) for item in chart(list(enumerate(values, 1)), ends=ends, bounds=used, size=(width, height))
    ]
    assert [len(item) for item in lines] == [width] * height
    for number, value in enumerate(values, start=1):
        assert painted(lines[row_of(value, used, height)][column_of(number, ends, width)])
    assert all(painted(sign) or sign == " " for item in lines for sign in item)


@given(st.lists(FINITE, max_size=30))
def test_an_axis_with_headroom_has_every_value_inside(values: list[float]) -> None:
    low, high = headroom(values)
    assert low < high
    assert all(low <= value <= high for value in values)
    assert math.isfinite(low)
    assert math.isfinite(high)


@pytest.mark.parametrize("value", [0.0, 0.015, 0.03, 0.045, 0.0450001, 0.06, 1e300])
def test_a_constant_kl_is_a_line_wherever_it_lies(value: float) -> None:
    lines = drawn([value] * 30)
    row = lines[row_of(value, KL, 4)]
    assert len(row.strip()) == 20
    assert (row == ABOVE * 20) is (value > KL[1])


def test_a_solved_task_is_a_line_in_its_plot() -> None:
    """Kind 2: the returns of a task solved at 500 were an empty plot."""
    lines = drawn([500.0] * 30, headroom([500.0] * 30))
    assert sum(len(item.strip()) == 20 for item in lines) == 1


def test_what_is_no_number_is_marked_and_breaks_the_line() -> None:
    """Kind 14: a line went across what was no number."""
    lines = drawn([0.01, NAN, 0.01, None, 0.01], size=(9, 3))
    assert lines[0] == f"  {NON_FINITE}      "
    assert lines[2][:1] != " "
    assert lines[2][1:4].strip() != lines[2][:5]  # nothing bridges the NaN
    assert drawn([math.inf, -math.inf], size=(2, 1)) == [NON_FINITE * 2]
    assert drawn([-1.0, 0.02], size=(4, 2))[1][0] == BELOW


def test_limits_and_resumes_lie_behind_the_curve() -> None:
    lines = drawn([0.0] * 5, rules=[Rule(0.03, "-", "crit")], resumes=[3], size=(9, 3))
    assert lines[row_of(0.03, KL, 3)] == f"----{RESUME}----"
    assert RESUME not in lines[2]


@given(st.lists(st.integers(1, 10**7), min_size=1, max_size=130, unique=True), st.integers(1, 130))
def test_ids_below_an_axis_are_distinct_and_apart(ids: list[int], width: int) -> None:
    """Kind 23: ticks were alike or touched ("1 2 2 2 3", "1998020000")."""
    ids.sort()
    text = ids_line(ids, width)
    assert len(text) == width
    words = text.split()
    assert len(set(words)) == len(words)
    assert all(int(word) in ids for word in words)
    assert all("  " in text[text.index(one) :] for one in words[:-1])


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_ticks_of_a_whole_run_are_whole_distinct_and_few(first: int, length: int) -> None:
    """Kind 23: likewise in the plots of whole runs."""
    axis = WholeAxis()
    ticks = axis.get_ticks(first - 0.01 * length, first + 1.02 * length + 1)
    labels = axis.get_labels_for_ticks(ticks)
    assert len(set(labels)) == len(labels) <= 7
    assert [float(label) for label in labels] == ticks


def plot_text(kit: Kit, events: list[Any], width: int = 53, height: int = 12) -> str:
    return "\n".join(plain_text(item) for item in cell_lines(kit.model(events), Cell("plot", 0, 0, width, height)))


def test_kl_and_return_stand_over_one_axis(kit: Kit) -> None:
    stopped = {4, 7}
    events = [
        kit.event(kit.update(n, 0.06 if n > 9 else 0.004, early_stop=kit.stop(0.03) if n in stopped else None), at=n)
        for n in range(1, 13)
    ]
    text = plot_text(kit, events)
    assert "KL AND RETURN, LAST 12" in text
    assert "crit .030 │" in text
    assert "warn .015 │" in text
    assert ABOVE in text.splitlines()[1]
    assert next(item for item in text.splitlines() if "0 └" in item).count(STOP) == 2
    assert "30.0 │" in text  # the greatest return
    assert "return │" in text
    low = plot_text(kit, events, height=7)
    assert "KL BY UPDATE" in low
    assert "return │" not in low
    assert to_ascii(text).isascii()


def test_an_attempt_is_marked_where_it_begins(kit: Kit) -> None:
    first = [kit.event(kit.update(n), at=n) for n in range(1, 9)]
    second = [kit.event(kit.update(n), at=n + 20, attempt=2) for n in range(6, 15)]
    snapshot = kit.fed([*first, *second]).snapshot()
    assert snapshot.resumes == (6,)
    assert RESUME in plot_text(kit, [*first, *second])


def canvas_text(app: SanctumApp, name: str) -> str:
    canvas = app.screen.query_one(name, HistoryPlot).query_one("#plot", Canvas)
    return "\n".join(
        "".join(segment.text for segment in canvas.render_line(y)) for y in range(1, canvas.size.height - 1)
    )


async def read(pilot: Any, app: SanctumApp) -> PlotsScreen:
    await app.workers.wait_for_complete()
    for _ in range(3):
        await pilot.pause()
    assert isinstance(app.screen, PlotsScreen)
    return app.screen


@pytest.mark.parametrize(("kl", "returned"), [(0.06, 500.0), (0.045, 500.0), (0.0, 0.0), (0.03, -1e9), (0.0449, 1e12)])
async def test_whole_runs_are_drawn_wherever_their_values_lie(kit: Kit, kl: float, returned: float) -> None:
    """Kind 2: the same in the plots of whole runs."""
    events = [kit.event(kit.update(n, kl, return_mean_100=returned), at=n) for n in range(1, 41)]
    app = SanctumApp(kit.watch(events, now=50), feed=False)
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("h")
        await read(pilot, app)
        for name in ("#history-kl", "#history-return"):
            rows = canvas_text(app, name).splitlines()
            signs = [sum(painted(sign) for sign in item) for item in rows]
            assert max(signs) > 60, name
        assert (ABOVE in canvas_text(app, "#history-kl")) is (kl > 0.045)


async def test_numbers_of_any_size_are_drawn_on_every_axis_and_zoomed_into(kit: Kit) -> None:
    """Values near the largest float, and steps too large for neighbours to differ, ended the viewer."""
    sizes = (1.7e308, -1e300, 0.0, 5e-324, 0.6, math.inf, NAN, 1e300)
    names = ("grad_norm", "value_loss", "return_mean_100")
    events = [kit.event(kit.started())]
    for number in range(1, 25):
        values = {name: sizes[(number + at) % 8] for at, name in enumerate(names)}
        update = kit.update(number, abs(sizes[number % 8]), env_steps=10**15, steps_per_s=1.7e308, **values)
        events.append(kit.event(update, at=number))
    app = SanctumApp(kit.watch(events, now=30), feed=False)
    async with app.run_test(size=(100, 34)) as pilot:
        await pilot.pause()
        assert "cannot be drawn" not in "\n".join(app._panel(name).text() for name in app._cells)
        await pilot.press("h")
        screen = await read(pilot, app)
        plot = screen.query_one("#history-kl", HistoryPlot)
        for keys in (["x"], ["y", "y"], ["x", "s", "y"]):
            await pilot.press(*keys)
        for zoom in (plot.action_zoom_in, plot.action_zoom_out):
            for _ in range(400):
                zoom()
            await pilot.pause()
            assert plot._x_min < plot._x_max
            assert math.isfinite(plot._y_max - plot._y_min)


async def test_a_history_grows_with_its_run_and_pairs_update_and_value(kit: Kit) -> None:
    """Kinds 12 and 14: an open history stood still, and its legend gave the last update the KL of the one before."""
    events = [kit.event(kit.update(n, 0.004), at=n) for n in range(1, 6)]
    watch = kit.watch(events, now=50)
    app = SanctumApp(watch, feed=False)
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("h")
        screen = await read(pilot, app)
        assert "update 5  KL 0.0040" in legend_lines(screen.series, grouped=False)
        watched = watch.watched()
        assert watched is not None
        assert isinstance(watched.source, MemorySource)
        watched.source.push([kit.event(kit.update(6, NAN, non_finite=4), at=6)])
        while watch.tick():
            pass
        screen._due = 0.0  # not how long reading took is looked at
        screen.refresh_runs()
        await read(pilot, app)
        assert "update 6  KL non-finite" in legend_lines(screen.series, grouped=False)
        assert NON_FINITE in canvas_text(app, "#history-kl")


def test_a_long_run_s_legend_is_of_its_last_update(kit: Kit, tmp_path: Path) -> None:
    """Kind 14: the legend of a long run named the first update of a group."""
    events = [kit.event(kit.update(n, 0.02 if n == 399 else 0.004), at=n) for n in range(1, 401)]
    watch = Watch()
    watched = watch.add_run(kit.run(tmp_path, "run-a", events))
    assert watched is not None
    while watch.tick():
        pass
    series = SeriesReader(watched.source, points=20).read(watched.snapshot)
    assert "update 400  KL 0.0040" in legend_lines([series], grouped=False)
    assert series.updates[-1] == 399
    assert series.joined > 1


def test_a_panel_of_any_size_is_filled(kit: Kit) -> None:
    model = kit.model(kit.drift(130))
    for width in range(1, 70, 3):
        for height in range(1, 30, 2):
            lines = cell_lines(model, Cell("plot", 0, 0, width, height))
            assert {width_of(item) for item in lines} == {width}
            assert len(lines) == height


@pytest.mark.parametrize("scale", SCALES)
@given(values=st.lists(FINITE, min_size=1, max_size=40))
def test_on_every_scale_a_finite_value_has_a_place_inside(scale: Scale, values: list[float]) -> None:
    axis = Upright(scale, values)
    low, high = axis.bounds
    assert low < high
    assert all(low <= axis.of(value) <= high for value in values)
    assert axis.below == (sum(value <= 0 for value in values) if scale == "log" else 0)


@given(st.floats(-300, 300), st.floats(1e-6, 600))
def test_ticks_of_a_logarithmic_axis_are_inside_and_at_least_two(low: float, width: float) -> None:
    ticks = LogAxis().get_ticks(low, low + width)
    assert 2 <= len(ticks) <= 20
    assert all(low <= tick <= low + width for tick in ticks)
    assert len(LogAxis().get_labels_for_ticks(ticks)) == len(ticks)


@given(st.floats(0, 1e7), st.floats(1, 1e7))
def test_ticks_of_time_are_few_and_distinct(first: float, length: float) -> None:
    ticks = TimeAxis().get_ticks(first, first + length)
    assert len(ticks) <= 7
    assert len(set(ticks)) == len(ticks)


def test_smoothing_is_the_mean_without_the_bias_of_its_beginning() -> None:
    assert smoothed([2.0, NAN, 4.0], 0.0)[::2] == [2.0, 4.0]
    found = smoothed([3.0] * 5, 0.9)
    assert found == pytest.approx([3.0] * 5)
    assert smoothed([1.0, 0.0], 0.5) == pytest.approx([1.0, 1 / 3])
    assert math.isnan(smoothed([1.0, NAN], 0.5)[1])


def whole(kit: Kit, count: int = 12) -> list[Any]:
    """Updates of 1024 steps and 10 s, KL 0.001 a number, NaN at 7; two evaluations."""
    events = [kit.event(kit.started(), at=0)]
    for number in range(1, count + 1):
        kl = NAN if number == 7 else 0.001 * number
        events.append(kit.event(kit.update(number, kl, value_loss=10.0**-number), at=10.0 * number))
    for number, value in ((4, 40.0), (8, 80.0)):
        events.append(kit.event(PolicyEvaluated(update_id=number, return_mean=value, episodes=5), at=10.0 * number + 1))
    return events


def legend(app: SanctumApp) -> str:
    return str(app.screen.query_one("#history-legend", Static).render())


async def test_any_metric_on_any_axis_with_the_value_at_the_cursor(kit: Kit) -> None:
    app = SanctumApp(kit.watch(whole(kit), now=200), feed=False)
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("h")
        screen = await read(pilot, app)
        below = screen.query_one("#history-return", HistoryPlot)
        assert "evaluation 80.0" in legend(app)
        assert canvas_text(app, "#history-return").count(EVALUATED) == 2
        await pilot.press("p", *"value_lo", "enter")
        await read(pilot, app)
        assert screen.view.metric == "value_loss"
        await pilot.press("y", "y")
        assert "value_loss, by update, log" in str(below.border_title)
        await pilot.press("x")
        assert screen._drawing is not None
        assert screen._drawing.ends() == (1024.0, 12 * 1024.0)
        await pilot.press("left", "left")
        assert "update 11  steps 11,264  time 1m40s  KL 0.0110 ● ok  value_loss 1e-11" in legend(app)
        await pilot.press("x")
        assert screen._drawing.ends() == (0.0, 110.0)
        await pilot.press("shift+left", "home", "end", "s")
        assert "time since the first update" in str(below.border_title)
        assert "smoothed 0.6" in str(below.border_title)
        assert screen.cursor == 12
        await pilot.press("r")
        assert screen.cursor is None


async def test_a_number_below_a_plot_is_whole(kit: Kit) -> None:
    """100000 at the right edge read 10000."""
    events = [kit.event(kit.update(number), at=number) for number in (1, 50_000, 100_000)]
    app = SanctumApp(kit.watch(events, now=100_001), feed=False)
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("h")
        screen = await read(pilot, app)
        for width in (120, 96, 80, 61, 40):
            await pilot.resize_terminal(width, 30)
            await pilot.pause()
            below = screen.query_one("#history-kl").query_one("#margin-bottom", Canvas)
            numbers = [int(text) for text in below.render_line(0).text.split()]
            assert set(numbers) <= set(range(0, 100_001, 10_000))
            assert all(low < high for low, high in pairwise(numbers))
            assert len(numbers) > 1
            assert width < 96 or numbers[-1] == 100_000


async def test_a_click_in_a_plot_reads_the_value_there(kit: Kit) -> None:
    app = SanctumApp(kit.watch(whole(kit), now=200), feed=False)
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("h")
        screen = await read(pilot, app)
        canvas = screen.query_one("#history-kl").query_one("#plot", Canvas)
        await pilot.click("#history-kl", offset=(canvas.region.x + canvas.region.width // 2 - 1, 4))
        assert screen.cursor in {6, 7}
        await pilot.press("right", *["left"] * 2, *["right"] * 7)
        assert "update 12" in legend(app)
        while screen.cursor != 7:
            await pilot.press("left")
        assert f"KL non-finite {NON_FINITE} NaN/Inf" in legend(app)


async def test_the_heads_are_a_map_over_the_updates(kit: Kit) -> None:
    app = SanctumApp(kit.watch(kit.drift(60), now=400), feed=False)
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("h")
        screen = await read(pilot, app)
        await pilot.press("k")
        await pilot.pause()
        heat = screen.query_one(HeatMap)
        assert heat.display
        lines = heat.text().splitlines()
        tempo = next(item for item in lines if item.startswith("tempo "))
        assert all(sign in tempo for sign in SHADES)
        assert SHADES[3] not in next(item for item in lines if item.startswith("tempo_offset"))
        for key in ("left", "home", *["right"] * 20, "plus", "x"):
            await pilot.press(key)
            await pilot.pause()
            canvas = screen.query_one("#history-kl").query_one("#plot", Canvas)
            drawn = canvas.render_line(1).text.index("│")  # each column of the map lies below that of the plot
            axis = next(item for item in heat.text().splitlines() if "└" in item)
            assert heat.content_region.x + axis.index("┴") == canvas.region.x + drawn
            assert len(axis.strip()) == canvas.region.width - 1
        await pilot.press("end")
        assert legend(app).startswith("update 60")
        assert "  tempo 0.0" in legend(app)
        await pilot.resize_terminal(50, 12)
        await pilot.pause()
        await pilot.press("k")
        assert not heat.display


@given(st.integers(1, 90), st.integers(1, 12), st.sampled_from([0.0, 0.01, 0.02, 5.0, NAN, math.inf, None]))
def test_a_map_of_heads_fills_its_place(width: int, height: int, kl: float | None) -> None:
    columns = [HeadColumn(n, (HeadStats(name="头\x1b[31m", kl=kl, decisions=1, weight=1.0),)) for n in range(1, 9)]
    lines = heat_lines(columns[: heat_room(width)], DEFAULT_KL_LIMITS, (width, height), marked=3)
    assert {width_of(item) for item in lines} == {width}
    assert len(lines) == height
    assert "\x1b" not in "".join(plain_text(item) for item in lines)


@pytest.mark.parametrize("width", [80, 60])
async def test_the_footer_of_the_plots_has_the_way_back_and_help(kit: Kit, width: int) -> None:
    app = SanctumApp(kit.watch(whole(kit), now=200), feed=False)
    async with app.run_test(size=(width, 24)) as pilot:
        await pilot.press("h")
        screen = await read(pilot, app)
        keys = [item for item in screen.query("FooterKey") if item.region.right <= width and item.region.width]
        assert {"escape", "question_mark"} <= {getattr(item, "key", "") for item in keys}
        await pilot.press("plus")
        await pilot.pause()
        assert screen._zoomed


async def test_plots_are_ascii_in_ascii_mode(kit: Kit) -> None:
    app = SanctumApp(kit.watch(whole(kit), now=200), feed=False, ascii_only=True)
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("h")
        await read(pilot, app)
        for name in ("#history-kl", "#history-return"):
            text = canvas_text(app, name)
            assert text.isascii()
            assert "?" not in text


def test_evaluations_come_from_journal_and_memory_alike(kit: Kit, tmp_path: Path) -> None:
    events = whole(kit)
    watch = Watch()
    on_disk = watch.add_run(kit.run(tmp_path, "run-a", events))
    heard = kit.watch(events, now=200).watched()
    assert heard is not None
    while watch.tick():
        pass
    one = SeriesReader(on_disk.source).read(on_disk.snapshot)
    other = SeriesReader(heard.source).read(
        heard.snapshot, heard=heard.timeline.updates(), evaluations=heard.timeline.evaluations()
    )
    assert [(item.update_id, item.return_mean) for item in one.evaluations] == [(4, 40.0), (8, 80.0)]
    assert [item.update_id for item in other.evaluations] == [4, 8]
    assert one.return_updates == other.return_updates
    assert "value_loss" in plottable([one])
    assert "head.tempo.kl" in plottable([one])
    assert not {"attempt", "device", "update_id"} & set(plottable([one]))
    columns = head_columns(one, 48, lambda update_id: 4 * (update_id - 1))
    assert [item.first for item in columns] == [n for n in range(1, 13) for _ in range(4)][:45] + [13] * 3
    assert {item.first for item in columns if item.broken} == {7}
    lost = heat_lines([HeadColumn(1, columns[0].heads), HeadColumn(2, broken=True)], one.limits, (16, 8))
    assert plain_text(lost[0]) == f"slot         │{SHADES[0]}{NON_FINITE}"


def test_a_live_plot_reads_what_was_added_and_nothing_twice(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = kit.run(tmp_path, "run-a", [kit.event(kit.update(n), at=n) for n in range(1, 41)])
    watch = Watch()
    watched = watch.add_run(run)
    while watch.tick():
        pass
    read: list[int] = []
    event = UpdateIndex.event

    def noted(index: UpdateIndex, at: int) -> Any:
        read.append(index.update_id(at))
        return event(index, at)

    monkeypatch.setattr(UpdateIndex, "event", noted)
    reader = SeriesReader(watched.source, points=10)
    assert reader.read(watched.snapshot).return_updates == (*range(1, 41, 4), 40)
    assert len(read) == 11
    read.clear()
    writer = kit.journal(run, [])
    writer.append(kit.event(kit.update(41, NAN, non_finite=3, health=HealthLevel.NON_FINITE), at=41))
    series = reader.read(watched.snapshot)
    assert read == [41]  # with more of them every eighth is read whole, which were read already
    assert series.return_updates == (*range(1, 41, 8), 41)
    assert series.broken == (41,)
    writer.close()
    again = [kit.event(kit.started(first_update_id=31), at=50, attempt=2)]
    again += [kit.event(kit.update(n, 0.02), at=50 + n, attempt=2) for n in range(31, 34)]
    kit.journal(run, again, attempt=2).close()
    series = reader.read(watched.snapshot)
    assert (series.resumes, series.broken, series.updates[-1]) == ((31,), (), 33)
    assert read == [41, 5, 13, 21, 29, 33]  # with fewer of them every fourth is read whole again
    fresh = SeriesReader(watched.source, points=10).read(watched.snapshot)
    assert fresh == series
