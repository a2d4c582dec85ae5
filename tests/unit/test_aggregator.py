"""SanctumAggregator: the events that it accepts, the snapshot, and that no event makes it raise."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import fields, replace
from typing import Any

import pytest

from esper_core.events import (
    EarlyStop,
    EpisodeFinished,
    HeadStats,
    Payload,
    PolicyHealthChanged,
    PPOUpdatePayload,
    RunFinished,
    RunStarted,
    SinkLoss,
    SinkStatusChanged,
    SpanRef,
    TelemetryEvent,
    TraceRef,
)
from esper_core.health import HealthLevel, RunState, classify_kl
from esper_core.reading.aggregator import SanctumAggregator
from esper_core.reading.ranks import MOST_RANKS
from esper_core.reading.snapshot import RECENT, SanctumSnapshot
from esper_core.reading.tamiyo import HISTORY, TRACKED, TamiyoState
from esper_core.semconv.attributes import span_name

SECOND = 1_000_000_000


def wrap(payload: Payload, *, at: float = 0.0, attempt: int = 1, run_id: str = "run-a", rank: int = 0) -> Any:
    moment = int(at * SECOND)
    span = SpanRef(name=span_name(payload), span_id="0" * 15 + "1", start_ns=moment, end_ns=moment)
    trace = TraceRef(trace_id="0" * 31 + "1", spans=(span,))
    return TelemetryEvent(time_ns=moment, run_id=run_id, attempt=attempt, rank=rank, trace=trace, payload=payload)


def update(update_id: int, kl: float | None = 0.004, **values: Any) -> PPOUpdatePayload:
    return PPOUpdatePayload(update_id=update_id, kl_divergence=kl, health=classify_kl(kl), **values)


def fed(*events: Any) -> SanctumAggregator:
    aggregator = SanctumAggregator()
    aggregator.handle_all(events)
    return aggregator


def test_ppo_update_populates_kl_divergence_history() -> None:
    aggregator = SanctumAggregator()
    for number in range(1, 13):
        aggregator._handle_ppo_update(wrap(update(number, 0.001234567 * number), at=number))
    state = aggregator.snapshot().tamiyo
    assert isinstance(state, TamiyoState)
    assert state.kl_divergence_history.maxlen == 10
    assert list(state.kl_divergence_history) == [round(0.001234567 * number, 4) for number in range(3, 13)]
    assert state.kl_divergence == 0.001234567 * 12  # judged unrounded


def test_every_tracked_number_has_a_value_and_a_history() -> None:
    names = {item.name for item in fields(PPOUpdatePayload)}
    assert set(TRACKED) <= names
    values: dict[str, Any] = dict.fromkeys(TRACKED, 0.25)
    state = fed(wrap(replace(update(1), **values))).snapshot().tamiyo
    for name in TRACKED:
        assert getattr(state, name) == 0.25
        assert list(getattr(state, f"{name}_history")) == [0.25]


def test_a_value_not_measured_is_missing_in_the_history_and_never_zero() -> None:
    state = fed(wrap(update(1)), wrap(update(2, None, outcome="skipped"))).snapshot().tamiyo
    assert list(state.kl_divergence_history) == [0.004, None]
    assert state.kl_divergence is None
    assert state.level is HealthLevel.UNKNOWN


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_values_stay_in_the_history(value: float) -> None:
    state = fed(wrap(update(1, value))).snapshot().tamiyo
    assert str(state.kl_divergence_history[-1]) == str(value)
    assert state.level is HealthLevel.NON_FINITE


def test_a_duplicate_never_appends_twice() -> None:
    event = wrap(update(1), at=1)
    aggregator = fed(event, event, wrap(update(1, 0.02), at=2), wrap(update(1), at=1, rank=1))
    snapshot = aggregator.snapshot()
    assert list(snapshot.tamiyo.kl_divergence_history) == [0.004]
    assert snapshot.duplicates == 3
    assert len([entry for entry in snapshot.events if entry.source == "ppo.update"]) == 1


def test_a_late_update_takes_its_place() -> None:
    aggregator = fed(*(wrap(update(number, number / 1000), at=number) for number in (1, 2, 4, 5, 3)))
    snapshot = aggregator.snapshot()
    assert list(snapshot.tamiyo.kl_divergence_history) == [0.001, 0.002, 0.003, 0.004, 0.005]
    assert snapshot.tamiyo.update_id == 5


def test_a_higher_attempt_replaces_everything_from_its_first_update() -> None:
    first = [wrap(update(number, 0.02), at=number) for number in range(1, 7)]
    started = wrap(RunStarted(environment="e", first_update_id=4, resumed_from=1), at=10, attempt=2)
    aggregator = fed(*first, started)
    assert aggregator.snapshot().tamiyo.update_id == 3
    second = [wrap(update(number, 0.001), at=10 + number, attempt=2) for number in (4, 5)]
    aggregator.handle_all(second)
    late = wrap(update(6, 0.02), at=6)
    aggregator.handle(late)  # of the attempt that was overtaken
    state = aggregator.snapshot().tamiyo
    assert list(state.kl_divergence_history) == [0.02, 0.02, 0.02, 0.001, 0.001]
    assert (state.attempt, state.update_id) == (2, 5)


def test_attempts_are_told_apart_without_a_run_started_and_out_of_order() -> None:
    first = [wrap(update(number, 0.02), at=number) for number in range(1, 11)]
    second = [wrap(update(number, 0.001), at=20 + number, attempt=2) for number in (9, 8, 10)]
    state = fed(*first, *second).snapshot().tamiyo
    assert list(state.kl_divergence_history) == [0.02] * 7 + [0.001] * 3


def test_early_stops_of_the_last_ten_are_counted_whatever_the_level() -> None:
    stop = EarlyStop(epoch=1, minibatch=2, value=0.0031, threshold=0.0015, head="tempo")
    events = [
        wrap(update(number, 0.004, early_stop=stop if number % 3 == 0 else None), at=number) for number in range(1, 13)
    ]
    snapshot = fed(*events).snapshot()
    assert snapshot.stopped_recently == 4
    assert snapshot.tamiyo.early_stop == stop
    assert snapshot.tamiyo.level is HealthLevel.HEALTHY
    assert "early stop 1: pooled KL 0.0031 > 0.0015, head tempo" in snapshot.events[-1].text
    assert snapshot.events[-1].tone == "stop"


def test_gradient_norm_is_judged_against_its_own_median() -> None:
    calm = [wrap(update(number, grad_norm=1.0, advantage_std=2.0), at=number) for number in range(1, 8)]
    aggregator = fed(*calm)
    state = aggregator.snapshot().tamiyo
    assert (state.grad_norm_level, state.grad_norm_median) == (HealthLevel.HEALTHY, 1.0)
    aggregator.handle(wrap(update(8, grad_norm=3.0, advantage_std=20.0), at=8))
    state = aggregator.snapshot().tamiyo
    assert state.grad_norm_level is HealthLevel.WARNING
    assert (state.advantage_std_level, state.advantage_std_median) == (HealthLevel.CRITICAL, 2.0)
    assert fed(*calm[:3]).snapshot().tamiyo.grad_norm_level is HealthLevel.UNKNOWN


def test_heads_keep_their_order_and_an_idle_head_has_no_value() -> None:
    heads = (HeadStats(name="slot", kl=0.01, weight=1.0, share=0.6, decisions=8), HeadStats(name="tempo"))
    snapshot = fed(wrap(update(1, heads=heads)), wrap(update(2, heads=heads[:1]))).snapshot()
    assert [head.name for head in snapshot.heads] == ["slot"]
    snapshot = fed(wrap(update(1, heads=heads))).snapshot()
    assert [(head.name, head.kl, head.kl_history) for head in snapshot.heads] == [
        ("slot", 0.01, (0.01,)),
        ("tempo", None, (None,)),
    ]


def test_declared_heads_show_before_the_first_update() -> None:
    snapshot = fed(wrap(RunStarted(environment="e", heads=("slot", "tempo")))).snapshot()
    assert [head.name for head in snapshot.heads] == ["slot", "tempo"]
    assert not snapshot.tamiyo.ppo_data_received


class Hostile:
    """An event that raises wherever it is touched."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


