"""The presets of the task."""

from __future__ import annotations

from typing import Any, Final

__all__ = ["PRESETS"]

PRESETS: Final[dict[str, dict[str, Any]]] = {
    # Few hosts in different phases of their episodes, and short rollouts: 20 episodes make at least 10 updates, and
    # each update contains every phase of an episode. Epochs are longer than in the full task: the hosts of a first run
    # learn well, and most of its time is training, not start-up.
    "morphogenesis": {
        "run": {"episodes": 20},
        "env": {"n_envs": 4, "kwargs": {"stagger": True, "batches": 16}},
        "ppo": {"rollout_steps": 8, "epochs": 4, "minibatch_size": 8, "learning_rate": 5e-4},
    },
    # A rollout is whole episodes, and what counts is their undiscounted return. docs/explanation/morphogenesis.md has
    # the returns and times of this preset.
    "morphogenesis-full": {
        "run": {"updates": 1000},
        "env": {"id": "morphogenesis", "n_envs": 64},
        "ppo": {
            "rollout_steps": 24,
            "epochs": 8,
            "minibatch_size": 384,
            "learning_rate": 1e-3,
            "learning_rate_schedule": "linear",
            "gamma": 1.0,
            "gae_lambda": 0.8,
            "entropy_coef": 0.3,  # the policy stays open until it can tell what waiting and blueprints are worth
            "entropy_coef_schedule": "linear",
            "normalise_observations": True,
        },
    },
}
"""Preset name -> tables of the configuration."""
