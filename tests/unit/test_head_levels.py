"""The level of each head over the judged window, against its definition."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_core.events import EarlyStop, HeadStats, PPOUpdatePayload
from esper_core.health import (
    HEAD_DECISIONS,
    HEALTH_WINDOW,
    HealthLevel,
    KLLimits,
    RunState,
    VerdictInput,
    VerdictKind,
    classify_kl,
    head_levels,
    policy_level,
    verdict,
    verdict_level,
)
from esper_core.reading.judged import judge, update_advice

NAMES = ("a", "b", "c")
kls = st.one_of(st.none(), st.floats(0.0, 0.2), st.sampled_from((0.015, 0.03, math.nan, math.inf)))
updates = st.builds(
    lambda number, heads, kl, level: PPOUpdatePayload(
        update_id=number,
        kl_divergence=kl,
        health=level,
        heads=tuple(
            HeadStats(name=name, kl=kl if count else None, decisions=count)
            for name, (kl, count) in zip(NAMES, heads, strict=False)
        ),
    ),
    st.integers(1, 1000),
    st.lists(st.tuples(kls, st.integers(0, 200)), min_size=1, max_size=3),
    st.one_of(st.none(), st.floats(0.0, 0.05)),
    st.sampled_from((HealthLevel.UNKNOWN, HealthLevel.HEALTHY, HealthLevel.WARNING, HealthLevel.CRITICAL)),
)
limits = st.builds(
    lambda low, gap: KLLimits(warning=low, critical=low + gap), st.floats(1e-4, 0.1), st.floats(1e-4, 0.1)
)


@given(st.lists(updates, max_size=6), limits)
def test_a_head_s_level_is_that_of_its_pooled_kl(seen: list[PPOUpdatePayload], bounds: KLLimits) -> None:
    window = [item for item in seen[-HEALTH_WINDOW:] if item.kl_divergence is not None]
    for found in head_levels(seen, bounds):
        parts = [
            (item.kl, item.decisions)
            for update in window
            for item in update.heads
            if item.name == found.name and item.kl is not None and math.isfinite(item.kl)
        ]
        count = sum(decisions for _, decisions in parts)
        assert found.decisions == count
        if count:
            assert found.kl == pytest.approx(math.fsum(kl * decisions for kl, decisions in parts) / count, abs=1e-12)
        expected = classify_kl(found.kl, bounds) if count >= HEAD_DECISIONS else HealthLevel.UNKNOWN
        assert found.level is expected


@given(st.lists(updates, max_size=6), limits)
def test_the_policy_is_never_calmer_than_its_updates_and_rises_no_higher_than_warning_by_a_head(
    seen: list[PPOUpdatePayload], bounds: KLLimits
) -> None:
    own = verdict_level([classify_kl(item.kl_divergence, bounds) for item in seen])
    judged = policy_level(seen, bounds)
    if judged.head is None:
        assert judged.level is own
    else:
        assert judged.level is max(own, HealthLevel.WARNING, key=lambda level: level.severity)
        assert judged.head.level is HealthLevel.CRITICAL
    assert policy_level(seen[-HEALTH_WINDOW:], bounds) == judged


@given(st.lists(updates, min_size=1, max_size=3), st.integers(0, 3))
def test_a_head_that_never_decides_changes_nothing(seen: list[PPOUpdatePayload], place: int) -> None:
    del place
    idle = HeadStats(name="idle", kl=None, decisions=0)
    more = [replace(item, heads=(*item.heads, idle)) for item in seen if len(item.heads) > 1]
    fewer = [item for item in seen if len(item.heads) > 1]
    with_idle, without = policy_level(more), policy_level(fewer)
    assert (with_idle.level, with_idle.levels, with_idle.head) == (without.level, without.levels, without.head)
    assert with_idle.kl == without.kl
    assert [item for item in with_idle.heads if item.name != "idle"] == list(without.heads)


def calm(*heads: tuple[float, int]) -> PPOUpdatePayload:
    return PPOUpdatePayload(
        update_id=9,
        kl_divergence=0.009,
        health=HealthLevel.HEALTHY,
        heads=tuple(
            HeadStats(name=name, kl=kl, decisions=count) for name, (kl, count) in zip(NAMES, heads, strict=False)
        ),
    )


@pytest.mark.parametrize(
    ("window", "level"),
    [
        ([calm((0.004, 1000), (0.06, 100))], HealthLevel.WARNING),
        ([calm((0.004, 1000), (0.06, HEAD_DECISIONS))], HealthLevel.WARNING),
        ([calm((0.004, 1000), (0.06, HEAD_DECISIONS - 1))], HealthLevel.HEALTHY),
        ([calm((0.004, 1000), (0.06, 20))] * 3, HealthLevel.HEALTHY),
        ([calm((0.004, 1000), (0.06, 22))] * 3, HealthLevel.WARNING),
        ([calm((0.004, 1000), (math.nextafter(0.03, 0.0), 100))], HealthLevel.HEALTHY),
        ([calm((0.004, 1000), (0.03, 128))], HealthLevel.WARNING),
        ([calm((0.06, 1000))], HealthLevel.HEALTHY),  # one head is the update itself
        ([calm((0.004, 1000), (0.06, 100)), *[calm((0.004, 1000), (0.004, 100))] * 3], HealthLevel.HEALTHY),
    ],
)
def test_from_enough_decisions_on_and_from_both_sides_of_the_limit(
    window: list[PPOUpdatePayload], level: HealthLevel
) -> None:
    assert policy_level(window).level is level


def test_an_update_without_a_level_lends_its_heads_none() -> None:
    unmeasured = PPOUpdatePayload(update_id=1, heads=calm((0.004, 1000), (0.06, 100)).heads)
    assert policy_level([unmeasured]).level is HealthLevel.UNKNOWN
    assert head_levels([unmeasured]) == ()


def test_warm_up_mutes_what_a_head_raises_and_names_it() -> None:
    found = policy_level([calm((0.004, 1000), (0.06, 100))]).head
    assert found is not None
    early = verdict(VerdictInput(levels=(HealthLevel.HEALTHY,), updates=2, kl=0.009, critical_head=found))
    assert (early.kind, early.level, early.exit_code) == (VerdictKind.WARM_UP, HealthLevel.WARNING, 0)
    assert "head b at KL 0.0600" in early.reason
    late = verdict(VerdictInput(levels=(HealthLevel.HEALTHY,), updates=9, kl=0.009, critical_head=found))
    assert (late.kind, late.exit_code) == (VerdictKind.WARNING, 1)
    worse = verdict(VerdictInput(levels=(HealthLevel.CRITICAL,), updates=9, kl=0.09, critical_head=found))
    assert worse.kind is VerdictKind.CRITICAL


@pytest.mark.parametrize(
    ("bounds", "level"),
    [
        (KLLimits(), HealthLevel.CRITICAL),
        (KLLimits(warning=0.1, critical=0.2), HealthLevel.HEALTHY),
        (KLLimits(warning=0.03, critical=0.2), HealthLevel.WARNING),
        (KLLimits(on="joint", warning=0.1, critical=0.2), HealthLevel.HEALTHY),
        (KLLimits(on="joint", warning=0.01, critical=0.05), HealthLevel.CRITICAL),
    ],
)
@pytest.mark.parametrize("stored", [HealthLevel.UNKNOWN, HealthLevel.HEALTHY, HealthLevel.CRITICAL])
def test_the_limits_in_force_level_an_update_not_those_it_was_recorded_under(
    bounds: KLLimits, level: HealthLevel, stored: HealthLevel
) -> None:
    update = PPOUpdatePayload(update_id=9, kl_divergence=0.03, kl_joint=0.06, health=stored)
    judged = policy_level([update], bounds)
    assert (judged.level, judged.levels) == (level, (level,))


def test_non_finite_hangs_on_no_limit() -> None:
    update = PPOUpdatePayload(update_id=9, kl_divergence=0.0, health=HealthLevel.NON_FINITE)
    assert policy_level([update], KLLimits(warning=1.0, critical=2.0)).level is HealthLevel.NON_FINITE


def test_the_kl_of_all_heads_is_pooled_over_the_window_as_a_head_s_is() -> None:
    window = [
        replace(calm((0.004, 1000), (0.06, 100)), kl_divergence=0.01, kl_joint=0.02, steps=30),
        replace(calm((0.004, 100), (0.06, 200)), kl_divergence=0.002, kl_joint=0.05, steps=10),
    ]
    assert policy_level(window).kl == pytest.approx((0.01 * 1100 + 0.002 * 300) / 1400)
    assert policy_level(window, KLLimits(on="joint")).kl == pytest.approx((0.02 * 30 + 0.05 * 10) / 40)
    assert policy_level([replace(item, heads=()) for item in window]).kl == pytest.approx(0.006)
    assert policy_level([]).kl is None


def test_one_of_several_updates_that_decided_something_is_enough_not_to_be_forced() -> None:
    forced = PPOUpdatePayload(update_id=9, steps=0, steps_forced=64)
    decided = PPOUpdatePayload(update_id=9, steps=1, steps_forced=63)
    assert policy_level([decided, forced, forced, forced]).forced
    assert not policy_level([forced, decided, forced]).forced
    assert not policy_level([PPOUpdatePayload(update_id=9)]).forced
    assert not policy_level([]).forced


def test_a_run_whose_every_step_was_forced_says_so() -> None:
    forced = [PPOUpdatePayload(update_id=number, steps_forced=64) for number in range(3, 6)]
    judged = judge(RunState.DONE, recent=forced, updates=5)
    assert (judged.kind, judged.reason) == (VerdictKind.UNKNOWN, "every step was forced: nothing was decided")
    unmeasured = judge(RunState.DONE, recent=[PPOUpdatePayload(update_id=5, steps=64)], updates=5)
    assert unmeasured.reason == "no KL was measured in the last 3 updates"


def drift(kl: float, *shares: float, **more: Any) -> PPOUpdatePayload:
    update = calm((0.004, 1000), (0.06, 100))
    heads = tuple(replace(head, share=share) for head, share in zip(update.heads, shares, strict=True))
    return replace(update, kl_divergence=kl, heads=heads, learning_rate=0.003, epochs_planned=4, **more)


@pytest.mark.parametrize(
    "last",
    [
        drift(0.009, 0.7, 0.3),
        drift(0.02, 0.7, 0.3),
        drift(0.02, 0.3, 0.7),
        drift(0.02, 0.7, 0.3, early_stop=EarlyStop(epoch=2, minibatch=1, threshold=0.03)),
        drift(0.009, 0.7, 0.3, early_stop=EarlyStop(epoch=1, minibatch=1, threshold=0.03)),
    ],
)
def test_the_advice_is_about_the_head_at_critical_that_the_reason_names(last: PPOUpdatePayload) -> None:
    window = [drift(0.009, 0.7, 0.3), drift(0.009, 0.7, 0.3), last]
    judged, told = judge(RunState.LIVE, recent=window, updates=9), update_advice(last, policy=policy_level(window))
    assert judged.kind is VerdictKind.WARNING
    assert "head b " in judged.reason
    assert judged.reason.endswith(" over them") or "over 300 decisions in 3 updates" in judged.reason
    assert told is not None
    assert told.cause.startswith("head b drifts too fast")
    assert ("behind calm ones" in told.cause) == (last.kl_divergence == 0.009)


def test_where_all_heads_together_are_critical_reason_and_advice_name_the_one_that_carries_most() -> None:
    last = drift(0.04, 0.7, 0.3)
    judged, told = judge(RunState.LIVE, recent=[last], updates=9), update_advice(last, policy=policy_level([last]))
    assert judged.reason == "KL >= 0.03 in 1 of last 1 updates; head a carries 70%"
    assert told is not None
    assert told.cause == "head a drifts too fast"
