"""Commands from nothing to their end: what Python, imports and the first update take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from esper_bench.peers import MLFLOW, SB3, TENSORBOARD, TORCH, WANDB
from esper_bench.row import Party, Row
from esper_bench.subjects import _loggers as loggers
from esper_bench.subjects import journal

if TYPE_CHECKING:
    from contextlib import ExitStack

    from esper_bench.row import Setup, Work

__all__ = ["ROWS"]

_SB3_FIRST_UPDATE: Final = """
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
PPO("MlpPolicy", make_vec_env("CartPole-v1", 8), n_steps=32, batch_size=256, n_epochs=4, device="cpu").learn(256)
"""


def _python(*words: str) -> Setup:
    return lambda _: journal.command(list(words))


def _first_update(stack: ExitStack) -> Work:
    words = ["-m", "esper_core", "ppo", "--no-config", "--env", "CartPole-v1", "--updates", "1"]
    sizes = ("env.n_envs=8", "ppo.rollout_steps=32", "ppo.minibatch_size=256", "ppo.epochs=4")
    return journal.command([*words, "--dir", loggers.folder(stack), *(w for size in sizes for w in ("--set", size))])


ROWS: Final = (
    Row(
        "start, to the first update",
        "`esper ppo --env CartPole-v1 --updates 1`, its run kept; SB3 the same 256 steps and 4 optimizer steps; "
        "`import torch` alone",
        "s",
        _first_update,
        (
            SB3.doing(_python("-c", _SB3_FIRST_UPDATE)),
            TORCH.doing(_python("-c", "import torch"), "its import alone"),
        ),
        per="command",
        clock="commands",
        rounds=4,
    ),
    Row(
        "start, import esper_core",
        "the library without a run",
        "ms",
        _python("-c", "import esper_core"),
        (
            Party("python -c pass", _python("-c", "pass")),
            SB3.doing(_python("-c", "import stable_baselines3")),
        ),
        per="command",
        clock="commands",
        rounds=7,
    ),
    Row(
        "start, a command's help",
        "`--help` of each command line, and the interpreter alone",
        "ms",
        _python("-m", "esper_core", "--help"),
        (
            Party("python -c pass", _python("-c", "pass")),
            TENSORBOARD.doing(_python("-m", "tensorboard.main", "--help")),
            WANDB.doing(_python("-m", "wandb", "--help")),
            MLFLOW.doing(_python("-m", "mlflow", "--help")),
        ),
        per="command",
        clock="commands",
        rounds=5,
        quick=True,
    ),
)
