"""The agent's update against the paper's, written out: plain autograd, torch.distributions and torch.optim.Adam."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from heard_updates import weights
from torch import Tensor
from torch.distributions import Categorical, Normal
from update_cases import CASES as UPDATE_CASES
from update_cases import FIVE, SAMPLES, Case, agent_of, rollout_of

from esper_core.kl.stop import stop_threshold

if TYPE_CHECKING:
    from esper_core.ppo import Batch, PPOAgent, Rollout

pytestmark = pytest.mark.numeric

CASES = {
    **{
        name: UPDATE_CASES[name]
        for name in (
            "one head",
            "one head without entropy",
            "three heads, masked choices",
            "five heads, causal masks",
            "five heads, both, clipped hard",
            "Gaussian heads",
            "heads of every kind",
            "stops in the second epoch",
        )
    },
    "stops on the joint KL": Case(
        FIVE[:3],
        legal=True,
        ppo={"target_kl": 0.0063, "stop_rule": "minibatch", "stop_on": "joint", "entropy_coef": 0.01},
        stops=True,
    ),
}
"""What the loop below can do: it has no squash, no clipped values and no stop but that after a minibatch."""


def log_prob_and_entropy(agent: PPOAgent, part: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Of every head by itself, from torch's own distributions; and the values."""
    outputs, values = agent.policy.forward(part.observations)
    log_probs, entropies = [], []
    log_std = iter(() if agent.policy.heads.log_std is None else agent.policy.heads.log_std)
    for column, head in enumerate(agent.layout.heads):
        row, action = outputs[:, column], part.actions[:, column]
        distribution: Any
        if head.dense:
            distribution = Normal(row[:, 0], next(log_std).exp())
        else:
            logits = row[:, : head.size]
            if head.kind == "bernoulli":
                logits = torch.stack([torch.zeros_like(row[:, 1]), row[:, 1]], dim=1)
            if part.legal is not None:
                logits = logits.masked_fill(~part.legal[:, column, : head.size], -1e9)
            distribution = Categorical(logits=logits)
        log_probs.append(distribution.log_prob(action))
        entropies.append(distribution.entropy().expand(len(action)))
    return torch.stack(log_probs, dim=1), torch.stack(entropies, dim=1), values


def learn_as_in_the_paper(
    agent: PPOAgent, optimizer: torch.optim.Optimizer, rollout: Rollout
) -> tuple[int, list[float]]:
    """Optimizer steps taken, and what the stop compared: the loop that everybody writes."""
    config, batch = agent.config, rollout.batch
    parameters = list(agent.policy.parameters())
    of_policy = batch.advantages[batch.unforced].double()
    scaled = (batch.advantages.double() - of_policy.mean()) / (of_policy.std(correction=0) + 1e-8)
    batch = batch.with_advantages((scaled * batch.unforced).float())
    taken, compared = 0, []
    limit = stop_threshold(config.target_kl)
    for _ in range(config.epochs):
        for part in batch.shuffled(agent.order_generator).split(math.ceil(SAMPLES / config.minibatch_size)):
            log_prob, entropies, values = log_prob_and_entropy(agent, part)
            log_ratio = torch.where(part.active, log_prob - part.log_prob, 0.0)
            ratio = log_ratio.sum(-1).exp()
            steps = part.unforced.sum().clamp_min(1)
            clipped = ratio.clamp(1 - config.clip_range, 1 + config.clip_range)
            policy_loss = -torch.minimum(ratio * part.advantages, clipped * part.advantages).sum() / steps
            value_loss = 0.5 * (values - part.returns).square().mean()
            entropy = torch.where(part.active, entropies, 0.0).sum() / steps
            for parameter in parameters:
                parameter.grad = None
            (policy_loss + config.value_coef * value_loss - config.entropy_coef * entropy).backward()  # type: ignore[no-untyped-call]  # torch ships it without annotations
            torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
            moved = (log_ratio.exp() - 1 - log_ratio).sum().item()
            compared.append(moved / float(steps if config.stop_on == "joint" else part.active.sum()))
            if limit is not None and compared[-1] > limit:
                return taken, compared
            optimizer.step()
            taken += 1
    return taken, compared


@pytest.mark.parametrize("name", CASES)
def test_the_update_is_the_papers(name: str) -> None:
    """Steps taken, stop, the KL that the stop compares, and every weight, over two updates."""
    case = CASES[name]
    ours, papers = agent_of(case), agent_of(case)
    optimizer = torch.optim.Adam(
        papers.policy.parameters(), lr=ours.config.learning_rate, eps=1e-5, fused=False, foreach=False
    )
    start, stops = weights(ours), False
    for _ in range(2):
        ours.update(rollout_of(ours, case))
        taken, compared = learn_as_in_the_paper(papers, optimizer, rollout_of(papers, case))
        payload = ours.last
        assert payload is not None
        assert payload.minibatches == taken
        assert (payload.early_stop is not None) == (taken < payload.minibatches_planned)
        if payload.early_stop is not None:
            stops = True
            assert payload.early_stop.value == pytest.approx(compared[-1], rel=1e-3)
            assert all(abs(value / payload.early_stop.threshold - 1) > 0.05 for value in compared), "no close call"
    moved = (weights(ours) - start).abs().max()
    assert moved > 0.01
    # Float32 adds the same terms up in another order: 3e-7 was measured. A step is 5e-3.
    assert (weights(ours) - weights(papers)).abs().max() < 1e-5
    assert stops == case.stops
