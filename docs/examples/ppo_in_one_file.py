"""PPO in one file, in the manner of CleanRL, watched by Esper: the six lines that end in ``# Esper``.

python docs/examples/ppo_in_one_file.py --steps 50000
esper sanctum latest            # in another terminal, while it trains
"""

import argparse

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical

from esper_core import monitor  # Esper

parser = argparse.ArgumentParser()
parser.add_argument("--env", default="CartPole-v1")
parser.add_argument("--steps", type=int, default=50_000, help="environment steps")
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--n-envs", type=int, default=4)
parser.add_argument("--rollout", type=int, default=128, help="steps of each environment between updates")
parser.add_argument("--epochs", type=int, default=4)
parser.add_argument("--minibatches", type=int, default=4)
parser.add_argument("--lr", type=float, default=2.5e-4)
parser.add_argument("--gamma", type=float, default=0.99)
parser.add_argument("--gae-lambda", type=float, default=0.95)
parser.add_argument("--clip", type=float, default=0.2)
parser.add_argument("--target-kl", type=float, default=0.02)
args = parser.parse_args()


def layer(inputs: int, outputs: int, gain: float = 2**0.5) -> nn.Linear:
    """A linear layer with an orthogonal start."""
    linear = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(linear.weight, gain)
    nn.init.zeros_(linear.bias)
    return linear


class Agent(nn.Module):
    """Actor and critic, apart."""

    def __init__(self, inputs: int, actions: int) -> None:
        super().__init__()
        self.critic = nn.Sequential(layer(inputs, 64), nn.Tanh(), layer(64, 64), nn.Tanh(), layer(64, 1, 1.0))
        self.actor = nn.Sequential(layer(inputs, 64), nn.Tanh(), layer(64, 64), nn.Tanh(), layer(64, actions, 0.01))

    def forward(self, obs: torch.Tensor) -> tuple[Categorical, torch.Tensor]:
        """The policy and the value of each observation."""
        return Categorical(logits=self.actor(obs)), self.critic(obs).squeeze(-1)


torch.manual_seed(args.seed)
torch.set_num_threads(1)
envs = gym.wrappers.vector.RecordEpisodeStatistics(
    gym.vector.SyncVectorEnv(
        [lambda: gym.make(args.env)] * args.n_envs, autoreset_mode=gym.vector.AutoresetMode.SAME_STEP
    )
)
agent = Agent(gym.spaces.flatdim(envs.single_observation_space), gym.spaces.flatdim(envs.single_action_space))
optimizer = torch.optim.Adam(agent.parameters(), lr=args.lr, eps=1e-5)
shape = (args.rollout, args.n_envs)
obs = torch.zeros((*shape, *(envs.single_observation_space.shape or ())))
actions, logprobs, rewards, dones, values = (torch.zeros(shape) for _ in range(5))
updates = args.steps // (args.rollout * args.n_envs)
run = monitor(
    args.env, name="one-file", target_kl=args.target_kl, clip_range=args.clip, updates_planned=updates
)  # Esper

next_obs = torch.as_tensor(envs.reset(seed=args.seed)[0], dtype=torch.float32)
next_done = torch.zeros(args.n_envs)
for update in range(1, updates + 1):
    for t in range(args.rollout):
        obs[t], dones[t] = next_obs, next_done
        with torch.no_grad():
            policy, values[t] = agent(next_obs)
        actions[t] = action = policy.sample()
        logprobs[t] = policy.log_prob(action)
        observed, reward, terminated, truncated, info = envs.step(action.numpy())
        rewards[t] = torch.as_tensor(reward, dtype=torch.float32)
        next_obs = torch.as_tensor(observed, dtype=torch.float32)
        next_done = torch.as_tensor(terminated | truncated, dtype=torch.float32)
        for i in np.flatnonzero(terminated | truncated):
            run.episode(info["episode"]["r"][i], info["episode"]["l"][i])  # Esper

    with torch.no_grad():
        next_value = agent(next_obs)[1]
        advantages = torch.zeros(shape)
        last = torch.zeros(args.n_envs)
        for t in reversed(range(args.rollout)):
            going = 1.0 - (next_done if t == args.rollout - 1 else dones[t + 1])
            following = next_value if t == args.rollout - 1 else values[t + 1]
            last = rewards[t] + args.gamma * following * going - values[t] + args.gamma * args.gae_lambda * going * last
            advantages[t] = last
        returns = advantages + values

    b_obs, b_actions, b_logprobs = obs.flatten(0, 1), actions.flatten(), logprobs.flatten()
    b_advantages, b_returns, b_values = advantages.flatten(), returns.flatten(), values.flatten()
    too_far = False
    for _ in range(args.epochs):
        for index in torch.randperm(len(b_obs)).chunk(args.minibatches):
            policy, value = agent(b_obs[index])
            logratio = policy.log_prob(b_actions[index]) - b_logprobs[index]
            if too_far := run.too_far(logratio):  # Esper
                break
            ratio = logratio.exp()
            advantage = b_advantages[index]
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
            surrogate = torch.min(advantage * ratio, advantage * ratio.clamp(1 - args.clip, 1 + args.clip))
            loss = (
                -surrogate.mean() + 0.25 * (value - b_returns[index]).square().mean() - 0.01 * policy.entropy().mean()
            )
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
            optimizer.step()
        if too_far:
            break

    with torch.no_grad():
        new, entropy = (policy := agent(b_obs)[0]).log_prob(b_actions), policy.entropy()
    rollout = {"advantages": b_advantages, "returns": b_returns, "values": b_values, "entropy": entropy}
    run.ppo_update(old=b_logprobs, new=new, env_steps=update * b_obs.shape[0], **rollout)  # Esper

envs.close()
run.close()  # Esper
