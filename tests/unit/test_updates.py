"""UpdateRecorder: a loop's calls give one complete payload, computed in one place."""

from __future__ import annotations

import itertools
import math
from dataclasses import fields
from typing import Any, Literal

import pytest

from esper_core.emitter import TelemetryEmitter
from esper_core.events import Divergence, EarlyStop, HeadStats, PPOUpdatePayload
from esper_core.health import HealthLevel
from esper_core.hooks import SinkHooks
from esper_core.kl import KLStats
from esper_core.updates import EpisodeSummary, FinalPass, Mean, MinibatchSeen, UpdateRecorder, UpdateSettings

H = HealthLevel
SETTINGS = UpdateSettings(heads=("slot", "tempo"), target_kl=0.02, clip_range=0.2)


class Heard(SinkHooks):
    """Keeps every update event."""

    def __init__(self) -> None:
        self.updates: list[Any] = []

    def esper_ppo_updated(self, event: Any) -> None:
        self.updates.append(event)


def emitter(hooks: SinkHooks | None = None) -> TelemetryEmitter:
    """One second passes between two readings of its clock."""
    moments = itertools.count(1_000_000_000, 1_000_000_000)
    return TelemetryEmitter(hooks, clock_ns=lambda: next(moments))


def begin(settings: UpdateSettings = SETTINGS, **plan: Any) -> UpdateRecorder:
    return UpdateRecorder.begin(emitter(), settings, **({"update_id": 1} | plan))


def kl(slot: float, tempo: float = 0.0, decisions: float = 100.0) -> KLStats:
    return KLStats((slot * decisions, tempo * decisions), (decisions, decisions), decisions)


def seen(value: float, **shown: float | None) -> MinibatchSeen:
    return MinibatchSeen(kl(value, value), shown)


# --- the whole payload --------------------------------------------------------------------------------


