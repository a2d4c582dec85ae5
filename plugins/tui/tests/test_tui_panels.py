"""Panels as text: a golden for each panel and two for whole screens, and what must be visible whatever else is.

``UPDATE_GOLDENS=1 pytest plugins/tui/tests/test_tui_panels.py`` writes the goldens anew; read the diff.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sanctum_app import text_of

from esper_core.events import Divergence, HeadStats, PolicyHealthChanged, RunStarted, SinkStatusChanged
from esper_core.health import HealthLevel, KLLimits, RunState, VerdictKind
from esper_core.reading.account import SinkAccount
from esper_core.reading.model import Frozen, RunRow
from esper_sink_tui.layout import Cell, cell_lines, layout, mode_of, screen_lines
from esper_sink_tui.lines import plain_text, width_of
from esper_sink_tui.panels import PANELS
from esper_sink_tui.panels.plot import plot_panel
from esper_sink_tui.panels.sinks import sinks_line, sinks_panel
from esper_sink_tui.widgets.axes import KLAxis

if TYPE_CHECKING:
    from sanctum_kit import Kit

    from esper_core.reading.model import ScreenModel
    from esper_sink_tui.lines import Line

GOLDENS = Path(__file__).parent / "goldens"
SINKS = (
    SinkAccount(name="journal", delivered=30),
    SinkAccount(name="otlp", state="failing", queued=812, capacity=1024, lost=17, lag_s=0.41),
    SinkAccount(name="console", queued=0, capacity=1024, lag_s=0.0),
)
RUNS = (
    RunRow(run_id="run-a", label="drift", state=RunState.LIVE, kind=VerdictKind.WARNING, updates=30, kl=0.0182),
    RunRow(run_id="run-b", label="calm", state=RunState.DONE, kind=VerdictKind.HEALTHY, updates=40, kl=0.0061),
    RunRow(run_id="run-c", label="gone", state=RunState.CRASHED, kind=VerdictKind.CRASHED, updates=7, kl=math.nan),
)


def nan_update(kit: Kit, number: int) -> Any:
    return kit.event(
        kit.update(number, math.nan, non_finite=64, grad_norm=math.inf, value_loss=math.nan), at=number * 3
    )


def diverging(kit: Kit) -> list[Any]:
    """Updates 13 and 14 of a run of tokens; the teacher is compared with in the first alone."""
    reference = Divergence(name="kl", per_decision=0.0042, per_step=0.0441)
    teacher = Divergence(
        name="distill\x1b[31m", reference="teacher", estimator="k1", direction="reference_policy", per_step=math.nan
    )
    tokens: dict[str, Any] = {"granularity": "token", "explained_variance": None}
    return [
        kit.event(kit.update(13, 0.004, divergences=(reference, teacher), **tokens), at=39),
        kit.event(kit.update(14, 0.004, divergences=(reference,), **tokens), at=42),
    ]


def models(kit: Kit) -> dict[str, ScreenModel]:
    """One model for each state that a screen can be in."""
    calm = [kit.event(kit.started(), at=0), *(kit.event(kit.update(n, 0.004), at=n * 3) for n in range(1, 13))]
    drift = kit.drift(30)
    stopped = [*calm, kit.event(kit.update(13, 0.006, early_stop=kit.stop(0.0231)), at=39)]
    return {
        "warning": kit.model(drift, sinks=SINKS, runs=RUNS),
        "empty": kit.model([]),
        "warm-up": kit.model(calm[:3]),
        "healthy-but-stopped": kit.model(stopped),
        "critical-crashed": kit.model(kit.drift(60), state=RunState.CRASHED),
        "non-finite": kit.model([*calm, nan_update(kit, 13)]),
        "stale": kit.model(calm, state=RunState.STALE, age=95.0),
        "frozen": kit.model(drift, frozen=Frozen(update_id=30, behind=12)),
        "entropy-by-head": kit.model(calm, head_view="entropy"),
        "divergences": kit.model([*calm, *diverging(kit)]),
    }


# What each panel's golden holds: states, at the sizes that the layouts give the panel. A new row of one panel changes
# one file here, and the two whole screens.
LIFE = ("warning", "empty", "warm-up", "healthy-but-stopped", "critical-crashed", "non-finite", "stale", "frozen")
STATES = (*LIFE, "entropy-by-head", "divergences")
PANEL_GOLDENS: dict[str, list[tuple[tuple[str, ...], tuple[int, int]]]] = {
    "banner": [(LIFE, (120, 4)), (("warning", "frozen"), (80, 4)), (("warning",), (60, 4))],
    "health": [
        (("warning", "empty", "non-finite"), (67, 12)),
        (("warning", "stale"), (80, 9)),
        (("warning",), (60, 12)),
    ],
    "plot": [(("warning", "empty", "non-finite"), (53, 12)), (("critical-crashed",), (33, 12))],
    "heads": [(("warning", "empty", "entropy-by-head"), (67, 8)), (("warning",), (80, 5))],
    "divergences": [(("divergences", "warning"), (53, 6)), (("divergences",), (53, 4)), (("divergences",), (33, 6))],
    "throughput": [(("warning", "empty"), (53, 8)), (("critical-crashed",), (33, 8))],
    "runs": [(("warning", "empty"), (67, 6))],
    "sinks": [(("warning", "empty"), (53, 6)), (("critical-crashed",), (33, 6))],
    "events": [(("warning", "non-finite"), (120, 5)), (("warning",), (80, 3))],
    "strip": [(("warning", "empty"), (80, 2))],
    "line": [(LIFE, (39, 1))],
}


def same_as_golden(name: str, text: str) -> None:
    """Compare with a file of the folder ``goldens``, spaces at the ends of lines aside."""
    path = GOLDENS / f"{name}.txt"
    shown = "\n".join(item.rstrip() for item in text.splitlines()) + "\n"
    if os.environ.get("UPDATE_GOLDENS"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(shown, encoding="utf-8")
    assert shown == path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "size", "ascii_only"), [("screen-wide", (120, 35), False), ("screen-compact-ascii", (80, 23), True)]
)
def test_two_whole_screens_are_the_golden_ones(kit: Kit, name: str, size: tuple[int, int], ascii_only: bool) -> None:
    same_as_golden(name, text_of(models(kit)["warning"], *size, ascii_only=ascii_only))


@pytest.mark.parametrize("name", sorted(PANEL_GOLDENS))
def test_each_panel_is_the_golden_one(kit: Kit, name: str) -> None:
    known = models(kit)
    parts = []
    for states, (width, height) in PANEL_GOLDENS[name]:
        for state in states:
            lines = cell_lines(known[state], Cell(name, 0, 0, width, height))
            parts += [f"== {state}, {width}x{height}", *(plain_text(item) for item in lines), ""]
    same_as_golden(f"panels/{name}", "\n".join(parts))


def test_every_panel_has_a_golden() -> None:
    assert set(PANEL_GOLDENS) == {*PANELS, "strip", "line"}


def test_the_banner_s_colours_are_the_golden_ones(kit: Kit) -> None:
    """The roles that the themes colour, in each state."""
    parts = []
    for state, model in models(kit).items():
        parts += [f"== {state}"]
        for item in cell_lines(model, Cell("banner", 0, 0, 120, 4)):
            parts += [f"{role or '-':10} {text.strip()}" for text, role in item if text.strip()]
    same_as_golden("panels/banner-roles", "\n".join(parts))


@pytest.mark.parametrize("size", [(120, 35), (100, 34), (80, 23), (60, 16), (39, 5)])
@pytest.mark.parametrize("state", STATES)
def test_every_state_fills_every_size_exactly(kit: Kit, state: str, size: tuple[int, int]) -> None:
    lines = screen_lines(models(kit)[state], *size)
    assert {width_of(item) for item in lines} == {size[0]}
    assert 1 <= len(lines) <= size[1]


@pytest.mark.parametrize(
    ("size", "mode"),
    [
        ((120, 36), "wide"),
        ((100, 34), "wide"),
        ((99, 50), "compact"),
        ((120, 33), "compact"),
        ((80, 24), "compact"),
        ((79, 24), "small"),
        ((80, 21), "small"),
        ((40, 6), "small"),
        ((39, 24), "line"),
        ((120, 5), "line"),
        ((1, 1), "line"),
    ],
)
def test_the_size_alone_decides_the_layout(size: tuple[int, int], mode: str) -> None:
    assert mode_of(*size) == mode
    cells = layout(*size, divergences=True)
    taken = {
        (x, y)
        for cell in cells
        for x in range(cell.x, cell.x + cell.width)
        for y in range(cell.y, cell.y + cell.height)
    }
    assert len(taken) == sum(cell.width * cell.height for cell in cells)  # no panel covers another
    assert max(y for _, y in taken) < max(size[1] - 1, 1)  # the footer's row stays free
    assert all(cell.height >= 1 for cell in cells)


def test_a_run_with_divergences_has_their_panel_and_others_have_none(kit: Kit) -> None:
    shown, calm = models(kit)["divergences"], models(kit)["warning"]
    text = text_of(shown)
    assert "OTHER DIVERGENCES" in text
    assert "KL(policy || reference_model), k3" in text
    assert "\x1b" not in text
    assert "OTHER DIVERGENCES" not in text_of(calm)
    assert shown.verdict.kind is VerdictKind.HEALTHY  # they never set a level, not even NaN
    zoomed = cell_lines(shown, Cell("health", 0, 0, 80, 40))
    assert any("KL(teacher || policy), k1, of update 13" in plain_text(item) for item in zoomed)
    widths = {cell.name: cell.width for cell in layout(200, 60, divergences=True)}
    assert widths["events"] > 2 * widths["divergences"], "lines of events are long, those of divergences are not"
    names = [cell.name for cell in layout(120, 35, divergences=True)]
    assert sorted(set(names)) == sorted(names) == sorted([*PANELS])


@pytest.mark.parametrize("name", sorted(PANELS))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(width=st.integers(1, 200), height=st.integers(1, 60), updates=st.integers(0, 14))
def test_a_panel_fills_exactly_its_cells_whatever_the_data(
    kit: Kit, name: str, width: int, height: int, updates: int
) -> None:
    model = kit.model(kit.drift(updates), sinks=SINKS, runs=RUNS)
    lines = cell_lines(model, Cell(name, 0, 0, width, height))
    assert len(lines) == height
    assert {width_of(item) for item in lines} == {width}


@pytest.mark.parametrize("size", [(120, 35), (80, 23), (60, 16)])
def test_an_early_stop_is_seen_at_a_healthy_level(kit: Kit, size: tuple[int, int]) -> None:
    stop = kit.stop(0.0019, threshold=0.0015, epoch=1, minibatch=2)
    events = [kit.event(kit.update(n, 0.0012, early_stop=stop if n % 3 == 0 else None), at=n) for n in range(1, 13)]
    model = kit.model(events)
    assert model.verdict.kind is VerdictKind.HEALTHY
    text = text_of(model, *size)
    banner = text.splitlines()[3]
    assert "stopped 4 of last 10" in banner
    assert "epoch 1" in banner
    assert "0.0019 > 0.0015" in banner
    if size[0] > 60:
        assert "tempo" in banner
        assert "0.0012" in banner  # the KL after the last step
    marks = text.splitlines()[7]
    assert marks.count("▴") >= 4
    if size[0] > 60:
        assert "▴ stop" in text  # its event


def test_a_stop_that_is_past_is_still_counted(kit: Kit) -> None:
    events = [kit.event(kit.update(n, early_stop=kit.stop(0.03) if n == 2 else None), at=n) for n in range(1, 6)]
    assert "▴ stopped 1 of last 5; stops if weighted KL > 0.0225 (1.5 x target_kl 0.015)" in text_of(kit.model(events))


def test_the_banner_says_that_early_stopping_is_off(kit: Kit) -> None:
    off: dict[str, Any] = {"target_kl": None, "stop_threshold": None}
    events = [kit.event(kit.started(**off), at=0), kit.event(kit.update(1, **off), at=1)]
    assert "early stop is off" in text_of(kit.model(events))


def test_the_age_of_the_data_is_visible_at_every_size(kit: Kit) -> None:
    model = kit.model(kit.drift(30), age=7.0)
    for size in ((120, 35), (100, 34), (80, 23), (60, 16), (40, 6), (39, 5)):
        assert "7 s" in text_of(model, *size), size


def test_missing_reads_otherwise_than_zero(kit: Kit) -> None:
    missing = text_of(kit.model([kit.event(kit.update(1, None), at=1)])).splitlines()[6]
    zero = text_of(kit.model([kit.event(kit.update(1, 0.0), at=1)])).splitlines()[6]
    assert "—" in missing
    assert "·" in missing
    assert " 0.000 " in zero
    assert "▁" in zero


def test_the_head_that_carries_the_drift_is_named(kit: Kit) -> None:
    text = text_of(kit.model(kit.drift(30)))
    assert "KL BY HEAD ──────────────────────────────── tempo carries 61%" in text
    assert "head tempo carries 61%" in text.splitlines()[1]


def test_heads_show_entropy_and_clip_on_request(kit: Kit) -> None:
    text = text_of(kit.model(kit.drift(5), head_view="entropy"))
    assert "ENTROPY AND CLIP BY HEAD" in text
    row = next(item for item in text.splitlines() if item.startswith("│ tempo "))
    assert "0.500" in row
    assert "10.0%" in row


def test_an_idle_head_is_idle_and_not_zero(kit: Kit) -> None:
    heads = (HeadStats(name="slot", kl=0.01, share=1.0, weight=1.0, decisions=4), HeadStats(name="tempo"))
    text = text_of(kit.model([kit.event(kit.update(1, 0.01, heads=heads), at=1)]))
    row = next(item for item in text.splitlines() if item.startswith("│ tempo "))
    assert "· idle" in row
    assert "0.0000" not in row


def test_a_density_has_an_undefined_entropy_and_does_not_wait_for_one(kit: Kit) -> None:
    arm, gear = (
        HeadStats(name="arm", kind="gaussian", kl=0.01, share=0.9, weight=1.0, decisions=4, entropy=-1.25),
        HeadStats(name="gear", kl=0.01, share=0.1, weight=1.0, decisions=4, entropy=0.5, entropy_normalised=0.7),
    )
    for heads, rest in (((arm,), None), ((arm, gear), 0.7)):
        update = kit.update(1, 0.01, heads=heads, entropy=-1.25, entropy_normalised=rest)
        model = kit.model([kit.event(update, at=1)], head_view="entropy")
        rows = text_of(model).splitlines()
        row = next(item for item in rows if item.startswith("│ arm "))
        assert "-1.2 nats" in row
        assert "not defined" in row
        assert "— n/a" in row
        health = next(item for item in rows if "entropy 0..1" in item)
        assert ("not defined" in health) is (rest is None)
        assert "wait" not in health
    assert any("0.700" in item for item in rows if item.startswith("│ gear "))


def test_more_heads_than_room_are_counted(kit: Kit) -> None:
    heads = tuple(HeadStats(name=f"head{n}", kl=0.001, share=0.05, weight=1.0, decisions=4) for n in range(20))
    model = kit.model([kit.event(kit.update(1, heads=heads), at=1)])
    assert "and 16 more" in text_of(model)
    assert "more" not in "".join(plain_text(item) for item in cell_lines(model, Cell("heads", 0, 0, 67, 40)))


def test_a_zoomed_health_panel_shows_every_number_of_the_update(kit: Kit) -> None:
    model = kit.model(kit.drift(5))
    text = "\n".join(plain_text(item) for item in cell_lines(model, Cell("health", 0, 4, 120, 31)))
    assert "every number of update 5, attempt 1" in text
    for name in ("kl_joint", "ratio_max", "minibatches_planned", "advantage_mean", "episode_length_mean"):
        assert name in text
    reason = "KL (weighted) 0.0376735 > 0.03 at epoch 9, minibatch 1"
    model = kit.model([kit.event(kit.update(1, reason=reason, outcome="early_stopped"), at=1)])
    rows = [plain_text(item) for item in cell_lines(model, Cell("health", 0, 4, 120, 31))]
    assert any(reason in item for item in rows), "long values were cut"


def test_lost_and_corrupt_are_shown(kit: Kit) -> None:
    model = kit.model(kit.drift(5), sinks=SINKS, corrupt=2)
    text = text_of(model)
    assert "events lost by sinks: otlp 17" in text
    assert "3 on, 2 unread" in text
    assert model.verdict.kind is VerdictKind.LOSSY


def test_names_from_outside_cannot_draw(kit: Kit) -> None:
    events = [
        kit.event(kit.started(run_name="\x1b[31mred\x1b[0m\nrm", environment="\x07bell"), at=0),
        kit.event(kit.update(1, heads=(HeadStats(name="\x1b]0;x\x07日本語", kl=0.001, share=1.0),)), at=1),
        kit.event(SinkStatusChanged(sink="\x1b[2J", state="failing", message="line\r\nbreak"), at=2),
    ]
    for size in ((120, 35), (80, 23)):
        text = text_of(kit.model(events), *size)
        assert all(sign.isprintable() or sign == "\n" for sign in text)


def test_events_can_be_filtered_to_the_notable(kit: Kit) -> None:
    calm = [kit.event(kit.update(n), at=n) for n in range(1, 4)]
    change = PolicyHealthChanged(
        previous=HealthLevel.HEALTHY, current=HealthLevel.WARNING, update_id=3, kl_divergence=0.02, head="tempo"
    )
    model = kit.model([*calm, kit.event(change, at=4)], event_filter="notable")
    lines = [plain_text(item) for item in cell_lines(model, Cell("events", 0, 0, 100, 10))]
    assert "level rose from healthy to warning at KL 0.0200, head tempo" in lines[1]
    assert "ppo.update" not in "".join(lines)


def test_nothing_moves_between_two_refreshes(kit: Kit) -> None:
    """Columns begin at the same cell whatever the numbers are."""
    first = text_of(kit.model(kit.drift(3))).splitlines()
    later = text_of(kit.model(kit.drift(59))).splitlines()
    for row in (4, 5, 16, 17, 24, 25):
        assert [place for place, sign in enumerate(first[row]) if sign in "┌┐│└┘"] == [
            place for place, sign in enumerate(later[row]) if sign in "┌┐│└┘"
        ]
    assert first[5][:67] == later[5][:67]
    assert first[0].index("warn ≥") == later[0].index("warn ≥")


@pytest.mark.parametrize(
    ("warning", "critical", "rows", "shown"),
    [
        (0.015, 0.03, 9, [".045", ".038", ".033", "crit .030", "", "warn .015", ".012", ".007", ".002"]),
        (0.5, 1.0, 6, ["1.50", "1.14", "crit 1.000", "warn .500", ".36", ""]),
        (20.0, 40.0, 7, ["60", "48", "crit 40.000", "30", "warn 20.000", "12", ""]),
        (0.0005, 0.001, 4, [".00150", "crit .001", "warn .0005", ".00015"]),
        (5e-10, 1e-9, 4, ["1.5e-09", "crit 1e-09", "warn 5e-10", "1.5e-10"]),
        (0.0299, 0.0302, 4, [".045", "warn/crit", "", ".005"]),
    ],
)
def test_the_axis_of_the_text_plot_reads_right_for_any_limits(
    kit: Kit, warning: float, critical: float, rows: int, shown: list[str]
) -> None:
    limits = KLLimits(warning=warning, critical=critical)
    started = RunStarted(environment="x", kl_warning=warning, kl_critical=critical)
    model = kit.model(
        [kit.event(started, at=0), kit.event(kit.update(1, warning / 2, return_mean=None, return_mean_100=None), at=1)]
    )
    assert model.snapshot.tamiyo.limits == limits
    text = [plain_text(item) for item in plot_panel(model, 53, rows + 4)]
    assert [item.split("│")[1].strip().replace("stop", "") for item in text[1 : rows + 1]] == shown
    assert len({len(item) for item in text}) == 1


def test_the_axis_of_the_plot_shows_small_limits() -> None:
    axis = KLAxis(KLLimits(warning=5e-10, critical=1e-9))
    assert axis.get_labels_for_ticks([0.0, 5e-10, 1e-9]) == [".0000", "warn 5e-10", "crit 1e-09"]
    assert KLAxis(KLLimits()).get_labels_for_ticks([0.015, 0.045]) == ["warn .0150", ".0450"]


def joined_text(lines: list[Line]) -> str:
    return "\n".join(plain_text(item) for item in lines)


def test_sinks_of_a_trainer_that_is_gone_are_not_ok(kit: Kit) -> None:
    """Nobody tells of them any more; what failed before still failed."""
    for state, calm in ((RunState.CRASHED, "… was ok"), (RunState.STALE, "… was ok"), (RunState.LIVE, "● ok")):
        text = joined_text(sinks_panel(kit.model(kit.drift(3), state=state, sinks=SINKS), 60, 8))
        assert calm in text
        assert "▲ failing" in text
        model = kit.model(kit.drift(3), state=state)
        assert plain_text(sinks_line(model)) == f" sinks 1 {calm.replace('was', 'were')}"


def test_a_zoomed_panel_does_not_offer_to_zoom(kit: Kit) -> None:
    heads = tuple(HeadStats(name=f"head-{n}", kl=0.001, decisions=1, weight=1.0, share=0.01) for n in range(90))
    model = kit.model([kit.event(kit.started()), kit.event(kit.update(1, heads=heads), at=1)])
    for name in ("health", "heads", "divergences", "events"):
        small, zoomed = (joined_text(cell_lines(model, Cell(name, 0, 0, 100, 12, zoomed=on))) for on in (False, True))
        assert not any(word in zoomed for word in ("z zoom", "enter all"))
        assert name == "divergences" or any(word in small for word in ("z zoom", "enter all"))
