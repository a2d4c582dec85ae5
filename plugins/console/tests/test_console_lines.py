"""What a line says."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from esper_core.events import EarlyStop, HeadStats, PPOUpdatePayload
from esper_core.health import HealthLevel, classify_kl
from esper_core.reading.glyphs import to_ascii
from esper_core.reading.updateline import update_line
from esper_sink_console._lines import COMPACT_BELOW, advice, plain

if TYPE_CHECKING:
    from esper_core.reading.trend import Trend

HEADS = (HeadStats(name="slot", share=0.38), HeadStats(name="blueprint", share=0.62))


def update(kl: float | None = 0.0123, **fields: Any) -> PPOUpdatePayload:
    base: dict[str, Any] = {
        "update_id": 12,
        "kl_divergence": kl,
        "health": classify_kl(kl),
        "return_mean": 187.34,
        "steps_per_s": 8123.0,
        "epochs_planned": 4,
        "learning_rate": 3e-4,
        "heads": HEADS,
    }
    return PPOUpdatePayload(**{**base, **fields})


def line(payload: PPOUpdatePayload, direction: Trend = "", *, width: int = 120) -> str:
    return plain(update_line(payload, direction, compact=width < COMPACT_BELOW))


def second(payload: PPOUpdatePayload) -> str | None:
    found = advice(payload)
    return None if found is None else plain(found)


def test_a_line_tells_update_return_kl_direction_state_and_speed() -> None:
    assert line(update(), "rising") == (
        "update   12   return   187.3   KL 0.0123 ↑ ● healthy                         8.12k steps/s"
    )


def test_an_early_stop_stands_in_the_line() -> None:
    stopped = update(0.0172, outcome="early_stopped", early_stop=EarlyStop(epoch=3, minibatch=2, value=1, threshold=1))
    assert "▲ warning" in line(stopped)
    assert "early stop 3/4" in line(stopped)
    assert "  stop 3/4  " in line(stopped, width=80)


@pytest.mark.parametrize("kl", [None, 0.00001, 0.0123, 0.014996, 0.0299999, 0.4])
@pytest.mark.parametrize("width", [80, 120])
def test_a_line_fits_its_terminal_and_its_columns_stand(kl: float | None, width: int) -> None:
    stop = EarlyStop(epoch=10, minibatch=2, value=1, threshold=1)
    texts = [line(update(kl, early_stop=stop, epochs_planned=10), width=width), line(update(kl), width=width)]
    assert all(len(text) < width for text in texts)
    assert len({len(text) for text in texts}) == 1


def test_a_number_near_a_limit_shows_its_side() -> None:
    assert "KL 0.014996 ↓ ● healthy" in line(update(0.014996), "falling")


def test_nothing_measured_is_a_dash_and_never_a_zero() -> None:
    text = line(update(None, return_mean=None, steps_per_s=None))
    assert "return       —" in text
    assert "KL      —   … unknown" in text
    assert "0" not in text


def test_ascii_glyphs_hold_no_other_character() -> None:
    stop = EarlyStop(epoch=3, minibatch=2, value=1, threshold=1)
    for payload in (update(), update(None, return_mean=None), update(0.05, early_stop=stop), update(math.nan)):
        text = plain(update_line(payload, "rising", draw=to_ascii)) + plain(advice(payload, ascii_only=True) or ())
        assert text.isascii()


def test_a_healthy_update_needs_no_second_line() -> None:
    assert second(update()) is None


def test_the_second_line_names_the_head_and_one_thing_to_do() -> None:
    assert second(update(0.0172)) == (
        "↳ head blueprint carries 62% of the KL; the policy drifts: "
        "lower learning_rate to 0.0001 or use fewer epochs than 4"
    )


def test_warm_up_mutes_the_advice_of_a_warning_and_labels_a_critical() -> None:
    assert second(update(0.0172, update_id=3)) is None
    assert "▲ warning" in line(update(0.0172, update_id=3))
    critical = second(update(0.05, update_id=3))
    assert critical is not None
    assert critical.startswith("↳ warm-up; head blueprint carries 62% of the KL; the policy drifts too fast")
    assert second(update(0.0172, update_id=4)) is not None


def test_with_one_head_nobody_is_named() -> None:
    text = second(update(0.05, heads=(HeadStats(name="action", share=1.0),)))
    assert text is not None
    assert "action" not in text
    assert "too fast" in text


def test_an_early_stop_is_advised_even_while_healthy() -> None:
    text = second(update(0.01, early_stop=EarlyStop(epoch=1, minibatch=2, value=1, threshold=1)))
    assert text is not None
    assert "stopped within the first epoch" in text


def test_a_skipped_update_says_why() -> None:
    skipped = update(None, outcome="skipped", reason="no unforced step in the rollout")
    assert "skipped" in line(skipped)
    assert second(skipped) == "↳ no unforced step in the rollout"


def test_non_finite_is_said_in_words() -> None:
    text = line(update(math.nan, health=HealthLevel.NON_FINITE))
    assert "KL non-finite   × non-finite" in text  # noqa: RUF001  # the glyph


def test_the_second_line_is_about_the_head_at_critical_that_the_verdict_names() -> None:
    heads = (
        HeadStats(name="slot", kl=0.01, decisions=1000, share=0.62),
        HeadStats(name="tempo", kl=0.06, decisions=100, share=0.38),
    )
    assert second(update(0.0146, heads=heads)) == (
        "↳ head tempo drifts too fast behind calm ones: plan more rollout_steps, so that it decides more often, or "
        "lower learning_rate to 0.0001"
    )
    assert second(update(0.0172, heads=heads)) == (
        "↳ head tempo drifts too fast: lower learning_rate to 0.0001, or plan more rollout_steps"
    )
