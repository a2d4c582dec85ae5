"""Gymnasium's MuJoCo environments (``pip install 'gymnasium[mujoco]'``)."""

from __future__ import annotations

from typing import Final

from esper_core.config.tuned._form import Tuned

__all__ = ["MUJOCO"]

MUJOCO: Final = (
    Tuned(
        name="inverted-pendulum",
        environments=("InvertedPendulum-v*", "InvertedDoublePendulum-v*"),
        tables={
            "run": {"steps": 100_000},
            "env": {"id": "InvertedPendulum-v5", "n_envs": 4},
            "ppo": {
                "rollout_steps": 128,
                "epochs": 10,
                "minibatch_size": 64,
                "learning_rate": 1e-3,
                "learning_rate_schedule": "linear",
                "gamma": 0.99,
                "gae_lambda": 0.9,
                "entropy_coef": 0.0,
                "normalise_observations": True,
                "normalise_rewards": True,
            },
        },
    ),
    Tuned(
        name="mujoco",
        environments=(
            "Ant-v*",
            "HalfCheetah-v*",
            "Hopper-v*",
            "Humanoid-v*",
            "HumanoidStandup-v*",
            "Pusher-v*",
            "Reacher-v*",
            "Swimmer-v*",
            "Walker2d-v*",
        ),
        tables={
            "run": {"steps": 1_000_000},
            "env": {"n_envs": 4},
            "ppo": {
                "rollout_steps": 512,
                "epochs": 10,
                "minibatch_size": 64,
                "learning_rate": 3e-4,
                "learning_rate_schedule": "linear",
                "gamma": 0.99,
                "gae_lambda": 0.95,
                "entropy_coef": 0.0,
                "normalise_observations": True,
                "normalise_rewards": True,
                "value_clip_range": 0.2,
                "stop_on": "joint",  # of up to 17 heads: per decision, a stop lets the policy move that much further
            },
        },
    ),
)
