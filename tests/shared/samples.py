"""Samples to learn from whose rewards have nothing to do with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from esper_core.ppo import Batch, Rollout
from esper_core.ppo.rollout import active_decisions

if TYPE_CHECKING:
    from esper_core.ppo import PPOAgent

__all__ = ["random_rollout"]

INPUTS = 4


def random_rollout(agent: PPOAgent, count: int, *, causal: bool = False, legal: bool = False, seed: int = 1) -> Rollout:
    """What an agent of four inputs decides on noise; some steps are forced.

    Args:
        agent: decides.
        count: of samples.
        causal: some decisions have no effect.
        legal: some choices are not legal; the last of a head always is.
        seed: of everything but the agent's own noise.
    """
    draw = torch.Generator().manual_seed(seed)
    observations = torch.randn(count, INPUTS, generator=draw)
    mask = None
    if legal:
        mask = torch.rand(count, agent.layout.total, generator=draw) < 0.7
        mask[:, torch.tensor([size for size in agent.layout.sizes if size]).cumsum(0) - 1] = True
    decision = agent.decide(observations, mask, None, agent.noise(1, count)[0])
    effect = torch.ones_like(decision.log_prob, dtype=torch.bool)
    if causal:
        effect = torch.rand(effect.shape, generator=draw) < 0.6
    active, unforced = active_decisions(agent.layout, effect, decision.legal)
    advantages, returns = torch.randn(2, count, generator=draw)
    return Rollout(
        Batch(
            observations,
            decision.actions,
            decision.log_prob,
            decision.legal,
            active,
            unforced,
            advantages,
            returns,
            decision.values,
        )
    )
