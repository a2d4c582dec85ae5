"""When an update stops, and what it refuses: the KL's limit, an interruption, and values that are not finite."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from heard_updates import listen, weights

from esper_core.health import HealthLevel


@pytest.mark.parametrize(("planned", "travel"), [(16, 0.1), (32, 0.12), (64, 0.2), (160, 0.35), (320, 0.5)])
def test_true_kl_at_an_early_stop_is_within_a_quarter_of_the_limit(bandit: Any, planned: int, travel: float) -> None:
    """Closed-form KL at the moment of the stop, for updates of 16 to 320 minibatches."""
    seen = []
    for seed in range(3):
        agent = bandit.agent(
            seed=seed,
            spread=0.3,
            epochs=4,
            minibatch_size=256,
            learning_rate=travel / planned,
            entropy_coef=0.0,
            max_grad_norm=1e3,
        )
        old = bandit.log_probs(agent)
        agent.update(bandit.rollout(agent, 256 * planned // 4))
        payload = agent.last
        assert payload is not None
        assert payload.early_stop is not None, f"{payload.kl_divergence} after {payload.minibatches} minibatches"
        assert payload.minibatches >= 5, "the stop comes while the KL climbs, not at once"
        truth = bandit.true_kl(old, bandit.log_probs(agent))
        seen.append(truth.weighted / payload.early_stop.threshold)
        assert payload.kl_divergence == pytest.approx(truth.weighted, rel=0.1)
    assert seen == pytest.approx([1.0] * 3, abs=0.25)


def test_early_stop_leaves_out_that_minibatchs_step(bandit: Any) -> None:
    agent = bandit.agent(epochs=10, minibatch_size=64, learning_rate=5e-2)
    agent.update(bandit.rollout(agent, 256))
    payload = agent.last
    assert payload is not None
    stop = payload.early_stop
    assert payload.outcome == "early_stopped"
    assert stop is not None
    assert payload.minibatches == (stop.epoch - 1) * 4 + stop.minibatch - 1
    assert stop.value > stop.threshold == pytest.approx(0.03)
    assert stop.head in agent.layout.names
    assert payload.epochs == stop.epoch == len(payload.kl_by_epoch)
    assert payload.reason.startswith("KL (weighted)")


def test_stop_before_the_first_step_still_reports(bandit: Any) -> None:
    agent = bandit.agent(minibatch_size=64)
    rollout = bandit.rollout(agent, 256)
    recorder, before = listen(agent), weights(agent)
    agent.update(replace(rollout, batch=replace(rollout.batch, log_prob=rollout.batch.log_prob - 1.0)))
    (event,) = recorder.updates
    assert event.payload.early_stop is not None
    assert (event.payload.early_stop.epoch, event.payload.early_stop.minibatch) == (1, 1)
    assert event.payload.minibatches == 0
    assert event.payload.policy_loss is None
    assert event.payload.kl_divergence == pytest.approx(math.expm1(1.0) - 1.0, rel=1e-3)
    assert torch.equal(weights(agent), before)


def test_epoch_rule_stops_after_the_epoch(bandit: Any) -> None:
    agent = bandit.agent(epochs=10, minibatch_size=64, learning_rate=5e-2, stop_rule="epoch")
    agent.update(bandit.rollout(agent, 256))
    payload = agent.last
    assert payload is not None
    assert payload.early_stop is not None
    assert payload.early_stop.minibatch == 4
    assert payload.minibatches == payload.early_stop.epoch * 4


def test_joint_limit_stops_sooner_than_the_weighted_one(bandit: Any) -> None:
    steps = {}
    for on in ("weighted", "joint"):
        agent = bandit.agent(epochs=20, minibatch_size=64, learning_rate=1e-2, stop_on=on)
        agent.update(bandit.rollout(agent, 256))
        assert agent.last is not None
        assert agent.last.early_stop is not None
        steps[on] = agent.last.minibatches
    assert steps["joint"] < steps["weighted"]


@pytest.mark.parametrize(("allowed", "outcome"), [(0, "skipped"), (3, "interrupted")])
def test_interrupted_update_says_so(bandit: Any, allowed: int, outcome: str) -> None:
    agent = bandit.agent(epochs=4, minibatch_size=64, target_kl=0)
    recorder = listen(agent)
    calls = iter([False] * allowed + [True] * 100)
    agent.update(bandit.rollout(agent, 256), should_stop=lambda: next(calls))
    (event,) = recorder.updates
    assert event.payload.outcome == outcome
    assert event.payload.minibatches == allowed
    assert event.payload.reason == f"asked to stop at epoch 1, minibatch {allowed + 1}"
    assert event.payload.kl_divergence is not None


# --- what is not finite -------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["observations", "advantages", "returns", "log_prob"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_non_finite_rollout_is_skipped_before_any_step(bandit: Any, field: str, value: float) -> None:
    agent = bandit.agent(minibatch_size=64)
    rollout = bandit.rollout(agent, 128)
    poisoned = getattr(rollout.batch, field).clone()
    poisoned.view(128, -1)[5, -1] = value
    recorder, before = listen(agent), weights(agent)
    metrics = agent.update(replace(rollout, batch=replace(rollout.batch, **{field: poisoned})))
    (event,) = recorder.updates
    assert event.payload.outcome == "skipped"
    assert event.payload.non_finite == 1
    assert event.payload.reason.startswith("1 non-finite ")
    assert event.payload.health is HealthLevel.NON_FINITE
    assert "approx_kl" not in metrics
    assert torch.equal(weights(agent), before)


def test_non_finite_weights_are_reported_and_act_legally(bandit: Any) -> None:
    agent = bandit.agent(minibatch_size=64)
    rollout = bandit.rollout(agent, 128)
    with torch.no_grad():
        agent.policy.logit_weight[0, 0] = math.nan
    agent.update(rollout)
    assert agent.last is not None
    assert agent.last.outcome == "skipped"
    assert agent.last.reason == "1 non-finite weights"
    mask = np.ones(16, dtype=bool)
    mask[0] = False
    actions = agent.act(np.tile(np.eye(3, dtype=np.float32), (50, 1)), np.tile(mask, (150, 1)))
    assert (actions < [head.size for head in bandit.heads]).all()
    assert (actions[:, 0] != 0).all()


def test_gradient_overflow_ends_the_update_with_clean_weights(bandit: Any) -> None:
    agent = bandit.agent(minibatch_size=64, normalise_advantage=False)
    rollout = bandit.rollout(agent, 128)
    huge = torch.full_like(rollout.batch.returns, 3e38)
    agent.update(replace(rollout, batch=replace(rollout.batch, returns=huge)))
    assert agent.last is not None
    assert agent.last.outcome == "skipped"
    assert agent.last.non_finite >= 1
    assert agent.last.reason == "non-finite loss or gradient at epoch 1, minibatch 1"
    assert torch.isfinite(weights(agent)).all()


def test_empty_rollout_is_skipped(bandit: Any) -> None:
    agent = bandit.agent()
    rollout = bandit.rollout(agent, 4)
    agent.update(replace(rollout, batch=rollout.batch.take(torch.zeros(0, dtype=torch.int64))))
    assert agent.last is not None
    assert (agent.last.outcome, agent.last.reason) == ("skipped", "the rollout is empty")
