"""Training from nothing, and its two halves' other one, the rollout. Esper writes its journal; SB3 logs nothing."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any, Final

from esper_bench.peers import SB3
from esper_bench.row import Row

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


def _esper_rollout(case: str) -> Setup:
    def setup(_: ExitStack) -> Work:
        import bench_rollout

        return _turn(bench_rollout.esper_rollout(bench_rollout.ROWS[case]))

    return setup


def _sb3_rollout(case: str) -> Setup:
    def setup(_: ExitStack) -> Work:
        import bench_rollout

        return _turn(bench_rollout.sb3_rollout(bench_rollout.ROWS[case]))

    return setup


def _turn(rollout: Any) -> Work:
    import torch

    torch.set_num_threads(1)

    def work() -> int:
        rollout()
        return ROLLOUT

    return work


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


def _rollout(case: str, what: str, *, quick: bool = False) -> Row:
    return Row(
        f"rollout, {case}",
        what,
        "µs",
        _esper_rollout(case),
        (SB3.doing(_sb3_rollout(case)),),
        per="environment step",
        rounds=11,
        quick=quick,
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
    _rollout("CartPole", "8 environments x 256 steps with decisions, no update", quick=True),
    _rollout("CartPole, native", 'Esper with `[env] vector = "native"`; SB3 as in rollout, CartPole'),
    _rollout("Pendulum", "as rollout, CartPole, on Pendulum-v1", quick=True),
)
