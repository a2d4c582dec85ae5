"""Environments that show images: MinAtar (``pip install minatar``) and Atari (``pip install ale-py``)."""

from __future__ import annotations

from typing import Final

from esper_core.config.tuned._form import Tuned

__all__ = ["IMAGES"]

IMAGES: Final = (
    Tuned(
        name="minatar",
        environments=("MinAtar/*",),
        tables={
            "run": {"steps": 500_000},
            "env": {"n_envs": 64},
            "ppo": {
                "rollout_steps": 128,
                "epochs": 4,
                "minibatch_size": 1024,
                "learning_rate": 2.5e-3,
                "learning_rate_schedule": "linear",
                "gamma": 0.99,
                "gae_lambda": 0.95,
                "entropy_coef": 0.01,
                "policy": "mlp",  # on 10 x 10 pixels in a few channels, at a fraction of the convolutions' time
                "hidden": [128, 128],
                "activation": "relu",
                "target_kl": 0.05,
            },
        },
    ),
    Tuned(
        name="atari",
        environments=("ALE/*",),
        tables={
            "run": {"steps": 10_000_000},
            "env": {
                "n_envs": 8,
                # Grey frames of 84 x 84, every fourth one, four at a time; so the emulator itself skips none.
                "kwargs": {"frameskip": 1},
                "wrappers": ["AtariPreprocessing", "FrameStackObservation?stack_size=4"],
            },
            "ppo": {
                "rollout_steps": 128,
                "epochs": 4,
                "minibatch_size": 256,
                "learning_rate": 2.5e-4,
                "learning_rate_schedule": "linear",
                "clip_range": 0.1,
                "clip_range_schedule": "linear",
                "value_coef": 1.0,
                "entropy_coef": 0.01,
                "normalise_rewards": True,
            },
        },
    ),
)
