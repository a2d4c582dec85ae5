"""Every row of the health panel, driven through every state it can have."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from esper_core.events import HeadStats
from esper_core.reading.glyphs import LEVELS
from esper_core.reading.rows import METRICS, absence, metric
from esper_sink_tui.lines import plain_text
from esper_sink_tui.panels.health import health_panel, metric_row

if TYPE_CHECKING:
    from sanctum_kit import Kit

NAN = math.nan
BELOW_WARN = math.nextafter(0.015, 0)
BELOW_CRIT = math.nextafter(0.03, 0)
# What each row shows for which value, after seven calm updates whose relative numbers were all 1.
STATES: dict[str, list[tuple[float | None, str]]] = {
    "kl_divergence": [
        (0.004, "ok"),
        (BELOW_WARN, "ok"),
        (0.014996, "ok"),
        (0.015, "warn"),
        (BELOW_CRIT, "warn"),
        (0.03, "crit"),
        (NAN, "NaN/Inf"),
        (None, "wait"),
    ],
    "clip_fraction": [(0.2499, "ok"), (0.25, "warn"), (0.30, "crit"), (math.inf, "NaN/Inf"), (None, "wait")],
    "entropy_normalised": [(0.31, "ok"), (0.30, "warn"), (0.10, "crit"), (NAN, "NaN/Inf"), (None, "wait")],
    "explained_variance": [
        (0.31, "ok"),
        (0.30, "warn"),
        (0.0, "crit"),
        (-3.0, "crit"),
        (NAN, "NaN/Inf"),
        (None, "wait"),
    ],
    "grad_norm": [(2.9, "ok"), (3.0, "warn"), (10.0, "crit"), (math.inf, "NaN/Inf"), (None, "wait")],
    "advantage_std": [(2.9, "ok"), (3.0, "warn"), (10.0, "crit"), (NAN, "NaN/Inf"), (None, "wait")],
    "value_loss": [(2.9, "ok"), (3.0, "warn"), (10.0, "crit"), (-math.inf, "NaN/Inf"), (None, "wait")],
    "policy_loss": [(0.5, "ok"), (-0.5, "ok"), (NAN, "NaN/Inf"), (None, "wait")],
}


def driven(kit: Kit, key: str, value: float | None) -> Any:
    calm = {"grad_norm": 1.0, "advantage_std": 1.0, "value_loss": 1.0}
    events = [kit.event(kit.update(number, **calm), at=number) for number in range(1, 8)]
    events.append(kit.event(kit.update(8, value) if key == "kl_divergence" else kit.update(8, **{key: value}), at=8))
    return kit.fed(events).snapshot().tamiyo


@pytest.mark.parametrize(
    ("key", "value", "word"), [(key, value, word) for key, cases in STATES.items() for value, word in cases]
)
def test_each_row_goes_through_its_states(kit: Kit, key: str, value: float | None, word: str) -> None:
    state = driven(kit, key, value)
    text = plain_text(metric_row(metric(key), state))
    sign = next(sign for sign in LEVELS.values() if sign.word == word)
    assert text.endswith(f"{sign.glyph} {word}")
    shown = text[14:24].strip()
    assert (shown == "—") == (value is None)
    assert (shown == "non-finite") == (value is not None and not math.isfinite(value))
    assert text[25:35][-1] == {"wait": "·", "NaN/Inf": "\u00d7"}.get(word, text[34])


def test_every_row_of_the_panel_is_driven() -> None:
    assert set(STATES) == {item.key for item in METRICS}


def test_limits_are_printed_beside_the_value(kit: Kit) -> None:
    state = driven(kit, "grad_norm", 3.0)
    assert "0.015 / 0.030" in plain_text(metric_row(metric("kl_divergence"), state))
    assert "3.00 / 10.00" in plain_text(metric_row(metric("grad_norm"), state))
    empty = kit.fed([]).snapshot().tamiyo
    assert "3x / 10x med." in plain_text(metric_row(metric("grad_norm"), empty))


def test_a_value_just_below_a_limit_never_reads_as_the_limit(kit: Kit) -> None:
    assert "0.014996" in plain_text(metric_row(metric("kl_divergence"), driven(kit, "kl_divergence", 0.014996)))
    assert "  0.015 " in plain_text(metric_row(metric("kl_divergence"), driven(kit, "kl_divergence", 0.015)))


def test_rows_before_the_first_update_wait(kit: Kit) -> None:
    state = kit.fed([]).snapshot().tamiyo
    for item in METRICS:
        assert plain_text(metric_row(item, state)).endswith("… wait")


def unreported(kit: Kit, count: int, **values: Any) -> Any:
    """A loop that reports no gradient norm."""
    events = [kit.event(kit.update(number, grad_norm=None, **values), at=number) for number in range(1, count + 1)]
    return kit.fed(events).snapshot()


def test_a_number_that_a_loop_never_reports_is_not_waited_for(kit: Kit) -> None:
    row = metric("grad_norm")
    assert absence(row, unreported(kit, 2), ended=False) == ""  # the judged window is not full: it may come
    assert absence(row, unreported(kit, 2), ended=True) == "not reported"
    snapshot = unreported(kit, 3)
    assert absence(row, snapshot, ended=False) == "not reported"
    assert absence(metric("value_loss"), snapshot, ended=True) == ""
    text = plain_text(metric_row(row, snapshot.tamiyo, absent="not reported"))
    assert "not reported" in text
    assert "wait" not in text
    assert plain_text(metric_row(row, snapshot.tamiyo, 30, absent="not reported")).endswith("  not reported")
    model = kit.model([kit.event(kit.update(number, grad_norm=None), at=number) for number in range(1, 4)])
    shown = [plain_text(item) for item in health_panel(model, 67, 12)]
    assert next(item for item in shown if "grad norm" in item).split("│")[1].split() == [
        "grad",
        "norm",
        "—",
        "not",
        "reported",
        "—",
    ]


def test_a_number_reported_now_and_then_is_waited_for(kit: Kit) -> None:
    events = [
        kit.event(kit.update(number, grad_norm=1.0 if number == 1 else None), at=number) for number in range(1, 6)
    ]
    assert absence(metric("grad_norm"), kit.fed(events).snapshot(), ended=False) == ""


def test_an_update_may_say_itself_that_a_number_will_not_come(kit: Kit) -> None:
    loop = unreported(kit, 1, kl=None, kl_measured="in_loop", kl_last=0.01)
    assert absence(metric("kl_divergence"), loop, ended=False) == "not reported"
    density = unreported(kit, 1, entropy_normalised=None, heads=(HeadStats(name="joint", kind="gaussian"),))
    assert absence(metric("entropy_normalised"), density, ended=False) == "not defined"


def test_one_sample_draws_one_sign(kit: Kit) -> None:
    state = kit.fed([kit.event(kit.update(1, 0.02), at=1)]).snapshot().tamiyo
    assert plain_text(metric_row(metric("kl_divergence"), state))[25:37] == "         ▄  "
