"""What is derived once: attempts, a sink's account, signs, sentences and the return to show."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_core.events import (
    EarlyStop,
    HeadStats,
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
from esper_core.health import DEFAULT_KL_LIMITS, HealthLevel, KLLimits, RunState, VerdictKind
from esper_core.reading.account import (
    SinkAccount,
    from_record,
    losses,
    merged,
    to_record,
    to_summary,
    with_loss,
    with_status,
)
from esper_core.reading.attempts import Attempts, Once
from esper_core.reading.eventlog import ppo_update
from esper_core.reading.glyphs import LEVELS, STATES, VERDICTS, encodable, to_ascii
from esper_core.reading.returns import return_to_show
from esper_core.reading.sentences import early_stop_text, outcome, sentence, sink_status, update_text
from esper_core.reading.tamiyo import TamiyoState, advance
from esper_core.reading.updateline import update_line
from esper_core.runs import RunRecord, SinkRecord
from esper_core.testing import make_update

# --- attempts -----------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 6)), max_size=20))
def test_an_update_counts_unless_a_higher_attempt_makes_it_anew(seen: list[tuple[int, int]]) -> None:
    attempts = Attempts()
    for attempt, update_id in seen:
        attempts.begin(attempt, update_id)
    for attempt, update_id in seen:
        expected = any(other > attempt and first <= update_id for other, first in seen)
        assert attempts.replaced(attempt, update_id) is expected


def test_an_update_of_an_attempt_passes_once() -> None:
    once = Once()
    passed = [
        once.passes(attempt, number) for attempt, number in [(1, 1), (1, 2), (1, 2), (1, 1), (2, 2), (2, 2), (1, 3)]
    ]
    assert passed == [True, True, False, False, True, False, True]


# --- a sink's account ---------------------------------------------------------------------------


def test_an_account_survives_run_json() -> None:
    account = SinkAccount(
        name="otlp",
        distribution="esper-sink-otlp",
        version="0.1.0",
        state="failing",
        delivered=7,
        lost=2,
        failures=3,
        queued=4,
        capacity=8,
        lag_s=0.5,
        message="refused",
        keeps_record=False,
    )
    line = msgspec.json.encode(RunRecord(run_id="r", sinks=[to_record(account)]))
    assert from_record(msgspec.json.decode(line, type=RunRecord).sinks[0]) == account


def test_a_record_has_no_field_that_an_account_lacks() -> None:
    assert {item.name for item in msgspec.structs.fields(SinkRecord)} <= {item.name for item in fields(SinkAccount)}
    assert set(to_summary(SinkAccount(name="x"))) <= {*(item.name for item in fields(SinkAccount)), "cut_off"}


def test_a_sink_says_that_it_keeps_the_record_and_a_run_of_0_1_is_known_by_the_name() -> None:
    said = [
        SinkAccount(name="archive", lost=2, keeps_record=True),
        SinkAccount(name="otlp", lost=3, keeps_record=False),
    ]
    assert losses(said) == (2, (("otlp", 3),))
    old = [from_record(SinkRecord(name="journal", lost=2)), from_record(SinkRecord(name="otlp", lost=3))]
    assert losses(old) == (2, (("otlp", 3),))
    assert losses([SinkAccount(name="journal", lost=2, keeps_record=False)]) == (0, (("journal", 2),))


def test_an_account_follows_its_events_and_the_end_of_the_run() -> None:
    account = with_status(None, SinkStatusChanged(sink="otlp", state="failing", delivered=5, lost=2, message="slow"))
    assert (account.state, account.delivered, account.lost, account.message) == ("failing", 5, 2, "slow")
    assert account.troubled
    assert with_loss(account, SinkLoss(sink="otlp", lost=1)).lost == 2
    assert with_loss(None, SinkLoss(sink="otlp", lost=9)).lost == 9


def test_host_and_events_together_give_the_larger_loss_and_the_hosts_queue() -> None:
    told = [SinkAccount(name="otlp", lost=20, message="refused"), SinkAccount(name="old", lost=1)]
    host = [SinkAccount(name="otlp", queued=3, capacity=8, lost=17), SinkAccount(name="journal")]
    both = {item.name: item for item in merged(told, host)}
    assert list(both) == ["journal", "old", "otlp"]
    assert (both["otlp"].lost, both["otlp"].queued, both["otlp"].message) == (20, 3, "refused")


# --- signs --------------------------------------------------------------------------------------


def test_unknown_and_warm_up_have_signs_of_their_own() -> None:
    unknown = {LEVELS[HealthLevel.UNKNOWN].glyph, VERDICTS[VerdictKind.UNKNOWN].glyph, STATES[RunState.UNKNOWN].glyph}
    assert len(unknown) == 1
    assert VERDICTS[VerdictKind.WARM_UP].glyph not in unknown
    assert to_ascii(VERDICTS[VerdictKind.WARM_UP].glyph) not in {to_ascii(sign) for sign in unknown}


def test_a_sign_has_one_role_of_colour_wherever_it_judges() -> None:
    roles: dict[str, set[str]] = {}
    for sign in (*LEVELS.values(), *VERDICTS.values()):
        roles.setdefault(sign.glyph, set()).add(sign.role)
    assert all(len(found) == 1 for found in roles.values())


@pytest.mark.parametrize(("encoding", "shows"), [("utf-8", True), (None, True), ("ascii", False), ("latin-1", False)])
def test_a_stream_shows_the_signs_or_not(encoding: str | None, shows: bool) -> None:
    assert encodable(encoding) is shows


# --- sentences ----------------------------------------------------------------------------------


def event(payload: Any, *, attempt: int = 1) -> TelemetryEvent[Any]:
    span = SpanRef(name="x", span_id="0" * 15 + "1", start_ns=0, end_ns=0)
    return TelemetryEvent(
        time_ns=0,
        run_id="r-1",
        attempt=attempt,
        trace=TraceRef(trace_id="0" * 31 + "1", spans=(span,)),
        payload=payload,
    )


@pytest.mark.parametrize(
    ("payload", "attempt", "text"),
    [
        (
            RunStarted(environment="E", heads=("a", "b"), seed=3),
            1,
            "run r-1: started on E, seed 3, heads a, b",
        ),
        (
            RunStarted(environment="E", heads=("a",), first_update_id=7),
            2,
            "run r-1: attempt 2 resumes at update 7 on E, heads a",
        ),
        (
            RunFinished(state=RunState.DONE, reason="4 updates", updates=4, env_steps=64, episodes=2),
            1,
            "done: 4 updates, 64 steps, 2 episodes",
        ),
        (
            RunFinished(state=RunState.DONE, reason="64 of 64 environment steps", updates=4, env_steps=64, episodes=2),
            1,
            "done: 64 of 64 environment steps, 4 updates, 2 episodes",
        ),
        (
            RunFinished(state=RunState.STOPPED, reason="SIGINT", updates=4, env_steps=64, episodes=2),
            1,
            "stopped: SIGINT, 4 updates, 64 steps, 2 episodes",
        ),
        (
            PolicyHealthChanged(
                previous=HealthLevel.CRITICAL, current=HealthLevel.NON_FINITE, update_id=3, kl_divergence=None
            ),
            1,
            "policy level rose from critical to non-finite at KL —",
        ),
        (
            SinkStatusChanged(
                sink="otlp", distribution="esper-sink-otlp", version="0.1.0", state="cut_off", lost=3, message="slow"
            ),
            1,
            "sink otlp (esper-sink-otlp 0.1.0) cut off, 3 lost: slow",
        ),
        (SinkStatusChanged(sink="otlp", state="closed"), 1, None),
    ],
)
def test_a_sentence_that_stands_alone_names_its_subject(payload: Any, attempt: int, text: str | None) -> None:
    assert sentence(event(payload, attempt=attempt)) == text


def test_the_log_says_the_same_without_what_its_columns_show() -> None:
    status = SinkStatusChanged(sink="otlp", state="cut_off", lost=3, message="slow")
    alone = sentence(event(status))
    assert alone is not None
    assert alone.endswith(sink_status(status))


@pytest.mark.parametrize(
    ("values", "line", "narrow", "log"),
    [
        ({}, "", "", "KL 0.0040"),
        (
            {"early_stop": EarlyStop(epoch=3, minibatch=2, value=0.05, threshold=0.03), "epochs_planned": 4},
            "early stop 3/4",
            "stop 3/4",
            "KL 0.0040  early stop 3/4: pooled KL 0.0500 > 0.0300",
        ),
        (  # the stop is on another KL than the level
            {
                "early_stop": EarlyStop(epoch=3, minibatch=2, value=0.05, threshold=0.03, head="slot"),
                "epochs_planned": 4,
                "stop_on": "joint",
                "kl_joint": 0.02,
            },
            "early stop 3/4",
            "stop 3/4",
            "KL 0.0040  early stop 3/4: pooled joint KL 0.0500 > 0.0300, head slot, joint KL after it 0.0200",
        ),
        (
            {"outcome": "interrupted", "reason": "SIGTERM"},
            "interrupted",
            "interrupte",
            "KL 0.0040  interrupted: SIGTERM",
        ),
    ],
)
def test_how_an_update_ended(values: dict[str, Any], line: str, narrow: str, log: str) -> None:
    update = PPOUpdatePayload(update_id=1, kl_divergence=0.004, health=HealthLevel.HEALTHY, **values)
    assert outcome(update) == line
    assert outcome(update, "narrow") == narrow
    assert update_text(update) == log


@pytest.mark.parametrize(
    ("on", "rule", "name"),
    [
        ("weighted", "pooled", "pooled KL"),
        ("weighted", "minibatch", "KL of the minibatch"),
        ("weighted", "epoch", "KL of the epoch's last minibatch"),
        ("joint", "pooled", "pooled joint KL"),
        ("joint", "minibatch", "joint KL of the minibatch"),
        ("joint", "epoch", "joint KL of the epoch's last minibatch"),
    ],
)
def test_an_early_stop_names_the_kl_it_is_on_whatever_the_run_is_judged_by(on: str, rule: str, name: str) -> None:
    stop = EarlyStop(epoch=3, minibatch=2, value=0.05, threshold=0.03)
    update = PPOUpdatePayload(
        update_id=1, kl_divergence=0.004, kl_joint=0.02, stop_on=on, stop_rule=rule, early_stop=stop
    )
    kl, after = ("joint KL", "0.0200") if on == "joint" else ("KL", "0.0040")
    sign = "joint " if on == "joint" else ""
    for limits in (KLLimits(), KLLimits(on="joint", warning=0.05, critical=0.1)):
        text = early_stop_text(update, limits=limits)
        assert text == f"epoch 3 minibatch 2, {name} 0.0500 > 0.0300, {kl} after it {after}"
        short = early_stop_text(update, short=True, limits=limits)
        assert short == f"epoch 3 mb 2, {sign}0.0500 > 0.0300, after {after}"


@pytest.mark.parametrize(
    ("value", "threshold", "text"),
    [
        (0.05, 0.03, "0.0500 > 0.0300"),
        (0.030004, 0.03, "0.030004 > 0.030000"),
        (0.03 + 1e-12, 0.03, "0.030000000001 > 0.03"),
        (3e-5, 1.5e-5, "0.000030 > 0.000015"),
        (3e-10, 1.5e-10, "3e-10 > 1.5e-10"),
        (math.nan, 0.03, "non-finite > 0.0300"),
        (None, 0.03, "above 0.03"),
    ],
)
def test_a_stop_shows_a_value_that_reads_above_its_limit(value: float | None, threshold: float, text: str) -> None:
    stop = EarlyStop(epoch=1, minibatch=1, value=value, threshold=threshold)
    assert f", pooled KL {text}, KL after" in early_stop_text(PPOUpdatePayload(update_id=1, early_stop=stop))


def test_an_update_that_did_not_stop_has_no_text_of_a_stop() -> None:
    assert early_stop_text(PPOUpdatePayload(update_id=1)) == ""


def test_an_update_without_choices_shows_its_differential_entropy() -> None:
    heads = (HeadStats(name="arm", kind="gaussian", kl=0.01, share=1.0, decisions=4, entropy=1.42),)
    update = make_update(1, 0.01, heads=heads, entropy=1.42, entropy_normalised=None)
    assert "differential entropy 1.42 nats" in update_text(update)


def test_the_head_that_carries_a_high_kl_is_in_the_log() -> None:
    heads = (HeadStats(name="slot", share=0.38), HeadStats(name="blueprint", share=0.62))
    update = PPOUpdatePayload(update_id=1, kl_divergence=0.02, health=HealthLevel.WARNING, heads=heads)
    assert update_text(update).startswith("KL 0.0200  blueprint 62%")


def test_an_update_whose_sender_told_no_level_is_as_loud_as_its_kl() -> None:
    """Over OTLP a KL of 0.042 without the attribute stood as information beside a critical verdict."""
    update = PPOUpdatePayload(update_id=1, kl_divergence=0.042, heads=(HeadStats(name="slot", share=1.0),))
    assert update.health is HealthLevel.UNKNOWN
    assert ppo_update(update, 0, DEFAULT_KL_LIMITS).tone == "critical"
    assert update_text(update) == "KL 0.0420  slot 100%"
    assert update_line(update, "")[2] == ("✖ critical", "crit")
    state = TamiyoState()
    advance(state, 1, update)
    assert state.level is HealthLevel.CRITICAL


# --- the return ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hundred", "mean", "shown"), [(5.0, 9.0, 5.0), (None, 9.0, 9.0), (None, None, None), (0.0, 9.0, 0.0)]
)
def test_the_return_to_show(hundred: float | None, mean: float | None, shown: float | None) -> None:
    assert return_to_show(PPOUpdatePayload(update_id=1, return_mean_100=hundred, return_mean=mean)) == shown
    assert return_to_show(None) is None


def test_the_return_column_has_the_last_100_episodes_where_a_rollout_ends_none() -> None:
    def column(**fields: float | None) -> str:
        return update_line(make_update(1, **fields), "")[1][0].split()[1]

    assert column(return_mean=21.0, return_mean_100=20.0) == "21.0"
    assert column(return_mean=None, return_mean_100=20.0) == "~20.0"
    assert column(return_mean=None, return_mean_100=None) == "—"
