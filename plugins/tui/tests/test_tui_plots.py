"""Plots draw everything: in cells, and on the canvas of the screens for whole runs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual_hires_canvas import Canvas

from esper_core.reading.glyphs import ABOVE, BELOW, NON_FINITE, RESUME, STOP, to_ascii
from esper_core.reading.series import headroom, read_series
from esper_core.reading.source import MemorySource
from esper_sink_tui.app import SanctumApp
from esper_sink_tui.chart import Rule, chart, column_of, ids_line, row_of
from esper_sink_tui.layout import Cell, cell_lines
from esper_sink_tui.lines import plain_text, width_of
from esper_sink_tui.screens.plots import PlotsScreen, legend_lines
from esper_sink_tui.watch import Watch
from esper_sink_tui.widgets.history_plot import HistoryPlot, WholeAxis

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from conftest import Kit

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
    lines = drawn([500.0] * 30, headroom([500.0] * 30))
    assert sum(len(item.strip()) == 20 for item in lines) == 1


def test_what_is_no_number_is_marked_and_breaks_the_line() -> None:
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
    ids.sort()
    text = ids_line(ids, width)
    assert len(text) == width
    words = text.split()
    assert len(set(words)) == len(words)
    assert all(int(word) in ids for word in words)
    assert all("  " in text[text.index(one) :] for one in words[:-1])


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_ticks_of_a_whole_run_are_whole_distinct_and_few(first: int, length: int) -> None:
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


async def test_a_history_grows_with_its_run_and_pairs_update_and_value(kit: Kit) -> None:
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
    events = [kit.event(kit.update(n, 0.02 if n == 399 else 0.004), at=n) for n in range(1, 401)]
    watch = Watch()
    watched = watch.add_run(kit.run(tmp_path, "run-a", events))
    assert watched is not None
    while watch.tick():
        pass
    series = read_series(watched.source, watched.snapshot, points=20)
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