def test_an_update_with_everything_measured_field_by_field() -> None:
    """Every field is given, and each by hand: nothing is mixed up, nothing is left out."""
    heard = Heard()
    telemetry = emitter(heard)
    telemetry.begin_rollout(7)
    recorder = UpdateRecorder.begin(telemetry, SETTINGS, update_id=7, epochs=4, minibatches=8)
    recorder.measured({"steps": 190, "steps_forced": 10, "advantage_mean": 0.25, "advantage_std": 2.0})
    recorder.measured({"explained_variance": 0.5, "learning_rate": 3e-4, "entropy_coef": 0.01, "library_kl": 0.0125})
    recorder.diverged(Divergence(name="objective/kl", estimator="k1", per_step=-0.25))
    for slot, loss, norm in ((0.001, 1.0, 2.0), (0.021, 3.0, 5.0)):
        recorder.begin_epoch()
        recorder.saw(
            MinibatchSeen(
                KLStats((slot * 60, 0.001 * 20), (60.0, 20.0), 64.0),
                {"policy_loss": -loss, "value_loss": loss, "grad_norm": norm},
                {"clip_fraction": Mean(loss, 64.0)},
                {"clip_fraction": (Mean(loss, 60.0), Mean(0.0, 20.0))},
            )
        )
        assert not recorder.stop_before_step()
        recorder.stepped()
    recorder.saw(
        MinibatchSeen(
            KLStats((6.0, 1.0), (60.0, 20.0), 64.0),
            {"policy_loss": 9.0, "value_loss": 9.0, "grad_norm": 9.0},
            {"clip_fraction": Mean(28.0, 64.0)},
            {"clip_fraction": (Mean(26.0, 60.0), Mean(3.0, 20.0))},
        )
    )
    assert recorder.stop_before_step()
    final = FinalPass(
        kl=KLStats((3.6, 0.4), (180.0, 70.0), 190.0),
        by_head={
            "entropy": (Mean(90.0, 180.0), Mean(70.0, 70.0)),
            "entropy_normalised": (Mean(80.0, 160.0), Mean(60.0, 70.0)),
        },
        measured={"ratio_max": 1.75, "clamped": 3},
    )
    episodes = EpisodeSummary(returns=(1.0, 4.0, math.nan), lengths=(10, 20, 30), mean_100=2.5, total=40)
    payload = recorder.finish(final, env_steps=1400, rollout_steps=200, episodes=episodes)

    head = HeadStats(
        name="slot",
        kl=0.02,
        decisions=180,
        weight=180 / 190,
        share=0.9,
        entropy=0.5,
        entropy_normalised=0.5,
        clip_fraction=30 / 180,
    )
    threshold = 1.5 * 0.02
    # Two minibatches are looked back on: the one that crossed and the one before it.
    crossed = (0.021 * 60 + 0.001 * 20 + 7.0) / 160
    expected = {
        "update_id": 7,
        "env_steps": 1400,
        "outcome": "early_stopped",
        "reason": f"KL (weighted) {crossed:.6g} > 0.03 at epoch 2, minibatch 2",
        "device": "cpu",
        "kl_divergence": 4.0 / 250,
        "kl_joint": 4.0 / 190,
        "kl_first_minibatch": (0.001 * 60 + 0.001 * 20) / 80,
        # Of unequal minibatches the ratio of sums, which is not the mean of their means.
        "kl_mean": (0.001 * 60 + 0.021 * 60 + 2 * 0.001 * 20 + 7.0) / 240,
        "kl_max": 0.0875,
        "kl_last": 0.0875,
        "kl_by_epoch": (0.001, (0.021 * 60 + 0.02 + 7.0) / 160),
        "kl_estimator": "k3",
        "kl_measured": "after_last_step",
        "granularity": "step",
        "library": "",
        "library_kl_name": "",
        "library_kl": 0.0125,
        "divergences": (Divergence(name="objective/kl", estimator="k1", per_step=-0.25),),
        "joint_would_stop": True,
        "target_kl": 0.02,
        "stop_threshold": threshold,
        "stop_on": "weighted",
        "stop_rule": "pooled",
        "stop_window": 2,
        "early_stop": EarlyStop(epoch=2, minibatch=2, value=crossed, threshold=threshold, head="slot"),
        "ratio_max": 1.75,
        "clamped": 3,
        "non_finite": 0,
        "health": H.WARNING,
        "heads": (head, payload.heads[1]),
        "epochs": 2,
        "epochs_planned": 4,
        "minibatches": 2,
        "minibatches_planned": 32,
        "steps": 190,
        "steps_forced": 10,
        "policy_loss": -2.0,
        "value_loss": 2.0,
        "entropy": 160 / 190,
        "entropy_normalised": 140 / 230,
        "clip_fraction": 32 / 192,
        "explained_variance": 0.5,
        "grad_norm": 3.5,
        "grad_norm_max": 5.0,
        "advantage_mean": 0.25,
        "advantage_std": 2.0,
        "learning_rate": 3e-4,
        "clip_range": 0.2,
        "entropy_coef": 0.01,
        "episodes": 3,
        "run_episodes": 40,
        "return_mean": 2.5,
        "return_min": 1.0,
        "return_max": 4.0,
        "episode_length_mean": 20.0,
        "return_mean_100": 2.5,
        "rollout_s": 1.0,
        "update_s": 1.0,
        "steps_per_s": 100.0,
    }
    assert set(expected) == {item.name for item in fields(PPOUpdatePayload)}, "a new field belongs in this test"
    for name, value in expected.items():
        given = getattr(payload, name)
        if isinstance(value, float | tuple) and name not in {"heads", "divergences"}:
            assert given == pytest.approx(value, rel=1e-12), name
        elif name not in {"heads", "early_stop"}:
            assert given == value, name
    assert payload.early_stop is not None
    assert payload.early_stop.value == pytest.approx(crossed, rel=1e-12)
    assert (payload.early_stop.epoch, payload.early_stop.minibatch, payload.early_stop.head) == (2, 2, "slot")
    for item in fields(HeadStats):
        value = getattr(head, item.name)
        given = getattr(payload.heads[0], item.name)
        assert given == (pytest.approx(value, rel=1e-12) if isinstance(value, float) else value), item.name
    tempo = payload.heads[1]
    assert (tempo.name, tempo.decisions, tempo.entropy) == ("tempo", 70, 1.0)
    assert [tempo.kl, tempo.share] == [pytest.approx(0.4 / 70), pytest.approx(0.1)]
    (event,) = heard.updates
    assert event.payload is payload, "built once, emitted as it was built"
    own = event.trace.own
    assert event.time_ns == own.end_ns
    assert (own.end_ns - own.start_ns) / 1e9 == payload.update_s


def test_a_loop_that_knows_only_log_probabilities_leaves_the_rest_unmeasured() -> None:
    """Old and new log-probabilities give sums; what follows from target and plan is filled in here, nowhere else."""
    recorder = begin(UpdateSettings(heads=("action",), target_kl=0.02), epochs=8, minibatches=8)
    payload = recorder.finish(FinalPass(kl=KLStats((0.1,), (10.0,), 10.0)))
    assert (payload.kl_divergence, payload.kl_joint, payload.health) == (0.01, 0.01, H.HEALTHY)
    assert (payload.stop_threshold, payload.stop_window, payload.minibatches_planned) == (1.5 * 0.02, 4, 64)
    assert payload.heads == (HeadStats(name="action", kl=0.01, decisions=10, weight=1.0, share=1.0),)
    unmeasured = ("policy_loss", "entropy", "clip_fraction", "grad_norm_max", "kl_mean", "ratio_max", "return_mean")
    assert [getattr(payload, name) for name in unmeasured] == [None] * len(unmeasured), "None, never a made-up 0"


