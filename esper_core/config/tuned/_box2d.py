"""Gymnasium's Box2D environments (``pip install 'gymnasium[box2d]'``)."""

from __future__ import annotations

from typing import Final

from esper_core.config.tuned._form import Tuned

__all__ = ["BOX2D"]

BOX2D: Final = (
    Tuned(
        name="lunar-lander",
        environments=("LunarLander-v*", "LunarLanderContinuous-v*"),
        tables={
            "run": {"steps": 500_000},
            "env": {"id": "LunarLander-v3", "n_envs": 16},
            "ppo": {
                "rollout_steps": 128,
                "epochs": 4,
                "minibatch_size": 64,
                "learning_rate": 5e-4,
                "learning_rate_schedule": "linear",
                "gamma": 0.999,
                "gae_lambda": 0.98,
                "entropy_coef": 0.01,
                "normalise_rewards": True,
            },
        },
    ),
    Tuned(
        name="bipedal-walker",
        environments=("BipedalWalker-v*",),
        tables={
            "run": {"steps": 5_000_000},
            "env": {"id": "BipedalWalker-v3", "n_envs": 32},
            "ppo": {
                "rollout_steps": 2048,
                "epochs": 10,
                "minibatch_size": 64,
                "learning_rate": 3e-4,
                "gamma": 0.999,
                "gae_lambda": 0.95,
                "clip_range": 0.18,
                "value_coef": 1.0,
                "entropy_coef": 0.0,
                "normalise_observations": True,
                "normalise_rewards": True,
                "target_kl": 0.0,  # 76 updates of 10 240 steps each: a stop would end nearly all of them early
            },
        },
    ),
)
