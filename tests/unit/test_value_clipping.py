"""Value clipping, against the published formulas written out in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch

from esper_core.config.schema import PPOConfig
from esper_core.ppo.minibatches import minibatches
from esper_core.ppo.reducer import Identity
from esper_core.ppo.surrogate import squared_errors

pytestmark = pytest.mark.numeric
RULES = ("larger", "clipped")


def loss_of(rule: str, new: Any, old: Any, returns: Any, reach: float) -> float:
    """0.5 times the mean, one sample after another."""
    found: list[float] = []
    for value, before, target in zip(new, old, returns, strict=True):
        held = before + min(max(value - before, -reach), reach)
        errors = ((value - target) ** 2, (held - target) ** 2)
        found.append(max(errors) if rule == "larger" else errors[1])
    return 0.5 * sum(found) / len(found)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("reach", [0.01, 1e6])
def test_the_second_step_sees_the_clipped_loss(bandit: Any, rule: str, reach: float) -> None:
    """One minibatch an epoch: the first meets the old values, the second those that the first step moved."""
    ppo = {"minibatch_size": 300, "learning_rate": 5e-2, "target_kl": 0, "value_clip_range": reach}
    one, two = (bandit.agent(epochs=epochs, value_clip_rule=rule, **ppo) for epochs in (1, 2))
    for agent in (one, two):
        rollout = bandit.rollout(agent, 300)
        agent.update(rollout)
    batch = rollout.batch
    old, returns = batch.values.double().numpy(), batch.returns.double().numpy()
    new = one.values_of(batch.observations).double().numpy()
    assert np.abs(new - old).max() > 0.01
    losses = [loss_of(rule, values, old, returns, reach) for values in (old, new)]
    assert one.last.value_loss == pytest.approx(losses[0], rel=1e-5)
    assert two.last.value_loss == pytest.approx(sum(losses) / 2, rel=1e-5)
    if reach == 0.01:
        assert losses[1] != pytest.approx(loss_of(rule, new, old, returns, 1e6), rel=1e-3)


def test_a_value_that_moved_too_far_towards_its_target_learns_no_further(bandit: Any) -> None:
    """Its clipped error is the larger one, and has no gradient; moved away, it is drawn back under one rule alone."""
    batch = bandit.rollout(bandit.agent(), 3).batch
    batch = replace(batch, values=torch.zeros(3), returns=torch.tensor([2.0, 2.0, 2.0]))
    (minibatch,) = minibatches(batch, 1, clip_range=0.2, reducer=Identity())
    cases: tuple[tuple[Literal["larger", "clipped"], list[float]], ...] = (
        ("larger", [-3.8, 0.0, -6.0]),
        ("clipped", [-3.8, 0.0, 0.0]),
    )
    for rule, expected in cases:
        values = torch.tensor([0.1, 1.0, -1.0], requires_grad=True)
        errors = squared_errors(values, minibatch, PPOConfig(value_clip_range=0.2, value_clip_rule=rule))
        errors.backward()  # type: ignore[no-untyped-call]  # torch ships it without annotations
        assert values.grad is not None
        assert values.grad.tolist() == pytest.approx(expected)


def test_zero_clips_nothing(bandit: Any) -> None:
    weights = []
    for reach in (0.0, 1e6):
        agent = bandit.agent(epochs=3, minibatch_size=100, target_kl=0, value_clip_range=reach)
        agent.update(bandit.rollout(agent, 300))
        weights.append(torch.nn.utils.parameters_to_vector(agent.policy.parameters()))
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=1e-6)
