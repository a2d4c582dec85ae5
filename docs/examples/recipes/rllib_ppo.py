"""Esper's KL in RLlib's PPO, on CartPole: ``python rllib_ppo.py``. The recipe is the class ``Watched``."""

from __future__ import annotations

from typing import Any

import ray
import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core.columns import Columns
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME

from esper_core import monitor

STEPS, UPDATES = 256, 3
MODULE = "default_policy"


# recipe
class Watched(PPOTorchLearner):
    """RLlib's learner, in whose process the run is: the first epoch's minibatches are kept, and judged at the end."""

    def build(self) -> None:
        """Open the run where the learning is."""
        super().build()
        self.run = monitor("CartPole-v1", name="rllib", library="ray")

    def before_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """An update begins."""
        super().before_gradient_based_update(timesteps=timesteps)
        self.kept: list[Any] = []

    def compute_loss_for_module(self, *, module_id: str, config: Any, batch: Any, fwd_out: Any) -> Any:
        """Keep a minibatch."""
        self.kept.append(dict(batch))
        return super().compute_loss_for_module(module_id=module_id, config=config, batch=batch, fwd_out=fwd_out)

    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """The last step is taken: judge each step of the first epoch under the policy as it now is."""
        super().after_gradient_based_update(timesteps=timesteps)
        module, old, new, mask = self.module[MODULE], [], [], []
        distribution = module.unwrapped().get_train_action_dist_cls()
        for batch in self.kept[: len(self.kept) // self.config.num_epochs]:
            with torch.no_grad():
                found = distribution.from_logits(module.forward_train(batch)[Columns.ACTION_DIST_INPUTS])
            old.append(batch[Columns.ACTION_LOGP])
            new.append(found.logp(batch[Columns.ACTIONS]))
            mask.append(batch.get(Columns.LOSS_MASK, torch.ones_like(old[-1], dtype=torch.bool)))
        self.run.ppo_update(
            old=torch.cat(old),
            new=torch.cat(new),
            mask=torch.cat(mask),  # RLlib adds a step to each episode, which is not one
            env_steps=timesteps[NUM_ENV_STEPS_SAMPLED_LIFETIME],
        )


# end
def train() -> Any:
    """Train for three updates; the algorithm as it ends, its run closed."""
    config = (
        PPOConfig()
        .environment("CartPole-v1")
        .env_runners(num_env_runners=0)
        .learners(num_learners=0, learner_class=Watched)
        .training(train_batch_size_per_learner=STEPS, minibatch_size=64, num_epochs=4, lr=1e-3)
        .debugging(seed=0)
    )
    algorithm = config.build_algo()
    for _ in range(UPDATES):
        algorithm.train()
    algorithm.learner_group.foreach_learner(lambda learner: learner.run.close())
    algorithm.stop()
    return algorithm


if __name__ == "__main__":
    train()
    ray.shutdown()
