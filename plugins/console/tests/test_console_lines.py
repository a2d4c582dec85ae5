"""What a line says."""

from __future__ import annotations

import math
from typing import Any

import pytest

from esper_core.events import EarlyStop, HeadStats, PPOUpdatePayload, SinkStatusChanged
from esper_core.health import HealthLevel, classify_kl
from esper_sink_console._lines import ASCII, UNICODE, advice, plain, short_count, status_line, trend, update_line

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


def line(payload: PPOUpdatePayload, *, before: float | None = None, width: int | None = None) -> str:
    return plain(update_line(payload, before=before, glyphs=UNICODE, width=width))


def second(payload: PPOUpdatePayload) -> str | None:
    found = advice(payload, UNICODE)
    return None if found is None else plain(found)


def test_a_line_tells_update_return_kl_direction_state_and_speed() -> None:
    assert line(update(), before=0.01) == (
        "update   12   return   187.3   KL 0.0123 ↑ ● healthy                         8.1k steps/s"
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
    assert "KL 0.014996 ↓ ● healthy" in line(update(0.014996), before=0.02)


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (None, 0.01, " "),
        (0.01, None, " "),
        (math.nan, 0.01, " "),
        (0.01, 0.0102, "→"),
        (0.010, 0.012, "↑"),
        (0.012, 0.010, "↓"),
        (0.00001, 0.0004, "→"),
    ],
)
def test_the_arrow_is_the_direction_of_the_number_alone(before: float | None, now: float | None, expected: str) -> None:
    assert trend(before, now, UNICODE) == expected


def test_nothing_measured_is_a_dash_and_never_a_zero() -> None:
    text = line(update(None, return_mean=None, steps_per_s=None))
    assert "return       —" in text
    assert "KL      —   ◌ unknown" in text
    assert "0" not in text


def test_ascii_glyphs_hold_no_other_character() -> None:
    stop = EarlyStop(epoch=3, minibatch=2, value=1, threshold=1)
    for payload in (update(), update(None, return_mean=None), update(0.05, early_stop=stop), update(math.nan)):
        text = plain(update_line(payload, before=0.01, glyphs=ASCII)) + plain(advice(payload, ASCII) or ())
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


def test_a_sink_in_trouble_is_named_with_its_origin() -> None:
    status = SinkStatusChanged(
        sink="otlp", distribution="esper-sink-otlp", version="0.1.0", state="cut_off", lost=3, message="slow"
    )
    shown = status_line(status)
    assert shown is not None
    assert plain(shown) == "sink otlp (esper-sink-otlp 0.1.0) cut off, 3 events lost: slow"
    assert status_line(SinkStatusChanged(sink="otlp", state="closed")) is None


@pytest.mark.parametrize(
    ("number", "text"),
    [(None, "—"), (math.inf, "—"), (950, "950"), (8123, "8.1k"), (12_345, "12k"), (1_500_000, "1.5M")],
)
def test_counts_are_short(number: float | None, text: str) -> None:
    assert short_count(number) == text
