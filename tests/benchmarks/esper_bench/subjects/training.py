"""Training from nothing, and its two halves' other one, the rollout. Esper writes its journal; SB3 logs nothing."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any, Final

from esper_bench.peers import SB3
from esper_bench.row import Row
from esper_bench.subjects._settings import takes
from esper_core.config.schema import EnvConfig

if TYPE_CHECKING:
    from contextlib import ExitStack

    from esper_bench.row import Setup, Work

__all__ = ["ROWS"]

STEPS: Final = 4096
ROLLOUT: Final = 2048


def _esper(env: str, n_envs: int) -> Setup:
    """Two updates with SB3's hyperparameters, journal and checkpoint on, and a stop check that finds nothing."""

    def setup(stack: ExitStack) -> Work:
        import esper_core

        folder = stack.enter_context(tempfile.TemporaryDirectory())

        def work() -> int:
            esper_core.train(
                no_config=True,
                env={"id": env, "n_envs": n_envs},
                ppo={
                    "rollout_steps": ROLLOUT // n_envs,
                    "epochs": 10,
                    "minibatch_size": 64,
                    "learning_rate": 3e-4,
                    "hidden": (64, 64),
                    "entropy_coef": 0.0,
                    "value_coef": 1.0,
                    "max_grad_norm": 0.5,
                    "target_kl": 1e3,
                },
                steps=STEPS,
                sinks=["journal"],
                run={"dir": folder},
            )
            return STEPS

        return work

    return setup


def _sb3(env: str, n_envs: int) -> Setup:
    """``PPO("MlpPolicy", env).learn()`` with SB3's defaults, the rollout shared between the environments."""

    def setup(_: ExitStack) -> Work:
        import torch
        from stable_baselines3 import PPO
        from stable_baselines3.common.env_util import make_vec_env

        import esper_bench.tasks  # noqa: F401  # registers the benchmarks' own environment

        torch.set_num_threads(1)

        def work() -> int:
            PPO("MlpPolicy", make_vec_env(env, n_envs), n_steps=ROLLOUT // n_envs, device="cpu").learn(STEPS)
            return STEPS

        return work

    return setup


def _esper_rollout(env: str, settings: dict[str, Any]) -> Setup:
    """The rollout that a run plays between two updates, its limit never reached."""

    def setup(stack: ExitStack) -> Work:
        import torch

        from esper_core.config.schema import EsperConfig, PPOConfig, RunConfig
        from esper_core.envs.adapter import make_task
        from esper_core.ppo import PPOAgent, Trainer

        torch.set_num_threads(1)
        config = EsperConfig(
            env=EnvConfig(id=env, n_envs=8, **settings),
            ppo=PPOConfig(rollout_steps=ROLLOUT // 8, hidden=(64, 64)),
            run=RunConfig(steps=10**12),
        )
        task = make_task(config.env, seed=0)
        stack.callback(task.close)
        agent = PPOAgent(
            task.heads, task.obs_shape, config.ppo, action_form=task.action_form, form=task.observation_form
        )
        trainer = Trainer(agent, task, config)

        def work() -> int:
            trainer._collect()
            return ROLLOUT

        return work

    return setup


def _sb3_rollout(env: str) -> Setup:
    def setup(_: ExitStack) -> Work:
        import torch
        from stable_baselines3 import PPO
        from stable_baselines3.common.callbacks import CallbackList
        from stable_baselines3.common.env_util import make_vec_env
        from stable_baselines3.common.logger import Logger

        torch.set_num_threads(1)
        envs = make_vec_env(env, 8, seed=0)
        model = PPO("MlpPolicy", envs, n_steps=ROLLOUT // 8, device="cpu", seed=0)
        model.set_logger(Logger(folder=None, output_formats=[]))
        callback = CallbackList([])
        callback.init_callback(model)
        model._setup_learn(ROLLOUT)  # what learn() does before it collects

        def work() -> int:
            model.collect_rollouts(envs, callback, model.rollout_buffer, ROLLOUT // 8)
            return ROLLOUT

        return work

    return setup


def _whole(name: str, env: str, n_envs: int, what: str, *, esper_env: str = "") -> Row:
    return Row(
        name,
        what,
        "µs",
        _esper(esper_env or env, n_envs),
        (SB3.doing(_sb3(env, n_envs)),),
        per="environment step",
        rounds=5,
    )


def _rollout(name: str, env: str, what: str, *, quick: bool = False, **settings: Any) -> Row:
    return Row(
        name,
        what,
        "µs",
        _esper_rollout(env, settings),
        (SB3.doing(_sb3_rollout(env)),),
        per="environment step",
        rounds=11,
        quick=quick,
    )


_NATIVE: Final = (
    (
        _rollout(
            "rollout, CartPole, native",
            "CartPole-v1",
            'Esper with `[env] vector = "native"`; SB3 as in rollout, CartPole',
            vector="native",
        ),
    )
    if takes(EnvConfig, vector="native")
    else ()
)

ROWS: Final = (
    _whole(
        "CartPole, SB3's defaults",
        "CartPole-v1",
        1,
        "1 environment x 2048 steps, minibatch 64, 10 epochs, 2 x 64; two updates from nothing, journal on",
    ),
    _whole("CartPole, 8 environments", "CartPole-v1", 8, "the same with 8 environments x 256 steps"),
    _whole(
        "five heads, 8 environments",
        "EsperBenchFiveHeads-v0",
        8,
        "the same on a MultiDiscrete(3, 5, 3, 3, 4) task of the benchmarks",
        esper_env="esper_bench.tasks:EsperBenchFiveHeads-v0",
    ),
    _whole("Pendulum, 8 environments", "Pendulum-v1", 8, "the same on Pendulum-v1: one Gaussian head"),
    _rollout("rollout, CartPole", "CartPole-v1", "8 environments x 256 steps with decisions, no update", quick=True),
    _rollout("rollout, Pendulum", "Pendulum-v1", "the same on Pendulum-v1"),
    *_NATIVE,
)
