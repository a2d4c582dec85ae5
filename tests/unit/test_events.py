"""The data contract: frozen, keyword-only, NaN equal to NaN, one hook for each kind."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from esper_core.events import (
    PAYLOADS,
    EarlyStop,
    HeadStats,
    PPOUpdatePayload,
    RunStarted,
    SpanRef,
    TelemetryEvent,
    TraceRef,
    about_field,
)
from esper_core.hooks import HOOK_NAMES


def event(payload: Any) -> TelemetryEvent[Any]:
    own = SpanRef(name="esper.ppo.update", span_id="1" * 16, start_ns=1, end_ns=2)
    return TelemetryEvent(time_ns=2, run_id="r", trace=TraceRef(trace_id="2" * 32, spans=(own,)), payload=payload)


def test_every_kind_has_a_hook_of_its_name() -> None:
    assert {f"esper_{kind}" for kind in PAYLOADS} <= set(HOOK_NAMES)
    for kind, owner in PAYLOADS.items():
        assert owner.kind == kind


@pytest.mark.parametrize("owner", [*PAYLOADS.values(), HeadStats, EarlyStop, SpanRef, TraceRef, TelemetryEvent])
def test_records_are_frozen_keyword_only_and_documented(owner: Any) -> None:
    assert owner.__dataclass_params__.frozen
    assert all(item.kw_only for item in dataclasses.fields(owner))
    for item in dataclasses.fields(owner):
        assert about_field(item).brief.endswith("."), f"{owner.__name__}.{item.name} is described by a sentence"
    assert owner.__doc__
    assert "Attributes:" not in owner.__doc__, "fields describe themselves, once"


def test_nan_equals_nan_in_scalars_heads_and_epochs() -> None:
    def payload() -> PPOUpdatePayload:
        return PPOUpdatePayload(
            update_id=1,
            kl_divergence=math.nan,
            kl_by_epoch=(math.nan, 0.1),
            heads=(HeadStats(name="slot", kl=float("nan")),),
        )

    assert payload() == payload()
    assert hash(event(payload())) == hash(event(payload()))
    assert event(payload()) == event(payload())
    assert payload() != dataclasses.replace(payload(), kl_divergence=0.1)


def test_none_zero_and_nan_are_three_different_things() -> None:
    found = {PPOUpdatePayload(update_id=1, kl_divergence=value) for value in (None, 0.0, math.nan)}
    assert len(found) == 3


def test_payloads_of_different_kinds_are_never_equal() -> None:
    assert RunStarted(environment="e") != PPOUpdatePayload(update_id=1)
    assert PPOUpdatePayload(update_id=1) != 1


def test_a_payload_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PPOUpdatePayload(update_id=1).update_id = 2  # type: ignore[misc]  # what is refused


def test_the_leading_head_is_the_one_with_the_largest_measured_share() -> None:
    heads = (
        HeadStats(name="a", share=0.2),
        HeadStats(name="b", share=0.7),
        HeadStats(name="c", share=math.nan),
        HeadStats(name="d"),
    )
    assert PPOUpdatePayload(update_id=1, heads=heads).leading_head is heads[1]
    assert PPOUpdatePayload(update_id=1, heads=heads[2:]).leading_head is None
    assert PPOUpdatePayload(update_id=1).leading_head is None


def test_an_event_knows_its_kind_and_its_own_span() -> None:
    found = event(PPOUpdatePayload(update_id=1))
    assert found.kind == "ppo_updated"
    assert found.trace.own.end_ns == found.time_ns
