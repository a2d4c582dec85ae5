"""Stable-Baselines3's PPO with the hyperparameters that rl-baselines3-zoo publishes, the peer of bench_presets.py.

The values are those of ``hyperparams/ppo.yml`` in https://github.com/DLR-RM/rl-baselines3-zoo. ``lin_x`` there is
``("linear", x)`` here. Where the zoo has none, the comment says what stands in. Learning stops at the benchmark's
budget, so a linear schedule ends there.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn


@dataclass(frozen=True, kw_only=True)
class Zoo:
    """One entry of the zoo's file: environments, normalisation (``normalize``), and arguments of ``PPO``."""

    n_envs: int
    normalise: bool = False
    policy: str = "MlpPolicy"
    ppo: dict[str, Any] = field(default_factory=dict)


PEERS: Final[dict[str, Zoo]] = {
    "CartPole-v1": Zoo(
        n_envs=8,
        ppo={
            "n_steps": 32,
            "batch_size": 256,
            "gae_lambda": 0.8,
            "gamma": 0.98,
            "n_epochs": 20,
            "ent_coef": 0.0,
            "learning_rate": ("linear", 1e-3),
            "clip_range": ("linear", 0.2),
        },
    ),
    "Acrobot-v1": Zoo(
        n_envs=16,
        normalise=True,
        ppo={"n_steps": 256, "gae_lambda": 0.94, "gamma": 0.99, "n_epochs": 4, "ent_coef": 0.0},
    ),
    "MountainCar-v0": Zoo(
        n_envs=16,
        normalise=True,
        ppo={"n_steps": 16, "gae_lambda": 0.98, "gamma": 0.99, "n_epochs": 4, "ent_coef": 0.0},
    ),
    "Pendulum-v1": Zoo(
        n_envs=4,
        ppo={
            "n_steps": 1024,
            "gae_lambda": 0.95,
            "gamma": 0.9,
            "n_epochs": 10,
            "ent_coef": 0.0,
            "learning_rate": 1e-3,
            "clip_range": 0.2,
            "use_sde": True,
            "sde_sample_freq": 4,
        },
    ),
    "MountainCarContinuous-v0": Zoo(
        n_envs=1,
        normalise=True,
        ppo={
            "batch_size": 256,
            "n_steps": 8,
            "gamma": 0.9999,
            "learning_rate": 7.77e-05,
            "ent_coef": 0.00429,
            "clip_range": 0.1,
            "n_epochs": 10,
            "gae_lambda": 0.9,
            "max_grad_norm": 5,
            "vf_coef": 0.19,
            "use_sde": True,
            "policy_kwargs": {"log_std_init": -3.29, "ortho_init": False},
        },
    ),
    "LunarLander-v3": Zoo(  # the zoo's LunarLander-v2
        n_envs=16,
        ppo={"n_steps": 1024, "batch_size": 64, "gae_lambda": 0.98, "gamma": 0.999, "n_epochs": 4, "ent_coef": 0.01},
    ),
    "BipedalWalker-v3": Zoo(
        n_envs=32,
        normalise=True,
        ppo={
            "n_steps": 2048,
            "batch_size": 64,
            "gae_lambda": 0.95,
            "gamma": 0.999,
            "n_epochs": 10,
            "ent_coef": 0.0,
            "learning_rate": 3e-4,
            "clip_range": 0.18,
        },
    ),
    "InvertedPendulum-v5": Zoo(  # the zoo's InvertedPendulum-v3
        n_envs=1,
        normalise=True,
        ppo={
            "batch_size": 64,
            "n_steps": 32,
            "gamma": 0.999,
            "learning_rate": 0.000222425,
            "ent_coef": 1.37976e-07,
            "clip_range": 0.4,
            "n_epochs": 5,
            "gae_lambda": 0.9,
            "max_grad_norm": 0.3,
            "vf_coef": 0.19816,
        },
    ),
    "HalfCheetah-v5": Zoo(  # the zoo's HalfCheetah-v3
        n_envs=1,
        normalise=True,
        ppo={
            "batch_size": 64,
            "n_steps": 512,
            "gamma": 0.98,
            "learning_rate": 2.0633e-05,
            "ent_coef": 0.000401762,
            "clip_range": 0.1,
            "n_epochs": 20,
            "gae_lambda": 0.92,
            "max_grad_norm": 0.8,
            "vf_coef": 0.58096,
            "policy_kwargs": {
                "log_std_init": -2,
                "ortho_init": False,
                "activation_fn": nn.ReLU,
                "net_arch": {"pi": [256, 256], "vf": [256, 256]},
            },
        },
    ),
    "MinAtar/Breakout-v1": Zoo(  # the zoo has no MinAtar: its values for Atari, with the network of Esper's preset
        n_envs=8,
        ppo={
            "n_steps": 128,
            "n_epochs": 4,
            "batch_size": 256,
            "learning_rate": ("linear", 2.5e-4),
            "clip_range": ("linear", 0.1),
            "ent_coef": 0.01,
            "policy_kwargs": {"activation_fn": nn.ReLU, "net_arch": [128, 128]},
        },
    ),
    "match:Match-v0": Zoo(  # not in the zoo: the values of Esper's preset
        n_envs=8,
        ppo={
            "n_steps": 64,
            "n_epochs": 4,
            "batch_size": 64,
            "learning_rate": ("linear", 1e-3),
            "gamma": 0.9,
            "gae_lambda": 0.5,
            "ent_coef": 0.01,
            "vf_coef": 0.25,
        },
    ),
}
"""Environment -> what the zoo trains it with."""


def _scheduled(value: Any) -> Any:
    """``("linear", x)`` as a function of the remaining share of the run."""
    if isinstance(value, tuple):
        return lambda left: left * value[1]
    return value


def train(env_id: str, *, seed: int, steps: int, episodes: int, evaluation_seed: int) -> dict[str, Any]:
    """Train, then play ``episodes`` with the greedy policy in a fresh environment, its statistics standing still.

    Returns:
        ``steps_taken``, ``cpu_s`` of the learning, ``last_100``: mean return of the last 100 training episodes, and
        ``greedy``: mean return of the evaluation. Returns are the environment's own.
    """
    peer = PEERS[env_id]
    name = env_id.rpartition(":")[2]
    env = make_vec_env(name, n_envs=peer.n_envs, seed=seed)
    if peer.normalise:
        env = VecNormalize(env, gamma=peer.ppo["gamma"])
    options = {key: _scheduled(value) for key, value in peer.ppo.items()}
    model = PPO(peer.policy, env, device="cpu", seed=seed, verbose=0, stats_window_size=100, **options)
    begun = time.process_time()
    model.learn(steps)
    seconds = time.process_time() - begun
    last = [episode["r"] for episode in model.ep_info_buffer or ()]
    test = make_vec_env(name, n_envs=1, seed=evaluation_seed + seed)
    if isinstance(env, VecNormalize):
        test = VecNormalize(test, training=False, norm_reward=False)
        test.obs_rms = env.obs_rms
    greedy, _ = evaluate_policy(model, test, n_eval_episodes=episodes, deterministic=True)
    env.close()
    test.close()
    return {
        "steps_taken": model.num_timesteps,
        "cpu_s": round(seconds, 1),
        "last_100": statistics.fmean(last) if last else None,
        "greedy": float(np.mean(greedy)),
    }
