"""Presets: named values beneath the configuration file, and the one that belongs to an environment."""

from __future__ import annotations

from typing import Any, Final

__all__ = ["PRESETS", "preset_for"]

PRESETS: Final[dict[str, dict[str, Any]]] = {
    # Reaches a mean return of 475 over 100 episodes within 100 000 steps (tests/benchmarks/bench_cartpole.py), with
    # rollouts of 32 steps, so short that even 20 first episodes of about 20 steps see more than 10 updates.
    "cartpole": {
        "run": {"steps": 100_000},
        "env": {"n_envs": 8},
        "ppo": {
            "rollout_steps": 4,
            "epochs": 2,
            "minibatch_size": 32,
            "learning_rate": 2e-3,
            "anneal_learning_rate": True,
            "gamma": 0.98,
            "gae_lambda": 0.8,
            "entropy_coef": 0.0,
            "target_kl": 0.005,  # with minibatches of 32 a policy that has solved it is easily lost again
        },
    },
    # Few hosts, out of step with each other, and short rollouts: 20 episodes make at least 10 updates, and each
    # update sees every phase of an episode. Their epochs are longer than those of the full task: a first run shows
    # hosts that learn well, and spends its time on training instead of on starting.
    "morphogenesis": {
        "run": {"episodes": 20},
        "env": {"n_envs": 4, "kwargs": {"stagger": True, "batches": 16}},
        "ppo": {"rollout_steps": 8, "epochs": 4, "minibatch_size": 8, "learning_rate": 5e-4},
    },
    # Whole episodes a rollout; docs/explanation/morphogenesis.md has what it reaches and how long it takes.
    "morphogenesis-full": {
        "run": {"updates": 150},
        "env": {"id": "morphogenesis", "n_envs": 16},
        "ppo": {
            "rollout_steps": 24,
            "epochs": 8,
            "minibatch_size": 96,
            "learning_rate": 1e-3,
            "anneal_learning_rate": True,
            "gae_lambda": 0.97,
        },
    },
}
"""Preset name -> tables; a limit in ``[run]`` holds only when nobody gave one."""

_BY_ENVIRONMENT: Final = {
    "CartPole-v0": "cartpole",
    "CartPole-v1": "cartpole",
    "morphogenesis": "morphogenesis",
}


def preset_for(env_id: str) -> str:
    """The preset of an environment, or an empty string."""
    return _BY_ENVIRONMENT.get(env_id, "")