def test_it_never_dies_on_a_bad_event() -> None:
    good = [wrap(update(number), at=number) for number in range(1, 4)]
    bad = [Hostile(), None, 7, wrap(update(9), run_id="other"), wrap(update("x"))]  # type: ignore[arg-type]  # on purpose
    aggregator = fed(good[0], *bad[:4], good[1], good[2])
    snapshot = aggregator.snapshot()
    assert (snapshot.bad, snapshot.seen) == (4, 7)
    assert snapshot.tamiyo.update_id == 3
    aggregator.handle(bad[4])
    aggregator.handle(wrap(update(4), at=4))
    assert aggregator.snapshot().tamiyo.update_id == 4


def test_a_snapshot_shares_nothing_with_the_aggregator() -> None:
    aggregator = fed(wrap(update(1)))
    before = aggregator.snapshot()
    aggregator.handle_all(wrap(update(number), at=number) for number in range(2, 5))
    assert list(before.tamiyo.kl_divergence_history) == [0.004]
    assert len(before.recent) == 1
    live = aggregator._tamiyo
    for item in fields(TamiyoState):
        value = getattr(live, item.name)
        if isinstance(value, deque):
            assert value is not getattr(aggregator.snapshot().tamiyo, item.name), item.name


def test_the_other_events_reach_snapshot_and_log() -> None:
    snapshot = fed(
        wrap(RunStarted(environment="CartPole-v1", updates_planned=20, seed=7), at=1),
        wrap(EpisodeFinished(episode=1, episode_return=1.0, length=3), at=2),
        wrap(update(1, 0.02), at=3),
        wrap(PolicyHealthChanged(previous=HealthLevel.HEALTHY, current=HealthLevel.WARNING, update_id=1), at=3),
        wrap(SinkStatusChanged(sink="otlp", state="failing", lost=17, message="refused"), at=4),
        wrap(RunFinished(state=RunState.DONE, updates=1, lost=(SinkLoss(sink="otlp", lost=20),)), at=5),
    ).snapshot()
    assert (snapshot.plan.environment, snapshot.plan.updates, snapshot.plan.started_ns) == ("CartPole-v1", 20, SECOND)
    assert [entry.source for entry in snapshot.events] == ["run", "ppo.update", "policy", "sink.otlp", "run"]
    assert snapshot.sinks[0].lost == 20
    assert snapshot.finished is not None
    assert snapshot.finished.state is RunState.DONE
    assert snapshot.last_event_ns == 5 * SECOND


