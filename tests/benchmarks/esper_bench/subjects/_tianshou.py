"""tianshou's PPO on one buffer of random steps: its update without its own returns and advantages, as the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from bench_update import EPOCHS, OBSERVATIONS, Noise
from tianshou.algorithm import PPO
from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Batch, ReplayBuffer
from tianshou.utils.net.common import Net
from tianshou.utils.net.discrete import DiscreteActor, DiscreteCritic
from torch import nn
from torch.distributions import Categorical

if TYPE_CHECKING:
    from collections.abc import Callable

    import bench_update

__all__ = ["tianshou_update"]


def tianshou_update(row: bench_update.Row) -> Callable[[], object]:
    """``_update_with_batch()`` on a batch whose advantages are known; only for one discrete head."""
    space = Noise(row.sizes).action_space
    trunks = [
        Net(state_shape=(OBSERVATIONS,), hidden_sizes=row.hidden, activation=nn.Tanh) for _ in ("actor", "critic")
    ]
    algorithm = PPO(
        policy=ProbabilisticActorPolicy(
            actor=DiscreteActor(preprocess_net=trunks[0], action_shape=row.sizes[0], softmax_output=False),
            dist_fn=lambda logits: Categorical(logits=logits),
            action_space=space,
            action_scaling=False,
        ),
        critic=DiscreteCritic(preprocess_net=trunks[1]),
        optim=AdamOptimizerFactory(lr=3e-4),
        max_grad_norm=0.5,
        ent_coef=0.0,
    )
    buffer = ReplayBuffer(row.samples)
    draw = np.random.default_rng(0)
    for _ in range(row.samples):
        seen, after = draw.standard_normal((2, OBSERVATIONS), dtype=np.float32)
        step = {"obs": seen, "act": int(draw.integers(row.sizes[0])), "rew": draw.standard_normal(), "obs_next": after}
        buffer.add(Batch(**step, terminated=False, truncated=False))
    batch, places = buffer.sample(0)
    ready = algorithm._preprocess_batch(batch, buffer, places)
    return lambda: algorithm._update_with_batch(ready, row.minibatch, EPOCHS)
