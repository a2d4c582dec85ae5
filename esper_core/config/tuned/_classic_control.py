"""Gymnasium's classic control: small observations, cheap steps."""

from __future__ import annotations

from typing import Final

from esper_core.config.tuned._form import Tuned

__all__ = ["CLASSIC_CONTROL"]

CLASSIC_CONTROL: Final = (
    # Rollouts of 64 steps are so short that even 20 first episodes of about 20 steps see several updates.
    Tuned(
        name="cartpole",
        environments=("CartPole-v0", "CartPole-v1"),
        tables={
            "run": {"steps": 100_000},
            "env": {"id": "CartPole-v1", "n_envs": 8},
            "ppo": {
                "rollout_steps": 8,
                "epochs": 10,
                "minibatch_size": 64,
                "learning_rate": 1e-3,
                "learning_rate_schedule": "linear",
                "clip_range_schedule": "linear",  # a policy that has solved it is easily lost again
                "gamma": 0.98,
                "gae_lambda": 0.8,
                "entropy_coef": 0.0,
            },
        },
    ),
    Tuned(
        name="acrobot",
        environments=("Acrobot-v1",),
        tables={
            "run": {"steps": 100_000},
            "env": {"id": "Acrobot-v1", "n_envs": 16},
            "ppo": {
                "rollout_steps": 64,
                "epochs": 4,
                "minibatch_size": 64,
                "learning_rate": 1e-3,
                "learning_rate_schedule": "linear",
                "gamma": 0.99,
                "gae_lambda": 0.94,
                "entropy_coef": 0.0,
                "normalise_observations": True,
                "normalise_rewards": True,
            },
        },
    ),
    Tuned(
        name="mountain-car",
        environments=("MountainCar-v0",),
        tables={
            "run": {"steps": 300_000},
            "env": {"id": "MountainCar-v0", "n_envs": 16},
            "ppo": {
                "rollout_steps": 64,
                "epochs": 10,
                "minibatch_size": 256,
                "learning_rate": 3e-3,
                "learning_rate_schedule": "linear",
                "gamma": 0.99,
                "gae_lambda": 0.98,
                "entropy_coef": 0.0,
                "normalise_observations": True,
                "normalise_rewards": True,
            },
        },
    ),
    Tuned(
        name="pendulum",
        environments=("Pendulum-v1",),
        tables={
            "run": {"steps": 100_000},
            "env": {"id": "Pendulum-v1", "n_envs": 4},
            "ppo": {
                "rollout_steps": 256,
                "epochs": 10,
                "minibatch_size": 64,
                "learning_rate": 1e-3,
                "learning_rate_schedule": "linear",
                "gamma": 0.9,
                "gae_lambda": 0.95,
                "entropy_coef": 0.0,
                "normalise_rewards": True,
            },
        },
    ),
    Tuned(
        name="mountain-car-continuous",
        environments=("MountainCarContinuous-v0",),
        tables={
            "run": {"steps": 100_000},
            "env": {"id": "MountainCarContinuous-v0", "n_envs": 8},
            "ppo": {
                "rollout_steps": 64,
                "epochs": 4,
                "minibatch_size": 128,
                "learning_rate": 3e-4,
                "learning_rate_schedule": "linear",
                "gamma": 0.999,
                "gae_lambda": 0.95,
                "entropy_coef": 0.0,
                "normalise_observations": True,
                "normalise_rewards": True,
                # 4.5 times the bounds, so nearly every action is full power to a random side. Of 48 episodes of noise
                # alone 4 reached the flag with a deviation of 5, 3 with one of 2.7, and none with one of 1.
                "log_std_init": 1.5,
            },
        },
    ),
)
