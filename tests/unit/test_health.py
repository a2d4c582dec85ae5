"""Limits, levels, verdicts, suggestions and the number as text: tables and properties."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_core.health import (
    HEALTH_WINDOW,
    WARM_UP_UPDATES,
    HealthLevel,
    RunState,
    TUIThresholds,
    VerdictInput,
    VerdictKind,
    classify_clip_fraction,
    classify_entropy,
    classify_explained_variance,
    classify_kl,
    classify_relative,
    format_kl,
    state_suggestion,
    suggestion,
    update_level,
    verdict,
    verdict_level,
    worst,
)

if TYPE_CHECKING:
    from collections.abc import Callable

H = HealthLevel
finite = st.floats(allow_nan=False, allow_infinity=False)
below = math.nextafter


# --- levels -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kl", "level"),
    [
        (None, H.UNKNOWN),
        (0.0, H.HEALTHY),
        (-1e-9, H.HEALTHY),
        (0.014996, H.HEALTHY),
        (below(0.015, 0), H.HEALTHY),
        (0.015, H.WARNING),
        (0.029999999, H.WARNING),
        (below(0.03, 0), H.WARNING),
        (0.03, H.CRITICAL),
        (1e9, H.CRITICAL),
        (math.nan, H.NON_FINITE),
        (math.inf, H.NON_FINITE),
        (-math.inf, H.NON_FINITE),
    ],
)
def test_kl_levels_include_their_lower_limit(kl: float | None, level: HealthLevel) -> None:
    assert classify_kl(kl) is level


@pytest.mark.parametrize(
    ("kl", "non_finite", "measured", "level"),
    [
        (0.5, 0, "after_last_step", H.CRITICAL),
        (0.5, 0, "in_loop", H.UNKNOWN),
        (0.5, 0, "none", H.UNKNOWN),
        (0.001, 0, "in_loop", H.UNKNOWN),
        (0.001, 1, "in_loop", H.NON_FINITE),
        (None, 0, "after_last_step", H.UNKNOWN),
    ],
)
def test_only_a_kl_measured_after_the_last_step_sets_a_level(
    kl: float | None, non_finite: int, measured: str, level: HealthLevel
) -> None:
    assert update_level(kl, kl_joint=kl, non_finite=non_finite, kl_measured=measured) is level


@pytest.mark.parametrize(
    ("classify", "value", "level"),
    [
        (classify_clip_fraction, 0.249, H.HEALTHY),
        (classify_clip_fraction, 0.25, H.WARNING),
        (classify_clip_fraction, 0.30, H.CRITICAL),
        (classify_entropy, 0.301, H.HEALTHY),
        (classify_entropy, 0.30, H.WARNING),
        (classify_entropy, 0.10, H.CRITICAL),
        (classify_entropy, 0.0, H.CRITICAL),
        (classify_explained_variance, 0.9, H.HEALTHY),
        (classify_explained_variance, 0.30, H.WARNING),
        (classify_explained_variance, 0.0, H.CRITICAL),
        (classify_explained_variance, -3.0, H.CRITICAL),
        (classify_clip_fraction, None, H.UNKNOWN),
        (classify_entropy, math.nan, H.NON_FINITE),
        (classify_explained_variance, None, H.UNKNOWN),
    ],
)
def test_the_other_rows_have_absolute_limits(
    classify: Callable[[float | None], HealthLevel], value: float | None, level: HealthLevel
) -> None:
    assert classify(value) is level


@pytest.mark.parametrize(
    ("value", "history", "level"),
    [
        (1.0, [1.0] * 4, H.UNKNOWN),  # too little to compare with
        (1.0, [1.0] * 5, H.HEALTHY),
        (3.0, [1.0] * 5, H.WARNING),
        (10.0, [1.0] * 5, H.CRITICAL),
        (2.9, [1.0] * 5, H.HEALTHY),
        (6.0, [1.0, 1.0, 2.0, 3.0, 9.0], H.WARNING),  # the median is 2
        (5.0, [1.0, 1.0, 1.0, 3.0, 3.0, 3.0], H.HEALTHY),  # an even history: the median is 2
        (6.0, [1.0, 1.0, 1.0, 3.0, 3.0, 3.0], H.WARNING),
        (1.0, [0.0] * 9, H.UNKNOWN),
        (1.0, [None, math.nan, 1.0, 1.0, 1.0, 1.0], H.UNKNOWN),
        (None, [1.0] * 9, H.UNKNOWN),
        (math.inf, [], H.NON_FINITE),
    ],
)
def test_gradient_norm_and_advantages_are_judged_against_their_own_median(
    value: float | None, history: list[float | None], level: HealthLevel
) -> None:
    assert classify_relative(value, history) is level


@given(finite, finite)
def test_a_larger_kl_is_never_a_better_level(one: float, other: float) -> None:
    small, large = sorted((one, other))
    assert classify_kl(small).severity <= classify_kl(large).severity


def test_severity_orders_the_levels() -> None:
    order = [H.UNKNOWN, H.HEALTHY, H.WARNING, H.CRITICAL, H.NON_FINITE]
    assert sorted(H, key=lambda level: level.severity) == order
    assert worst([]) is H.UNKNOWN
    for one, other in itertools.product(order, order):
        assert worst([one, other]) is max(one, other, key=order.index)


def test_the_policys_level_rises_at_once_and_calms_after_three_good_updates() -> None:
    levels = [H.HEALTHY, H.CRITICAL, H.HEALTHY, H.HEALTHY, H.HEALTHY]
    seen = [verdict_level(levels[: count + 1]) for count in range(len(levels))]
    assert seen == [H.HEALTHY, H.CRITICAL, H.CRITICAL, H.CRITICAL, H.HEALTHY]
    assert verdict_level([]) is H.UNKNOWN


@given(st.lists(st.sampled_from(list(H))))
def test_only_the_last_three_updates_count(levels: list[HealthLevel]) -> None:
    assert verdict_level(levels) is worst(levels[-HEALTH_WINDOW:])


# --- text ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kl", "text"),
    [
        (None, "—"),
        (math.nan, "non-finite"),
        (-math.inf, "non-finite"),
        (0.0, "0.0000"),
        (-1e-9, "0.0000"),
        (-0.0001, "-0.0001"),
        (1e-12, "<0.0001"),
        (0.000049, "<0.0001"),
        (0.00005, "0.0001"),
        (0.0123456, "0.0123"),
        (0.014996, "0.014996"),
        (0.01496, "0.01496"),
        (0.015, "0.0150"),
        (0.0299999, "0.0299999"),
        (0.03, "0.0300"),
        (0.030001, "0.0300"),
        (2.5, "2.5000"),
        (1e300, "1.00e+300"),
    ],
)
def test_a_kl_reads_on_its_own_side_of_every_limit(kl: float | None, text: str) -> None:
    assert format_kl(kl) == text


@given(st.floats(0, 1) | st.sampled_from([below(0.015, 0), below(0.03, 0), below(0.015, 1), below(0.03, 1)]))
def test_what_is_shown_has_the_level_of_what_was_measured(kl: float) -> None:
    text = format_kl(kl)
    shown = 0.0 if text == "<0.0001" else float(text)
    assert classify_kl(shown) is classify_kl(kl)


@given(st.floats())
def test_any_float_can_be_shown(kl: float) -> None:
    assert format_kl(kl)


# --- suggestions --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_values", "text"),
    [
        ({"level": H.HEALTHY}, None),
        ({"level": H.UNKNOWN}, None),
        (
            {"level": H.NON_FINITE, "early_stopped": True, "head": "slot", "share": 0.9},
            (
                "NaN or Inf in the update: check rewards and observations, then resume from the last checkpoint with a "
                "lower learning_rate"
            ),
        ),
        (
            {"level": H.CRITICAL, "epochs_planned": 4, "learning_rate": 3e-4},
            "the policy drifts too fast: lower learning_rate to 0.0001, or set target_kl to stop in time",
        ),
        (
            {"level": H.CRITICAL, "epochs_planned": 1},
            "the policy drifts too fast: lower learning_rate or use larger minibatches",
        ),
        (
            {"level": H.CRITICAL, "epochs_planned": 4, "early_stopped": True, "stopped_epoch": 2},
            "the policy drifts too fast: lower learning_rate or use larger minibatches",
        ),
        (
            {"level": H.CRITICAL, "head": "slot", "share": 0.51},
            "head slot drifts too fast: lower learning_rate or use larger minibatches",
        ),
        (
            {"level": H.CRITICAL, "head": "slot", "share": 0.5},
            "the policy drifts too fast: lower learning_rate or use larger minibatches",
        ),
        (
            {"level": H.HEALTHY, "early_stopped": True, "stopped_epoch": 1, "epochs_planned": 4},
            "stopped within the first epoch: lower learning_rate, use larger minibatches, or raise target_kl",
        ),
        (
            {"level": H.WARNING, "early_stopped": True, "stopped_epoch": 3, "epochs_planned": 4},
            "stopped in epoch 3: lower learning_rate, or plan epochs = 2",
        ),
        (
            {"level": H.WARNING, "epochs_planned": 4, "head": "tempo", "share": 0.8},
            "head tempo drifts: lower learning_rate or use fewer epochs than 4",
        ),
        ({"level": H.WARNING}, "the policy drifts: lower learning_rate or use larger minibatches"),
    ],
)
def test_one_suggestion_for_what_was_seen(given_values: dict[str, Any], text: str | None) -> None:
    found = suggestion(**given_values)
    assert (str(found) if found is not None else None) == text


@given(
    st.sampled_from([H.WARNING, H.CRITICAL, H.NON_FINITE]),
    st.booleans(),
    st.none() | st.integers(1, 9),
    st.integers(1, 9),
    st.none() | st.floats(1e-9, 1),
    st.none() | st.floats(),
)
def test_a_warning_or_worse_always_has_a_suggestion(
    level: HealthLevel, stopped: bool, epoch: int | None, planned: int, rate: float | None, share: float | None
) -> None:
    found = suggestion(
        level=level,
        early_stopped=stopped,
        stopped_epoch=epoch,
        epochs_planned=planned,
        learning_rate=rate,
        head="slot",
        share=share,
    )
    assert found is not None
    assert "None" not in str(found)


# --- the verdict --------------------------------------------------------------------------------

CALM: dict[str, Any] = {"state": RunState.LIVE, "levels": (H.HEALTHY,) * 5, "updates": 10, "kl": 0.01}
V = VerdictKind


@pytest.mark.parametrize(
    ("changes", "kind", "code", "reason"),
    [
        ({}, V.HEALTHY, 0, "KL 0.0100 is below 0.015"),
        ({"state": RunState.DONE}, V.HEALTHY, 0, ""),
        ({"state": RunState.STOPPED}, V.HEALTHY, 0, ""),
        ({"state": RunState.UNKNOWN}, V.HEALTHY, 0, ""),
        ({"levels": (), "updates": 0}, V.UNKNOWN, 3, "no PPO update yet"),
        ({"levels": (H.UNKNOWN,) * 3}, V.UNKNOWN, 3, "no KL was measured in the last 3 updates"),
        ({"levels": (H.HEALTHY,), "updates": 1}, V.WARM_UP, 0, "update 1 of 3"),
        ({"levels": (H.HEALTHY,) * 3, "updates": 3}, V.WARM_UP, 0, "update 3 of 3"),
        ({"levels": (H.HEALTHY,) * 4, "updates": 4}, V.HEALTHY, 0, ""),
        ({"levels": (H.HEALTHY,), "updates": 1, "state": RunState.DONE}, V.HEALTHY, 0, ""),
        ({"levels": (H.WARNING,), "updates": 1, "kl": 0.02}, V.WARM_UP, 0, "muted in warm-up"),
        ({"levels": (H.HEALTHY, H.WARNING, H.WARNING)}, V.WARNING, 1, "KL >= 0.015 in 2 of last 3 updates"),
        ({"levels": (H.CRITICAL, H.HEALTHY, H.WARNING)}, V.CRITICAL, 2, "KL >= 0.03 in 1 of last 3 updates"),
        ({"levels": (H.CRITICAL,), "head": "slot", "share": 0.9}, V.CRITICAL, 2, "; head slot carries 90%"),
        ({"levels": (H.CRITICAL,), "head": "slot", "share": math.nan}, V.CRITICAL, 2, "1 of last 1 updates"),
        ({"levels": (H.NON_FINITE, H.HEALTHY, H.HEALTHY)}, V.NON_FINITE, 2, "within the last 3 updates"),
        ({"journal_lost": 2}, V.LOSSY, 1, "the journal lost 2 events"),
        ({"sink_lost": (("otlp", 3), ("console", 0))}, V.LOSSY, 1, "events lost by sinks: otlp 3"),
        ({"state": RunState.STALE, "age_s": 61.4}, V.STALE, 3, "silent for 61 s"),
        ({"state": RunState.STALLED}, V.STALLED, 3, "makes no progress"),
        ({"state": RunState.CRASHED, "age_s": 7.0}, V.CRASHED, 2, "is gone, silent for 7 s"),
        ({"state": RunState.CRASHED, "message": "killed by signal 9"}, V.CRASHED, 2, "killed by signal 9"),
        ({"state": RunState.FAILED}, V.FAILED, 2, "ended with an error"),
    ],
)
def test_a_verdict_for_each_situation(changes: dict[str, Any], kind: VerdictKind, code: int, reason: str) -> None:
    found = verdict(VerdictInput(**(CALM | changes)))
    assert (found.kind, found.exit_code) == (kind, code)
    assert reason in found.reason


def test_the_worse_of_two_troubles_is_the_verdict() -> None:
    troubles: list[dict[str, Any]] = [
        {"state": RunState.CRASHED},
        {"levels": (H.NON_FINITE,)},
        {"state": RunState.STALE},
        {"journal_lost": 1},
        {"levels": (H.CRITICAL,)},
        {"levels": (H.WARNING,)},
        {"sink_lost": (("otlp", 1),)},
    ]
    alone = [verdict(VerdictInput(**(CALM | trouble))).kind for trouble in troubles]
    for (first, worse), (second, lesser) in itertools.combinations(enumerate(troubles), 2):
        if set(worse) & set(lesser):
            continue
        both = verdict(VerdictInput(**(CALM | lesser | worse)))
        assert both.kind is alone[first], (alone[first], alone[second])


def test_warm_up_labels_critical_and_hides_nothing_worse() -> None:
    early = CALM | {"updates": WARM_UP_UPDATES}
    critical = verdict(VerdictInput(**(early | {"levels": (H.CRITICAL,)})))
    assert (critical.kind, critical.label, critical.exit_code) == (V.CRITICAL, "critical (warm-up)", 2)
    assert verdict(VerdictInput(**(early | {"levels": (H.NON_FINITE,)}))).label == "non-finite"
    assert verdict(VerdictInput(**(early | {"journal_lost": 1}))).label == "lossy"
    later = verdict(VerdictInput(**(CALM | {"levels": (H.CRITICAL,)})))
    assert later.label == "critical"


inputs = st.builds(
    VerdictInput,
    state=st.sampled_from(list(RunState)),
    levels=st.lists(st.sampled_from(list(H)), max_size=6).map(tuple),
    updates=st.integers(0, 9),
    kl=st.none() | st.floats(),
    head=st.none() | st.just("slot"),
    share=st.none() | st.floats(),
    journal_lost=st.integers(0, 2),
    sink_lost=st.sampled_from([(), (("otlp", 0),), (("otlp", 4),)]),
    age_s=st.none() | st.floats(0, 1e6),
    message=st.sampled_from(["", "it broke"]),
)


@given(inputs)
def test_every_input_has_a_verdict_whose_exit_code_is_never_softer_than_the_policys_level(seen: VerdictInput) -> None:
    found = verdict(seen)
    assert found.reason
    assert found.label.startswith(found.kind.value)
    assert found.exit_code in {0, 1, 2, 3}
    if found.level.severity >= H.CRITICAL.severity:
        assert found.exit_code in {2, 3}
    if seen.journal_lost or any(count for _, count in seen.sink_lost):
        assert found.exit_code != 0


def test_the_limits_are_the_records() -> None:
    assert (TUIThresholds.KL_WARNING, TUIThresholds.KL_CRITICAL) == (0.015, 0.03)
    assert [state for state in RunState if state.ended] == [
        RunState.CRASHED,
        RunState.STOPPED,
        RunState.FAILED,
        RunState.DONE,
    ]


def test_a_run_in_trouble_gets_advice_on_the_run_and_a_sound_one_none() -> None:
    troubled = {VerdictKind.CRASHED, VerdictKind.STALE, VerdictKind.STALLED, VerdictKind.LOSSY}
    assert {kind for kind in VerdictKind if state_suggestion(kind) is not None} == troubled
    assert "--resume" in str(state_suggestion(VerdictKind.CRASHED))
