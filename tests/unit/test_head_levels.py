"""The level of each head over the judged window, against its definition."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_core.events import HeadStats, PPOUpdatePayload
from esper_core.health import (
    HEAD_DECISIONS,
    HEALTH_WINDOW,
    HealthLevel,
    KLLimits,
    PolicyLevel,
    VerdictInput,
    VerdictKind,
    classify_kl,
    head_levels,
    policy_level,
    verdict,
    verdict_level,
)

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
    assert policy_level(more) == policy_level(fewer)


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
    assert policy_level([update], bounds) == PolicyLevel(level=level, levels=(level,))


def test_non_finite_hangs_on_no_limit() -> None:
    update = PPOUpdatePayload(update_id=9, kl_divergence=0.0, health=HealthLevel.NON_FINITE)
    assert policy_level([update], KLLimits(warning=1.0, critical=2.0)).level is HealthLevel.NON_FINITE
