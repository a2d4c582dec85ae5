"""Masked distributions: an illegal choice never wins, and nothing becomes NaN."""

from __future__ import annotations

import math

import pytest
import torch

from esper_core.ppo import HeadSpec, PPOAgent
from esper_core.ppo.distributions import masked_log_softmax

LEGAL = torch.tensor([[True, True, False, False]])


@pytest.mark.parametrize("drift", [0.0, -1e8, -3e9, -1e30, -3.4e38, 3e38])
def test_no_legal_logit_loses_to_an_illegal_choice(drift: float) -> None:
    logits = torch.tensor([[drift, drift, 5.0, -5.0]], requires_grad=True)
    log_probs = masked_log_softmax(logits, LEGAL)
    assert log_probs[0, :2].tolist() == pytest.approx([-math.log(2)] * 2)
    assert log_probs[0, 2:].exp().tolist() == [0.0, 0.0]
    entropy = -(log_probs.exp() * log_probs).sum()
    assert entropy.item() == pytest.approx(math.log(2))
    (log_probs[0, 0] + entropy).backward()  # type: ignore[no-untyped-call]  # torch ships it without annotations
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad[0, 2:].tolist() == [0.0, 0.0]


def test_an_agent_whose_logits_have_drifted_far_takes_no_illegal_action() -> None:
    agent = PPOAgent([HeadSpec("a", 4)], (1,), seed=0)
    with torch.no_grad():
        agent.policy.logit_weight.zero_()
        agent.policy.logit_bias[:] = torch.tensor([-3e9, -3e9, 0.0, 0.0])
    decision = agent.decide(torch.zeros(1000, 1), LEGAL.expand(1000, 4), None, agent.noise(1, 1000)[0])
    assert set(decision.actions.flatten().tolist()) == {0, 1}
    assert decision.log_prob.isfinite().all()


def test_a_head_without_any_legal_choice_stays_finite_and_learns_nothing() -> None:
    logits = torch.tensor([[1.0, 2.0]], requires_grad=True)
    log_probs = masked_log_softmax(logits, torch.tensor([[False, False]]))
    (log_probs.sum() - (log_probs.exp() * log_probs).sum()).backward()  # type: ignore[no-untyped-call]  # as above
    assert log_probs.isfinite().all()
    assert logits.grad is not None
    assert logits.grad.tolist() == [[0.0, 0.0]]