def test_a_new_metric_is_named_where_it_is_measured_and_nowhere_else() -> None:
    """In the loop, per head, per rollout and in the final pass: the payload's field is all that a caller names."""
    recorder = begin()
    recorder.measured({"advantage_mean": 0.5})
    recorder.saw(seen(0.0, value_loss=0.25))
    recorder.stepped()
    final = FinalPass(
        kl=kl(0.0), by_head={"clip_fraction": (Mean(1, 4), Mean(0, 0))}, measured={"clip_fraction": Mean(3, 4)}
    )
    payload = recorder.finish(final)
    assert (payload.advantage_mean, payload.value_loss, payload.clip_fraction) == (0.5, 0.25, 0.75)
    assert [head.clip_fraction for head in payload.heads] == [0.25, None]


@pytest.mark.parametrize("name", ["ratio_maximum", "kl_divergence", "stop_threshold", "health"])
def test_a_name_that_is_no_field_or_not_the_callers_is_refused(name: str) -> None:
    recorder = begin()
    recorder.measured({name: 1.0})
    with pytest.raises(TypeError, match=name):
        recorder.finish()


# --- the loop -----------------------------------------------------------------------------------------


def test_a_stop_names_epoch_minibatch_and_head_without_being_told() -> None:
    recorder = begin(epochs=2, minibatches=2)
    for value in (0.0, 0.0, 0.0, 0.04):
        recorder.saw(MinibatchSeen(kl(value / 2, value * 1.5)))
        if recorder.stop_before_step():
            break
        recorder.stepped()
    stop = recorder.finish(FinalPass(kl=kl(0.04))).early_stop
    assert stop is not None
    assert (stop.epoch, stop.minibatch, stop.head) == (1, 4, "tempo")


def test_the_epoch_rule_stops_after_the_epoch_whose_last_step_was_taken() -> None:
    recorder = begin(
        UpdateSettings(heads=("slot", "tempo"), target_kl=0.02, stop_rule="epoch"), epochs=3, minibatches=2
    )
    epochs = 0
    for epochs in (1, 2, 3):
        recorder.begin_epoch()
        for _ in range(2):
            recorder.saw(seen(0.02 * epochs))
            assert not recorder.stop_before_step()
            recorder.stepped()
        if recorder.stop_after_epoch():
            break
    payload = recorder.finish(FinalPass(kl=kl(0.04)))
    assert epochs == payload.epochs == 2
    assert payload.minibatches == 4
    assert payload.early_stop is not None
    assert (payload.early_stop.epoch, payload.early_stop.minibatch) == (2, 2)


def test_means_are_over_the_steps_taken_and_a_minibatch_without_one_counts_in_the_kl_alone() -> None:
    recorder = begin()
    recorder.saw(seen(0.01, policy_loss=1.0, clip_fraction=None))
    recorder.stepped()
    recorder.saw(seen(0.03, policy_loss=100.0, clip_fraction=0.5))
    recorder.interrupt("asked to stop")
    payload = recorder.finish(FinalPass(kl=kl(0.0)))
    assert (payload.outcome, payload.reason) == ("interrupted", "asked to stop at epoch 1, minibatch 2")
    assert (payload.policy_loss, payload.clip_fraction) == (1.0, None)
    assert [payload.kl_mean, payload.kl_max] == [pytest.approx(0.02), pytest.approx(0.03)]


def test_an_interruption_before_the_first_step_is_a_skipped_update() -> None:
    recorder = begin()
    recorder.saw(seen(0.0, policy_loss=math.nan, grad_norm=math.inf))
    recorder.interrupt("non-finite loss or gradient")
    payload = recorder.finish(FinalPass(kl=kl(0.0)))
    assert (payload.outcome, payload.non_finite, payload.health) == ("skipped", 2, H.NON_FINITE)


def test_a_skipped_update_says_why_and_measures_nothing() -> None:
    recorder = begin()
    recorder.skip("the rollout is empty", non_finite=0)
    payload = recorder.finish(env_steps=5)
    assert (payload.outcome, payload.reason, payload.env_steps) == ("skipped", "the rollout is empty", 5)
    assert (payload.kl_divergence, payload.health, payload.steps, payload.steps_per_s) == (None, H.UNKNOWN, 0, None)
    assert payload.heads == (HeadStats(name="slot"), HeadStats(name="tempo"))


