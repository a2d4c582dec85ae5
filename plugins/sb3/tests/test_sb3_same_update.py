"""Esper's update and that of Stable-Baselines3, from the same weights on the same rollout: equal weights after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import RolloutBufferSamples

from esper_core.config.schema import PPOConfig
from esper_core.envs.action_spaces import action_space
from esper_core.ppo import PPOAgent
from esper_core.ppo.rollout import Batch, Rollout

if TYPE_CHECKING:
    from collections.abc import Iterator

torch.set_num_threads(1)

SAMPLES, MINIBATCH, EPOCHS, INPUTS, WIDTH = 128, 32, 4, 3, 16
SPACES = {
    "box": gym.spaces.Box(-1, 1, (2,)),
    "discrete": gym.spaces.Discrete(3),
    "multi-discrete": gym.spaces.MultiDiscrete([3, 2]),
    "multi-binary": gym.spaces.MultiBinary(3),
}


class Nothing(gym.Env[Any, Any]):
    """Only its spaces are asked for."""

    def __init__(self, space: gym.Space[Any]) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (INPUTS,), np.float32)
        self.action_space = space


def ours(space: gym.Space[Any], **ppo: Any) -> PPOAgent:
    config = PPOConfig(
        **ppo,
        hidden=(WIDTH, WIDTH),
        epochs=EPOCHS,
        minibatch_size=MINIBATCH,
        learning_rate=1e-3,
        value_coef=1.0,
        entropy_coef=0.01,
        normalise_advantage=False,
        target_kl=0.0,
        log_std_init=-0.5,
    )
    return PPOAgent(action_space(space, "nothing").heads, (INPUTS,), config, seed=7)


def batch_of(agent: PPOAgent) -> Batch:
    """Actions of the agent, and advantages and returns of nothing in particular."""
    generator = torch.Generator().manual_seed(8)
    observations = torch.randn(SAMPLES, INPUTS, generator=generator)
    decision = agent.decide(observations, None, None, agent.noise(1, SAMPLES)[0])
    advantages, returns = torch.randn(2, SAMPLES, generator=generator)
    active = torch.ones_like(decision.log_prob, dtype=torch.bool)
    return Batch(
        observations=observations,
        actions=decision.actions,
        log_prob=decision.log_prob,
        legal=None,
        active=active,
        unforced=active[:, 0],
        advantages=advantages,
        returns=returns,
        values=decision.values,
    )


def as_theirs(agent: PPOAgent) -> dict[str, torch.Tensor]:
    """The agent's weights under the names and in the shapes of SB3's MlpPolicy."""
    weights = {name: value.detach().clone() for name, value in agent.policy.named_parameters()}
    found = {}
    for side, net in enumerate(("policy_net", "value_net")):
        part = slice(side * WIDTH, (side + 1) * WIDTH)
        found[f"mlp_extractor.{net}.0.weight"] = weights["trunk.weight_0"][:, part].T
        found[f"mlp_extractor.{net}.0.bias"] = weights["trunk.bias_0"][part]
        found[f"mlp_extractor.{net}.2.weight"] = weights["trunk.weight_1"][side].T
        found[f"mlp_extractor.{net}.2.bias"] = weights["trunk.bias_1"][side, 0]
    layout = agent.layout
    used = layout.valid.clone()
    for row, head in enumerate(layout.heads):
        used[row, 0] = head.kind != "bernoulli"  # whose one logit is that of its second choice
    found["action_net.weight"] = weights["logit_weight"][:, used.flatten()].T
    found["action_net.bias"] = weights["logit_bias"][used.flatten()]
    found["value_net.weight"] = weights["value_weight"].T
    found["value_net.bias"] = weights["value_bias"]
    if "heads.log_std" in weights:
        found["log_std"] = weights["heads.log_std"]
    return found


@pytest.mark.parametrize(("name", "reach"), [*((name, None) for name in SPACES), ("box", 0.01)])
def test_the_weights_after_an_update_are_those_of_sb3(name: str, reach: float | None) -> None:
    agent = ours(SPACES[name], value_clip_range=reach or 0.0, value_clip_rule="clipped")
    model = PPO(
        "MlpPolicy",
        Nothing(SPACES[name]),
        n_steps=SAMPLES,
        batch_size=MINIBATCH,
        n_epochs=EPOCHS,
        learning_rate=1e-3,
        ent_coef=0.01,
        normalize_advantage=False,
        clip_range_vf=reach,
        policy_kwargs={"net_arch": [WIDTH, WIDTH]},
        device="cpu",
    )
    model.policy.load_state_dict(as_theirs(agent))
    model.set_logger(Logger(None, []))
    batch = batch_of(agent)
    order = torch.Generator()
    order.set_state(agent.order_generator.get_state())

    def minibatches(_: int) -> Iterator[RolloutBufferSamples]:
        for part in batch.shuffled(order).split(SAMPLES // MINIBATCH):
            yield RolloutBufferSamples(
                part.observations,
                part.actions.float(),  # as its buffer keeps them
                part.values,
                part.log_prob.sum(-1),
                part.advantages,
                part.returns,
            )

    model.rollout_buffer.get = minibatches  # type: ignore[method-assign, assignment]  # the same order of samples
    before = {name: value.clone() for name, value in as_theirs(agent).items()}
    agent.update(Rollout(batch))
    model.train()
    after = as_theirs(agent)
    for weight, theirs in model.policy.state_dict().items():
        torch.testing.assert_close(after[weight], theirs, atol=2e-6, rtol=0, msg=f"{weight}: {{}}".format)
        assert not torch.equal(before[weight], theirs), "something was learned"
