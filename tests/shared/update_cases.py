"""Agents and rollouts of every form whose steps are compared: compiled or captured, and eager."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import pytest
import torch
from samples import random_rollout
from torch import Tensor

from esper_core.config.schema import PPOConfig
from esper_core.events import PPOUpdatePayload
from esper_core.ppo import HeadSpec, PPOAgent, Rollout

__all__ = [
    "CASES",
    "FIVE",
    "MIXED",
    "NOTICES",
    "SAMPLES",
    "Case",
    "agent_of",
    "assert_same",
    "rollout_of",
    "told",
    "vector",
]

SAMPLES = 250
FIVE = tuple(HeadSpec(f"head_{index}", size) for index, size in enumerate((3, 5, 3, 2, 4)))
ARMS = tuple(HeadSpec(f"arm_{index}", 0, "gaussian", -1, 1) for index in range(3))
MIXED = (HeadSpec("gear", 3), HeadSpec("arm", 0, "gaussian", -1, 1), HeadSpec("lamp", 2, "bernoulli"))


@dataclass(frozen=True)
class Case:
    """Heads, masks, and settings beside the usual ones."""

    heads: tuple[HeadSpec, ...]
    causal: bool = False
    legal: bool = False
    ppo: dict[str, Any] | None = None
    stops: bool = False


CASES = {
    "one head": Case((HeadSpec("action", 2),)),
    "one head without entropy": Case((HeadSpec("action", 3),), ppo={"entropy_coef": 0.0}),
    "three heads, masked choices": Case(FIVE[:3], legal=True),
    "five heads, causal masks": Case(FIVE, causal=True),
    "five heads, both, clipped hard": Case(
        FIVE, causal=True, legal=True, ppo={"clip_range": 0.05, "max_grad_norm": 0.05}
    ),
    "Gaussian heads": Case(ARMS, causal=True),
    "squashed Gaussian heads": Case(ARMS, ppo={"squash": True}),
    "heads of every kind": Case(MIXED, causal=True, legal=True),
    "values clipped, the larger error": Case(FIVE[:1], ppo={"value_clip_range": 0.05}),
    "values clipped, the clipped error": Case(FIVE[:1], ppo={"value_clip_range": 0.05, "value_clip_rule": "clipped"}),
    "one trunk for both": Case(FIVE[:3], ppo={"shared_trunk": True, "activation": "silu"}),
    "no hidden layer": Case(FIVE[:3], ppo={"hidden": ()}),
    "trunks side by side": Case(FIVE[:1], ppo={"hidden": (3000, 8), "epochs": 1}),
    "exact KL": Case(MIXED, ppo={"kl_estimator": "exact"}),
    "stops in the second epoch": Case(
        FIVE, causal=True, ppo={"target_kl": 0.00177, "stop_rule": "minibatch"}, stops=True
    ),
    "stops after the epoch": Case(FIVE, causal=True, ppo={"target_kl": 1e-4, "stop_rule": "epoch"}, stops=True),
}


def agent_of(case: Case, *, compile: bool = False, **more: Any) -> PPOAgent:  # noqa: A002  # the setting's name
    given: dict[str, Any] = {
        "epochs": 3,
        "minibatch_size": 48,
        "hidden": (16, 16),
        "learning_rate": 5e-3,
        "target_kl": 0.0,
    }
    given |= {"entropy_coef": 0.05, "entropy_coef_schedule": "linear"}
    agent = PPOAgent(case.heads, (4,), PPOConfig(**given | (case.ppo or {}) | more, compile=compile), seed=4)
    agent.on_notice = NOTICES.append
    return agent


NOTICES: list[str] = []
"""What the agents of a test have told."""


def rollout_of(agent: PPOAgent, case: Case, seed: int = 1) -> Rollout:
    return random_rollout(agent, SAMPLES, causal=case.causal, legal=case.legal, seed=seed)


def vector(agent: PPOAgent) -> Tensor:
    return torch.nn.utils.parameters_to_vector(agent.policy.learned()).detach().cpu().clone()


def told(agent: PPOAgent) -> PPOUpdatePayload:
    assert agent.last is not None
    return agent.last


def assert_same(mine: PPOAgent, theirs: PPOAgent) -> None:
    """Weights, optimizer and every number of the report, within what float32 sums in another order differ by."""
    assert (vector(mine) - vector(theirs)).abs().max() < 2e-5, "a step is 5e-3"
    ours, other = mine.optimizer.state(), theirs.optimizer.state()
    assert ours is not None
    assert other is not None
    assert ours.steps == other.steps
    torch.testing.assert_close(ours.mean.cpu(), other.mean.cpu(), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(ours.square.cpu(), other.square.cpu(), rtol=1e-3, atol=1e-7)
    for item in fields(PPOUpdatePayload):
        found, expected = getattr(told(mine), item.name), getattr(told(theirs), item.name)
        if isinstance(expected, float) and item.name not in {"update_s", "rollout_s", "steps_per_s"}:
            assert found == pytest.approx(expected, rel=2e-3, abs=1e-5), item.name
        elif item.name in {"outcome", "epochs", "minibatches", "minibatches_planned", "early_stop", "non_finite"}:
            assert (found is None) == (expected is None), item.name
            if item.name != "early_stop":
                assert found == expected, item.name
    for mine_head, their_head in zip(told(mine).heads, told(theirs).heads, strict=True):
        assert mine_head.kl == pytest.approx(their_head.kl, rel=2e-3, abs=1e-6)
        assert mine_head.clip_fraction == pytest.approx(their_head.clip_fraction, abs=5e-3)