def test_a_resume_reopens_a_finished_run() -> None:
    ended = wrap(RunFinished(state=RunState.STOPPED), at=2)
    snapshot = fed(
        wrap(update(1), at=1), ended, wrap(RunStarted(environment="e", first_update_id=2), attempt=2)
    ).snapshot()
    assert snapshot.finished is None
    assert snapshot.attempt == 2


def test_recent_updates_are_bounded_and_old_ones_are_not_taken_for_new() -> None:
    aggregator = fed(*(wrap(update(number), at=number) for number in range(1, 1001)))
    aggregator.handle(wrap(update(3), at=3))
    snapshot = aggregator.snapshot()
    assert len(snapshot.recent) == RECENT
    assert [payload.update_id for payload in snapshot.recent][-HISTORY:] == list(range(991, 1001))
    assert snapshot.duplicates == 1
    assert snapshot.median_gap_s == 1.0


def test_an_empty_snapshot_says_nothing_was_measured() -> None:
    snapshot = SanctumAggregator().snapshot()
    assert snapshot == SanctumSnapshot()
    assert snapshot.tamiyo.kl_divergence is None


def test_marked_test_events_are_not_shown() -> None:
    marked = replace(wrap(update(1)), marked=True)
    assert not fed(marked).snapshot().tamiyo.ppo_data_received


def test_the_ranks_of_a_run_are_one_run() -> None:
    """Rank 0 tells the run's end; where it cannot, another one does. Sinks of one name are told apart by their rank."""
    lost = RunFinished(state=RunState.FAILED, reason="rank 1 of 2 lost the others: rank 0 (pid 7 on h) is gone")
    aggregator = fed(
        wrap(RunStarted(environment="e", ranks=2), at=1),
        wrap(RunStarted(environment="e", ranks=2), at=1, rank=1),
        wrap(update(1), at=2),
        wrap(SinkStatusChanged(sink="otlp", state="failing", lost=3), at=3),
        wrap(SinkStatusChanged(sink="otlp", state="failing", lost=1), at=3, rank=1),
        wrap(lost, at=4, rank=1),
    )
    snapshot = aggregator.snapshot()
    assert [(sink.name, sink.lost) for sink in snapshot.sinks] == [("otlp", 3), ("otlp, rank 1", 1)]
    assert snapshot.finished == lost
    assert [(rank.rank, rank.last_ns // SECOND, rank.ended) for rank in snapshot.ranks] == [
        (0, 3, ""),
        (1, 4, f"failed: {lost.reason}"),
    ]
    assert [entry.source for entry in snapshot.events][-1] == "rank 1"
    aggregator.handle(wrap(RunFinished(state=RunState.FAILED, reason="NaN"), at=5))
    aggregator.handle(wrap(lost, at=6, rank=1))
    assert aggregator.snapshot().finished.reason == "NaN"  # type: ignore[union-attr]  # rank 0's stands
    aggregator.handle_all(wrap(SinkStatusChanged(sink="otlp"), at=7, rank=rank) for rank in range(MOST_RANKS + 5))
    assert len(aggregator.snapshot().ranks) == MOST_RANKS
    stopped = fed(wrap(RunFinished(state=RunState.STOPPED), at=1, rank=1)).snapshot()
    assert stopped.finished is None, "a rank that ends in order does not end the run"
