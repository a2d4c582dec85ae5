"""Sums are joined by name: on the device, over ranks and on the host."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from esper_core.kl import numpy as kernels
from esper_core.ppo.measure import measure
from esper_core.ppo.reducer import Identity
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
def test_the_final_pass_equals_an_independent_float64_enumeration(bandit: Any, estimator: str) -> None:
    """Masks, forced steps, heads of different sizes: every number under its own name and head."""
    agent = bandit.agent(seed=3, spread=0.4)
    rollout = bandit.rollout(agent, 301)
    generator = torch.Generator().manual_seed(0)
    flat = torch.rand(301, agent.layout.total, generator=generator) < 0.5
    legal = agent.layout.pad(flat)
    legal.scatter_(-1, rollout.batch.actions.unsqueeze(-1), torch.ones((), dtype=torch.bool).expand(301, 5, 1))
    active = rollout.batch.active & (torch.rand(301, 5, generator=generator) < 0.8)
    unforced = active.any(-1)
    with torch.no_grad():
        old = agent.policy.evaluate(rollout.batch.observations, rollout.batch.actions, legal)
        agent.policy.logit_weight += 0.3 * torch.randn(agent.policy.logit_weight.shape, generator=generator)
        new = agent.policy.evaluate(rollout.batch.observations, rollout.batch.actions, legal)
    batch = replace(rollout.batch, legal=legal, active=active, unforced=unforced, log_prob=old.log_prob)
    exact = old.log_probs if estimator == "exact" else None
    final = measure(agent.policy, batch, old_log_probs=exact, clip_range=0.2, reducer=Identity())

    on = active.numpy()
    r = (new.log_prob - old.log_prob).double().numpy()
    if estimator == "k3":
        expected = kernels.k3_sums(r, on)
    else:
        expected = kernels.exact_categorical_sums(old.log_probs.numpy(), new.log_probs.numpy(), on)
    assert final.kl.numerators == pytest.approx(tuple(expected), rel=1e-4, abs=1e-6)
    assert final.kl.decisions == tuple(on.sum(0))
    assert final.kl.steps == float(unforced.sum())
    p = np.exp(new.log_probs.double().numpy())
    entropy = -(p * np.where(p > 0, np.log(np.maximum(p, 1e-300)), 0.0)).sum(-1)
    choices = legal.sum(-1).numpy()
    several = on & (choices > 1)
    normalised = np.where(several, entropy / np.log(np.maximum(choices, 2)), 0.0)
    clipped = on & (np.abs(np.exp(r) - 1) > 0.2)
    for name, values, counted in (
        ("entropy", np.where(on, entropy, 0.0), on),
        ("entropy_normalised", normalised, several),
        ("clip_fraction", clipped, on),
    ):
        means = final.by_head[name]
        assert [mean.count for mean in means] == list(counted.sum(0)), name
        assert [mean.total for mean in means] == pytest.approx(list(values.sum(0)), rel=1e-4, abs=1e-5), name
    assert final.measured["ratio_max"] == pytest.approx(np.exp(np.where(on, r, 0).sum(1)).max(), rel=1e-4)
    assert (final.measured["clamped"], final.non_finite) == (0, 0)
