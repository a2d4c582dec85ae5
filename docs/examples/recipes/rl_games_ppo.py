"""Esper's KL in rl_games' PPO, on Pendulum: ``python rl_games_ppo.py``. The recipe is the class ``EsperObserver``."""

from __future__ import annotations

import tempfile
from typing import Any

import gymnasium
import numpy as np
import torch
from rl_games.common import env_configurations, vecenv
from rl_games.common.algo_observer import DefaultAlgoObserver
from rl_games.torch_runner import Runner
from torch.distributions import Normal

from esper_core import monitor

ROLLOUT, ENVS, UPDATES = 32, 8, 3


# recipe
class EsperObserver(DefaultAlgoObserver):
    """rl_games' own hooks: the first is called before the first step, the second after the last."""

    def after_steps(self) -> None:
        """Keep the rollout: rl_games overwrites the old means and deviations in its dataset as it learns."""
        kept = self.algo.dataset.values_dict
        names = ("obs", "actions", "mu", "sigma", "advantages")
        self.rollout = {name: kept[name].clone() for name in names}

    def after_print_stats(self, frame: int, epoch_num: int, total_time: float) -> None:
        """Judge the rollout under the policy as it now is, as it acts: without training its normaliser."""
        super().after_print_stats(frame, epoch_num, total_time)
        algo, rollout = self.algo, self.rollout
        training = algo.model.training
        algo.model.eval()
        seen = algo._preproc_obs(rollout["obs"])  # noqa: SLF001  # images become floats here and nowhere else
        inputs = {"is_train": True, "prev_actions": rollout["actions"], "obs": seen}
        with torch.no_grad(), torch.random.fork_rng():
            found = algo.model(inputs)
        algo.model.train(training)
        old, new = Normal(rollout["mu"], rollout["sigma"]), Normal(found["mus"], found["sigmas"])
        self.run.ppo_update(old=old, new=new, env_steps=frame + algo.curr_frames)


# end
class Pendulums(vecenv.IVecEnv):
    """Gymnasium's Pendulum, side by side."""

    def __init__(self, num_actors: int) -> None:
        self.envs = gymnasium.make_vec("Pendulum-v1", num_envs=num_actors, vectorization_mode="sync")

    def step(self, actions: Any) -> Any:
        """Take one step in every environment."""
        seen, reward, terminated, truncated, _ = self.envs.step(2 * np.asarray(actions))
        return seen.astype(np.float32), 0.1 * reward.astype(np.float32), np.logical_or(terminated, truncated), {}

    def reset(self) -> Any:
        """Begin."""
        return self.envs.reset(seed=0)[0].astype(np.float32)

    def get_number_of_agents(self) -> int:
        """One in each environment."""
        return 1

    def get_env_info(self) -> dict[str, Any]:
        """The spaces."""
        return {
            "action_space": gymnasium.spaces.Box(-1, 1, (1,), np.float32),
            "observation_space": self.envs.single_observation_space,
        }


def configuration(folder: str) -> dict[str, Any]:
    """A small continuous agent."""
    space = {
        "mu_activation": "None",
        "sigma_activation": "None",
        "mu_init": {"name": "default"},
        "sigma_init": {"name": "const_initializer", "val": 0},
        "fixed_sigma": True,
    }
    mlp = {"units": [32], "activation": "elu", "initializer": {"name": "default"}}
    config = {
        "name": "pendulum",
        "env_name": "pendulum",
        "train_dir": folder,
        "device": "cpu",
        "device_name": "cpu",
        "multi_gpu": False,
        "torch_compile": False,
        "mixed_precision": False,
        "normalize_input": True,
        "normalize_value": True,
        "normalize_advantage": True,
        "reward_shaper": {"scale_value": 1.0},
        "gamma": 0.95,
        "tau": 0.95,
        "learning_rate": 1e-3,
        "lr_schedule": "None",
        "kl_threshold": 0.008,
        "score_to_win": 1e9,
        "max_epochs": UPDATES,
        "save_best_after": 1000,
        "save_frequency": 0,
        "grad_norm": 1.0,
        "entropy_coef": 0.0,
        "truncate_grads": True,
        "e_clip": 0.2,
        "clip_value": True,
        "num_actors": ENVS,
        "horizon_length": ROLLOUT,
        "minibatch_size": 64,
        "mini_epochs": 4,
        "critic_coef": 2,
        "bounds_loss_coef": 0.0,
        "print_stats": False,
    }
    return {
        "params": {
            "seed": 1,
            "algo": {"name": "a2c_continuous"},
            "model": {"name": "continuous_a2c_logstd"},
            "network": {"name": "actor_critic", "separate": False, "space": {"continuous": space}, "mlp": mlp},
            "config": config,
        }
    }


def train() -> EsperObserver:
    """Train for three updates; the observer as it ends."""
    vecenv.register("PENDULUM", lambda _, num_actors, **__: Pendulums(num_actors))
    env_configurations.register("pendulum", {"vecenv_type": "PENDULUM", "env_creator": lambda **_: None})
    observer = EsperObserver()
    with (
        tempfile.TemporaryDirectory() as folder,
        monitor("Pendulum-v1", name="rl_games", library="rl-games", n_envs=ENVS) as observer.run,
    ):
        runner = Runner(observer)
        runner.load(configuration(folder))
        runner.reset()
        runner.run({"train": True})
    return observer


if __name__ == "__main__":
    train()
