"""Sums are joined by name: on the device, over ranks and on the host."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from esper_core.config.schema import PPOConfig
from esper_core.kl import numpy as kernels
from esper_core.ppo import HeadSpec, PPOAgent
from esper_core.ppo.measure import measure
from esper_core.ppo.reducer import Identity
from esper_core.ppo.rollout import Batch, active_decisions
from esper_core.ppo.sums import Sums


def test_numbers_come_back_under_their_names_whatever_their_shape_type_and_order() -> None:
    big = 2**24 + 1  # float32 cannot hold it
    parts = {
        "count": torch.tensor(big),
        "heads": torch.tensor([1.5, 2.5], dtype=torch.float32),
        "none": torch.zeros(0),
        "loss": torch.tensor(0.1),
        "flags": torch.tensor([True, False, True]),
    }
    host = Sums.of(parts).to_host()
    assert host.one("count") == big
    assert host.each("heads") == (1.5, 2.5)
    assert host.each("none") == ()
    assert host.one("loss") == float(torch.tensor(0.1))
    assert host.each("flags") == (1.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="too many values"):
        host.one("heads")


def test_they_add_and_join_by_name() -> None:
    a, b = (Sums.of({"x": torch.tensor(value), "y": torch.ones(2)}) for value in (1.0, 2.0))
    both = (a + b).to_host()
    assert (both.one("x"), both.each("y")) == (3.0, (2.0, 2.0))
    assert a.most(b).to_host().one("x") == 2.0
    assert math.isnan(a.most(Sums.of({"x": torch.tensor(math.nan), "y": torch.ones(2)})).to_host().one("x"))
    assert float(Sums.of({"y": torch.ones(2), "x": torch.tensor(7.0)}).one("x")) == 7.0
    joined = Sums.joined(a, Sums.of({"z/one": torch.tensor(5.0)})).to_host()
    assert (joined.one("x"), joined.group("z")) == (1.0, {"one": (5.0,)})
    with pytest.raises(ValueError, match="under different names"):
        a + Sums.of({"x": torch.tensor(1.0)})
    with pytest.raises(KeyError):
        a.one("z")


@pytest.mark.parametrize("estimator", ["k3", "exact"])
@pytest.mark.parametrize("sizes", [(4,), (3, 1, 5), (3, 4, 3, 2, 4)], ids=["1 head", "3 heads", "5 heads"])
def test_the_reported_kl_equals_a_written_out_float64_enumeration(sizes: tuple[int, ...], estimator: str) -> None:
    """Action masks and causal masks, decision by decision and choice by choice, with nothing of Esper's own."""
    rng = np.random.default_rng(len(sizes))
    samples, width = 60, max(sizes)
    agent = PPOAgent(
        [HeadSpec(f"h{i}", size) for i, size in enumerate(sizes)], (3,), PPOConfig(hidden=(8,)), seed=len(sizes)
    )
    causal = rng.random((samples, len(sizes))) < 0.7
    legal = np.zeros((samples, len(sizes), width), dtype=bool)
    actions = np.zeros((samples, len(sizes)), dtype=np.int64)
    for row in range(samples):
        for head, size in enumerate(sizes):
            legal[row, head, :size] = rng.random(size) < 0.6
            actions[row, head] = rng.integers(size)
            legal[row, head, actions[row, head]] = True
    observations = rng.standard_normal((samples, 3)).astype(np.float32)
    shown, taken, allowed = torch.from_numpy(observations), torch.from_numpy(actions), torch.from_numpy(legal)
    policies = []
    for step in range(2):
        with torch.no_grad():
            shape = agent.policy.logit_weight.shape
            agent.policy.logit_weight.add_(0.4 * torch.from_numpy(rng.standard_normal(shape).astype(np.float32)))
            logits = agent.policy(shown)[0].double().numpy()
            if step == 0:
                before = agent.policy.evaluate(shown, taken, allowed)
        policies.append(logits)
    active, unforced = active_decisions(agent.layout, torch.from_numpy(causal), allowed)
    zeros = torch.zeros(samples)
    batch = Batch(shown, taken, before.log_prob, allowed, active, unforced, zeros, zeros, zeros)
    old_distribution = before.distribution if estimator == "exact" else None
    final = measure(agent.policy, batch, old=old_distribution, reducer=Identity())

    numerators, decisions, steps = [0.0] * len(sizes), [0] * len(sizes), 0
    for row in range(samples):
        decided = False
        for head in range(len(sizes)):
            choices = [choice for choice in range(width) if legal[row, head, choice]]
            if not causal[row, head] or len(choices) < 2:
                continue
            decided = True
            decisions[head] += 1
            old, new = (
                {c: math.exp(p[row, head, c]) / sum(math.exp(p[row, head, o]) for o in choices) for c in choices}
                for p in policies
            )
            if estimator == "exact":
                numerators[head] += sum(old[c] * math.log(old[c] / new[c]) for c in choices)
            else:
                ratio = new[actions[row, head]] / old[actions[row, head]]
                numerators[head] += ratio - 1 - math.log(ratio)
        steps += decided
    assert 0 < sum(decisions) < samples * len(sizes)
    assert final.kl.decisions == tuple(decisions)
    assert final.kl.steps == steps
    assert final.kl.numerators == pytest.approx(numerators, rel=1e-4, abs=1e-6)
    assert final.kl.weighted == pytest.approx(sum(numerators) / sum(decisions), rel=1e-4)
    assert final.kl.joint == pytest.approx(sum(numerators) / steps, rel=1e-4)


