"""Presets for kinds of action spaces; they are named by hand."""

from __future__ import annotations

from typing import Final

from esper_core.config.tuned._form import Tuned

__all__ = ["SEVERAL_HEADS"]

SEVERAL_HEADS: Final = (
    Tuned(
        name="multi-discrete",
        environments=(),
        tables={
            "run": {"steps": 50_000},
            "env": {"n_envs": 8},
            "ppo": {
                "rollout_steps": 64,
                "epochs": 4,
                "minibatch_size": 64,
                "learning_rate": 1e-3,
                "learning_rate_schedule": "linear",
                "gamma": 0.9,
                "gae_lambda": 0.5,  # several heads' choices in one step are told apart by what follows at once
                "entropy_coef": 0.01,
            },
        },
    ),
)