def test_a_nan_in_the_loop_is_the_largest_value() -> None:
    recorder = begin(UpdateSettings(heads=("slot", "tempo")))
    for value in (0.01, math.nan, 0.02):
        recorder.saw(seen(value, grad_norm=value))
        recorder.stepped()
    payload = recorder.finish(FinalPass(kl=kl(0.0)))
    assert payload.kl_max is not None
    assert payload.grad_norm_max is not None
    assert math.isnan(payload.kl_max)
    assert math.isnan(payload.grad_norm_max)


# --- the level ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stats", "non_finite", "level"),
    [
        (KLStats((0.0,), (0.0,), 0.0), 0, H.UNKNOWN),
        (KLStats((0.014996,), (1.0,), 1.0), 0, H.HEALTHY),  # it reads 0.0150 when rounded
        (KLStats((0.015,), (1.0,), 1.0), 0, H.WARNING),
        (KLStats((0.03,), (1.0,), 1.0), 0, H.CRITICAL),
        (KLStats((math.nan,), (1.0,), 1.0), 0, H.NON_FINITE),
        (KLStats((0.002,), (2.0,), 0.001), 0, H.HEALTHY),  # joint 2: the limits are on the weighted KL
        (KLStats((0.001,), (1.0,), 1.0), 1, H.NON_FINITE),
        (KLStats((0.0,), (0.0,), 0.0), 1, H.NON_FINITE),
    ],
)
def test_the_updates_own_level(stats: KLStats, non_finite: int, level: HealthLevel) -> None:
    recorder = begin(UpdateSettings(heads=("action",)))
    assert recorder.finish(FinalPass(kl=stats, non_finite=non_finite)).health is level


def test_only_the_final_pass_sets_a_level() -> None:
    recorder = begin()
    recorder.saw(seen(0.5))
    recorder.stepped()
    payload = recorder.finish()
    assert [payload.kl_last, payload.kl_divergence, payload.health] == [pytest.approx(0.5), None, H.UNKNOWN]
    assert payload.kl_measured == "in_loop"
    assert begin().finish().kl_measured == "none"


def test_nothing_but_the_behaviour_policys_own_kl_sets_a_level() -> None:
    recorder = begin(UpdateSettings(heads=("token",), head_kinds=("token",), granularity="token", library="trl"))
    recorder.diverged(Divergence(name="objective/kl", per_decision=3.0), Divergence(name="teacher", per_step=9.0))
    recorder.measured({"library_kl": 5.0})
    payload = recorder.finish(FinalPass(kl=KLStats((0.01,), (10.0,), 2.0)))
    assert (payload.health, payload.kl_divergence, payload.library_kl) == (H.HEALTHY, 0.001, 5.0)
    assert [item.name for item in payload.divergences] == ["objective/kl", "teacher"]
    assert (payload.granularity, payload.library, payload.heads[0].kind) == ("token", "trl", "token")


def test_a_library_that_does_not_tell_the_value_of_its_stop_leaves_it_out() -> None:
    recorder = begin()
    recorder.saw(seen(0.0))
    recorder.stop(None)
    payload = recorder.finish(FinalPass(kl=kl(0.0)))
    assert payload.early_stop is not None
    assert payload.early_stop.value is None
    assert payload.reason == "KL (weighted) above 0.03 at epoch 1, minibatch 1"


def test_the_joint_rule_is_followed_beside_the_weighted_one() -> None:
    """Two heads that move alike: the joint KL is twice the weighted one."""
    cases: tuple[tuple[float, Literal["weighted", "joint"], bool, bool], ...] = (
        (0.01, "weighted", False, False),
        (0.02, "weighted", False, True),
        (0.04, "weighted", True, True),  # where the weighted one stops, the joint one would have
        (0.02, "joint", True, True),
    )
    for value, on, stopped, joint in cases:
        recorder = begin(UpdateSettings(heads=("slot", "tempo"), target_kl=0.02, stop_on=on))
        recorder.saw(seen(value))
        assert recorder.stop_before_step() is stopped
        assert recorder.finish(FinalPass(kl=kl(0.0))).joint_would_stop is joint
    off = begin(UpdateSettings(heads=("slot", "tempo")))
    off.saw(seen(9.0))
    off.stop_before_step()
    assert off.finish(FinalPass(kl=kl(0.0))).joint_would_stop is None