@pytest.mark.parametrize("estimator", ["k3", "exact"])
def test_the_final_pass_equals_an_independent_float64_enumeration(bandit: Any, estimator: str) -> None:
    """Masks, forced steps, heads of different sizes: every number under its own name and head."""
    agent = bandit.agent(seed=3, spread=0.4)
    rollout = bandit.rollout(agent, 301)
    generator = torch.Generator().manual_seed(0)
    flat = torch.rand(301, agent.layout.total, generator=generator) < 0.5
    legal = agent.layout.pad(flat)
    legal.scatter_(-1, rollout.batch.actions.unsqueeze(-1), torch.ones((), dtype=torch.bool).expand(301, 5, 1))
    causal = rollout.batch.active & (torch.rand(301, 5, generator=generator) < 0.8)
    active, unforced = active_decisions(agent.layout, causal, legal)
    with torch.no_grad():
        old = agent.policy.evaluate(rollout.batch.observations, rollout.batch.actions, legal)
        agent.policy.logit_weight += 0.3 * torch.randn(agent.policy.logit_weight.shape, generator=generator)
        new = agent.policy.evaluate(rollout.batch.observations, rollout.batch.actions, legal)
    batch = replace(rollout.batch, legal=legal, active=active, unforced=unforced, log_prob=old.log_prob)
    exact = old.distribution if estimator == "exact" else None
    final = measure(agent.policy, batch, old=exact, reducer=Identity())

    on = active.numpy()
    r = (new.log_prob - old.log_prob).double().numpy()
    if estimator == "k3":
        expected = kernels.k3_sums(r, on)
    else:
        expected = kernels.exact_categorical_sums(
            old.distribution.log_probs.numpy(), new.distribution.log_probs.numpy(), on
        )
    assert final.kl.numerators == pytest.approx(tuple(expected), rel=1e-4, abs=1e-6)
    assert final.kl.decisions == tuple(on.sum(0))
    assert final.kl.steps == float(unforced.sum())
    p = np.exp(new.distribution.log_probs.double().numpy())
    entropy = -(p * np.where(p > 0, np.log(np.maximum(p, 1e-300)), 0.0)).sum(-1)
    choices = legal.sum(-1).numpy()
    normalised = np.where(on, entropy / np.log(np.maximum(choices, 2)), 0.0)
    for name, values in (("entropy", np.where(on, entropy, 0.0)), ("entropy_normalised", normalised)):
        means = final.by_head[name]
        assert [mean.count for mean in means] == list(on.sum(0)), name
        assert [mean.total for mean in means] == pytest.approx(list(values.sum(0)), rel=1e-4, abs=1e-5), name
    assert final.measured["ratio_max"] == pytest.approx(np.exp(np.where(on, r, 0).sum(1)).max(), rel=1e-4)
    assert (final.measured["clamped"], final.non_finite) == (0, 0)
