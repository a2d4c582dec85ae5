"""The yardstick: a five-head bandit whose KL is known in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from esper_core.config.schema import PPOConfig
from esper_core.ppo import HeadSpec, PPOAgent, Rollout
from esper_core.ppo.distributions import masked_log_softmax
from esper_core.ppo.rollout import Batch, active_decisions


@dataclass(frozen=True)
class TrueKL:
    """Expectations over the old policy: nothing is sampled."""

    weighted: float
    joint: float
    by_head: tuple[float, ...]


class Bandit:
    """Contexts shown one-hot, five heads, and a causal table by operation.

    Heads are independent given the context, and which of them count depends on the operation alone. So the expected
    numerator of head h is ``sum_c w(c) P(h active | c) KL(old_h || new_h | c)`` and everything else follows.
    """

    heads = (
        HeadSpec("slot", 3),
        HeadSpec("blueprint", 4),
        HeadSpec("tempo", 3),
        HeadSpec("tempo_offset", 2),
        HeadSpec("operations", 4),
    )
    contexts = 3
    # Rows WAIT, GERMINATE, PRUNE, FOSSILIZE; columns as the heads.
    causal = torch.tensor([[0, 0, 0, 0, 1], [1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [1, 0, 0, 0, 1]], dtype=torch.bool)

    def agent(self, *, seed: int = 0, spread: float = 0.0, **ppo: Any) -> PPOAgent:
        """An agent for this bandit; ``spread`` scatters its logits, so that heads and contexts differ."""
        settings: dict[str, Any] = {"hidden": (16,), "learning_rate": 1e-2}
        config = PPOConfig(**(settings | ppo))
        agent = PPOAgent(self.heads, (self.contexts,), config, seed=seed)
        if spread:
            generator = torch.Generator().manual_seed(seed + 1)
            with torch.no_grad():
                weight = agent.policy.logit_weight
                weight.add_(spread * torch.randn(weight.shape, generator=generator))
        return agent

    def observations(self, count: int) -> Tensor:
        """Contexts in turn: each appears equally often when ``count`` is a multiple of them."""
        return torch.eye(self.contexts)[torch.arange(count) % self.contexts]

    def rollout(self, agent: PPOAgent, count: int, *, advantage_head: int | None = None) -> Rollout:
        """``count`` one-step episodes. The reward prefers low choices of every active head."""
        observations = self.observations(count)
        decision = agent.decide(observations, None, None, agent.noise(1, count)[0])
        active, unforced = active_decisions(agent.layout, self.causal[decision.actions[:, -1]], decision.legal)
        liked = torch.where(active, -decision.actions.float(), 0.0)
        reward = liked.sum(-1) if advantage_head is None else liked[:, advantage_head]
        return Rollout(
            Batch(
                observations=observations,
                actions=decision.actions,
                log_prob=decision.log_prob,
                legal=decision.legal,
                active=active,
                unforced=unforced,
                advantages=reward - decision.values,
                returns=reward,
                values=decision.values,
            ),
            env_steps=count,
        )

    def log_probs(self, agent: PPOAgent) -> Tensor:
        """float64 (contexts, heads, width)."""
        with torch.no_grad():
            logits, _ = agent.policy(torch.eye(self.contexts))
        return masked_log_softmax(logits.double(), agent.policy.legal(None))

    def true_kl(self, old: Tensor, new: Tensor) -> TrueKL:
        """KL(old || new) from both policies' log-probabilities as ``log_probs`` gives them."""
        per_context = (old.exp() * (old - new)).sum(-1)
        chance = old[:, -1, :4].exp() @ self.causal.double()
        numerators = (chance * per_context).mean(0)
        decisions = chance.mean(0)
        return TrueKL(
            weighted=float(numerators.sum() / decisions.sum()),
            joint=float(numerators.sum()),
            by_head=tuple((numerators / decisions).tolist()),
        )
