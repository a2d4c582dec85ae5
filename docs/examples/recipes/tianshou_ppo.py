"""Esper's KL in tianshou's PPO, on CartPole: ``python tianshou_ppo.py``. The recipe is the class ``Watched``."""

from __future__ import annotations

from typing import Any

import gymnasium
import torch
from tianshou.algorithm import PPO
from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.trainer import OnPolicyTrainerParams
from tianshou.utils.net.common import Net
from tianshou.utils.net.discrete import DiscreteActor, DiscreteCritic
from torch.distributions import Categorical

from esper_core import monitor

ROLLOUT, UPDATES = 256, 3


# recipe
class Watched(PPO):
    """tianshou's PPO: this is called after the last step, with the batch and its log-probabilities."""

    def _postprocess_batch(self, batch: Any, buffer: Any, indices: Any) -> None:
        with torch.no_grad(), torch.random.fork_rng():
            new = self.policy(batch).dist.log_prob(batch.act)
        self.env_steps += len(batch)
        self.run.ppo_update(
            old=batch.logp_old,
            new=new,
            advantages=batch.adv,
            returns=batch.returns,
            values=batch.v_s,
            env_steps=self.env_steps,
        )
        super()._postprocess_batch(batch, buffer, indices)


# end
def train() -> Watched:
    """Train for three updates; the algorithm as it ends."""
    torch.manual_seed(0)
    env = gymnasium.make("CartPole-v1")
    envs = DummyVectorEnv([lambda: gymnasium.make("CartPole-v1") for _ in range(4)])
    net = Net(state_shape=env.observation_space.shape, hidden_sizes=[32])
    policy = ProbabilisticActorPolicy(
        actor=DiscreteActor(
            preprocess_net=net, action_shape=gymnasium.spaces.flatdim(env.action_space), softmax_output=False
        ),
        dist_fn=lambda logits: Categorical(logits=logits),
        action_space=env.action_space,
        action_scaling=False,
    )
    algorithm = Watched(policy=policy, critic=DiscreteCritic(preprocess_net=net), optim=AdamOptimizerFactory(lr=1e-3))
    algorithm.env_steps = 0
    with monitor("CartPole-v1", name="tianshou", library="tianshou", n_envs=4) as algorithm.run:
        algorithm.run_training(
            OnPolicyTrainerParams(
                training_collector=Collector(algorithm, envs, VectorReplayBuffer(ROLLOUT, 4)),
                test_collector=None,
                max_epochs=1,
                epoch_num_steps=UPDATES * ROLLOUT,
                collection_step_num_env_steps=ROLLOUT,
                update_step_num_repetitions=4,
                batch_size=64,
                test_step_num_episodes=0,
            )
        )
    return algorithm


if __name__ == "__main__":
    train()
