"""Esper's KL in skrl's PPO, on CartPole: ``python skrl_ppo.py``. The recipe is the class ``Watched``."""

from __future__ import annotations

from typing import Any

import gymnasium
import torch
from skrl.agents.torch.ppo import PPO, PPO_CFG
from skrl.envs.wrappers.torch import wrap_env
from skrl.memories.torch import RandomMemory
from skrl.models.torch import CategoricalMixin, DeterministicMixin, Model
from skrl.trainers.torch import SequentialTrainer

from esper_core import monitor

ROLLOUT, ENVS, UPDATES = 64, 4, 3


# recipe
class Watched(PPO):
    """skrl's PPO: after the last step the memory still holds the rollout and its log-probabilities."""

    def update(self, *, timestep: int, timesteps: int) -> None:
        """Learn, then judge the rollout under the policy as it now is."""
        super().update(timestep=timestep, timesteps=timesteps)
        names = ("observations", "states", "actions", "log_prob", "returns", "values")
        seen, states, actions, old, returns, values = self.memory.sample_all(names)[0]
        inputs = {"observations": self._observation_preprocessor(seen), "states": self._state_preprocessor(states)}
        with torch.no_grad(), torch.random.fork_rng():
            _, found = self.policy.act({**inputs, "taken_actions": actions}, role="policy")
        self.run.ppo_update(
            old=old.flatten(),
            new=found["log_prob"].flatten(),
            returns=returns,
            values=values,
            env_steps=(timestep + 1) * ENVS,
        )


# end
class Policy(CategoricalMixin, Model):
    """Two layers."""

    def __init__(self, seen: Any, action: Any) -> None:
        Model.__init__(self, observation_space=seen, action_space=action, device="cpu")
        CategoricalMixin.__init__(self)
        self.net = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.Tanh(), torch.nn.Linear(32, 2))

    def compute(self, inputs: dict[str, Any], role: str = "") -> Any:  # noqa: ARG002  # skrl's signature
        """Logits."""
        return self.net(inputs["observations"]), {}


class Value(DeterministicMixin, Model):
    """Two layers."""

    def __init__(self, seen: Any, action: Any) -> None:
        Model.__init__(self, observation_space=seen, action_space=action, device="cpu")
        DeterministicMixin.__init__(self)
        self.net = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))

    def compute(self, inputs: dict[str, Any], role: str = "") -> Any:  # noqa: ARG002  # skrl's signature
        """Values."""
        return self.net(inputs["observations"]), {}


def train() -> Watched:
    """Train for three updates; the agent as it ends."""
    torch.manual_seed(0)
    env = wrap_env(gymnasium.make_vec("CartPole-v1", num_envs=ENVS, vectorization_mode="sync"))
    seen, action = env.observation_space, env.action_space
    cfg = PPO_CFG(rollouts=ROLLOUT, learning_epochs=4, mini_batches=4, learning_rate=1e-3)
    cfg.experiment.write_interval = cfg.experiment.checkpoint_interval = 0
    agent = Watched(
        models={"policy": Policy(seen, action), "value": Value(seen, action)},
        memory=RandomMemory(memory_size=ROLLOUT, num_envs=ENVS, device="cpu"),
        observation_space=seen,
        action_space=action,
        device="cpu",
        cfg=cfg,
    )
    with monitor("CartPole-v1", name="skrl", library="skrl", n_envs=ENVS) as agent.run:
        SequentialTrainer(env=env, agents=agent, cfg={"timesteps": UPDATES * ROLLOUT, "headless": True}).train()
    return agent


if __name__ == "__main__":
    train()
