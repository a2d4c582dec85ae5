"""Numbers, sparklines, trends and lines: pure functions by table."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_core.health import HealthLevel, RunState, VerdictKind
from esper_core.reading import glyphs
from esper_core.reading.glyphs import NON_FINITE, to_ascii
from esper_core.reading.numbers import age, clock, count, duration, percent, plain, rate
from esper_core.reading.trend import arrow, trend
from esper_core.terminal import one_line
from esper_sink_tui.lines import ascii_line, fit, frame, line, pad, plain_text, width_of
from esper_sink_tui.spark import glyph, marks, spark

NAN, INF = math.nan, math.inf
TOP = 0.045


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([], " " * 10),
        ([0.0], " " * 9 + "▁"),
        ([0.02], " " * 9 + "▄"),
        ([None, 0.0, 0.015, 0.03, 0.045, 1.0, -1.0], "   ·▁▃▆██▁"),
        ([NAN, INF, -INF], " " * 7 + NON_FINITE * 3),
        ([0.02] * 30, "▄" * 10),
        ([0.0200, 0.0201], " " * 8 + "▄▄"),  # a drift of 1e-4 is not a crisis
    ],
)
def test_a_sparkline_has_a_fixed_range(values: list[float | None], shown: str) -> None:
    assert spark(values, 0.0, TOP) == shown


@given(st.lists(st.one_of(st.none(), st.floats()), max_size=40), st.integers(1, 20))
def test_a_sparkline_is_always_as_wide_as_asked(values: list[float | None], width: int) -> None:
    assert len(spark(values, 0.0, TOP, width)) == width


def test_a_range_without_extent_draws_the_lowest_sign() -> None:
    assert glyph(3.0, 1.0, 1.0) == "▁"


def test_marks_stand_beneath_the_sparkline() -> None:
    assert marks([False, True, True]) == " " * 8 + "▴▴"
    assert marks([True] * 12) == "▴" * 10


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([], ""),
        ([0.01], ""),
        ([0.01] * 4, ""),
        ([0.01] * 5, "steady"),
        ([0.01, 0.01, 0.02, 0.02, 0.02], "rising"),
        ([0.02, 0.02, 0.01, 0.01, 0.01], "falling"),
        ([0.010, 0.010, 0.0108, 0.0108, 0.0108], "steady"),  # within 0.001
        ([0.100, 0.100, 0.109, 0.109, 0.109], "steady"),  # within a tenth
        ([0.01, NAN, 0.01, None, 0.02, 0.02, INF, 0.02], "rising"),
        ([0.01, 0.01, 0.02, 0.02, 0.02, NAN], ""),  # the newest has no direction
        ([NAN] * 10, ""),
        ([-1.0, -1.0, -0.5, -0.5, -0.5], "rising"),
    ],
)
def test_the_trend_is_the_direction_of_the_number(values: list[float | None], found: str) -> None:
    assert trend(values) == found
    assert arrow(values) == {"rising": "↑", "falling": "↓", "steady": "→", "": " "}[found]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (plain(None, 2), "—"),
        (plain(0.0, 2), "0.00"),
        (plain(-0.0001, 2), "0.00"),
        (plain(NAN, 2), "non-finite"),
        (plain(1.5, 2), "1.50"),
        (plain(-12345678.0, 2), "-1.23e+07"),
        (percent(0.214), "21.4%"),
        (percent(None), "—"),
        (percent(INF), "non-finite"),
        (count(None), "—"),
        (count(9999), "9999"),
        (count(1234567), "1,234,567"),
        (rate(None), "—"),
        (rate(0.0), "0.00"),
        (rate(18.44), "18.4"),
        (rate(184.0), "184"),
        (rate(18400.0), "18.4k"),
        (rate(1.84e6), "1.84M"),
        (rate(2e9), "2.00G"),
        (rate(NAN), "non-finite"),
        (duration(None), "—"),
        (duration(-1.0), "0 ms"),
        (duration(0.41), "410 ms"),
        (duration(3.481), "3.48 s"),
        (duration(42.9), "42 s"),
        (duration(307.0), "5m07s"),
        (duration(5520.0), "1h32m"),
        (duration(270000.0), "3d03h"),
        (duration(INF), "non-finite"),
        (age(None), "—"),
        (age(0.9), "0 s"),
        (age(59.9), "59 s"),
        (age(NAN), "non-finite"),
        (clock(12 * 3600 * 10**9), "12:00:00"),
    ],
)
def test_numbers_as_text(text: str, shown: str) -> None:
    assert text == shown


@given(st.text(max_size=40), st.integers(0, 30))
def test_padding_gives_exactly_the_cells_asked_for(text: str, width: int) -> None:
    text = one_line(text)
    assert width_of(line(pad(text, width))) == width
    assert width_of(line(pad(text, width, "right"))) == width
    assert width_of(fit(line(text, ("x", "warn")), width)) == width


@given(st.text(max_size=60), st.integers(1, 60), st.integers(1, 8))
def test_a_frame_fills_its_cells_whatever_its_title(title: str, width: int, height: int) -> None:
    lines = frame(one_line(title), "hint", [line("body")], width, height)
    assert len(lines) == height
    assert {width_of(item) for item in lines} == {width}


def test_control_signs_from_outside_never_reach_the_terminal() -> None:
    assert one_line("a\x1b[2Jb\nc\u202ed\u200b") == r"a\u001b[2Jb c\u202ed\u200b"
    assert one_line("plain") == "plain"


@given(st.text(max_size=40))
def test_ascii_mode_is_ascii_and_keeps_the_width(text: str) -> None:
    one = line(one_line(text))
    assert plain_text(ascii_line(one)).isascii()
    assert width_of(ascii_line(one)) == width_of(one)


def test_at_least_takes_two_letters_and_a_space_of_the_same_line() -> None:
    """Kind 27: in ASCII "at least" became "more than", which is another limit."""
    table = line(("entropy → ", "dim"), ("≤0.30 / 0.10    ", "warn"), "● ok")
    assert plain_text(ascii_line(table)) == "entropy = <=0.30 / 0.10   * ok"
    assert [role for _, role in ascii_line(table)] == ["dim", "warn", ""]
    assert (
        plain_text(ascii_line(line("KL 0.02   warn≥0.015 crit≥0.030 upd 3"))) == "KL 0.02 warn>=0.015 crit>=0.030 upd 3"
    )
    assert plain_text(ascii_line(line("no room≥1"))) == "noroom>=1"
    assert plain_text(ascii_line(line("room≥12"))) == "room>=."  # cut rather than another limit


def test_every_sign_has_an_ascii_form_of_its_own() -> None:
    """Kind 27: in ASCII "rising" and "stopped" had one sign."""
    signs = {sign.glyph for table in (glyphs.LEVELS, glyphs.VERDICTS, glyphs.STATES) for sign in table.values()}
    signs |= {*glyphs.SPARK, glyphs.STOP, glyphs.MISSING, *glyphs.ARROWS.values(), "‖", "█", "─", "│"}
    assert all(to_ascii(sign).isascii() for sign in signs)
    assert {sign for sign in signs if to_ascii(sign) == "?"} == {"?"}
    levels = [to_ascii(sign.glyph) for sign in glyphs.LEVELS.values()]
    assert len(set(levels)) == len(levels)


def test_every_state_has_a_sign_and_a_word() -> None:
    assert set(glyphs.LEVELS) == set(HealthLevel)
    assert set(glyphs.VERDICTS) == set(VerdictKind)
    assert set(glyphs.STATES) == set(RunState)
    for table in (glyphs.LEVELS, glyphs.VERDICTS, glyphs.STATES):
        assert all(sign.glyph and sign.word for sign in table.values())
