"""One PPO update beside Stable-Baselines3's: the same sizes, the same hyperparameters, turn by turn in one process.

CPU time of the whole process, one torch thread: a round runs every case once, and the ratio is the median of the
rounds' own ratios, so that a busy machine slows both. Esper's stop check, report and final pass are on. Usage:
``python tests/benchmarks/bench_update.py [--rounds 9] [ROW ...]``; needs stable-baselines3.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv
from turns import interleaved, quartiles_of_ratios

from esper_core.config.schema import PPOConfig
from esper_core.ppo import Batch, HeadSpec, PPOAgent, Rollout

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

OBSERVATIONS = 4
EPOCHS = 10


@dataclass(frozen=True)
class Row:
    """One comparison: heads' sizes, samples of the rollout, minibatch, the trunks' layers, and ``ppo.compile``."""

    sizes: tuple[int, ...]
    samples: int
    minibatch: int
    hidden: tuple[int, ...]
    target: float | None
    compile: bool = False


ROWS = {
    "small": Row((2,), 2048, 64, (64, 64), 0.45),
    "five heads": Row((3, 5, 3, 3, 4), 2048, 64, (64, 64), 0.40),
    "256x256": Row((2,), 16384, 4096, (256, 256), 1.0),
    "small compiled": Row((2,), 2048, 64, (64, 64), 0.11, compile=True),
    "five heads compiled": Row((3, 5, 3, 3, 4), 2048, 64, (64, 64), None, compile=True),
    "256x256 compiled": Row((2,), 16384, 4096, (256, 256), None, compile=True),
}
"""With the ratio that is wanted, where one is. The first run of a compiled row builds its step, before it is timed."""


class Noise(gym.Env[Any, Any]):
    """Random observations and rewards: an update does not ask where they come from."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.observation_space = gym.spaces.Box(-5, 5, (OBSERVATIONS,))
        self.action_space = gym.spaces.Discrete(sizes[0]) if len(sizes) == 1 else gym.spaces.MultiDiscrete(list(sizes))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), float(self.np_random.normal()), False, False, {}


def sb3_update(row: Row, algorithm: Any = PPO, *, device: str = "cpu") -> Callable[[], object]:
    """``train()`` of a model that has collected one rollout; sbx's PPO takes the same arguments."""
    env = DummyVecEnv([lambda: Noise(row.sizes)])
    model = algorithm(
        "MlpPolicy",
        env,
        n_steps=row.samples,
        batch_size=row.minibatch,
        n_epochs=EPOCHS,
        policy_kwargs={"net_arch": list(row.hidden)},
        device=device,
        seed=0,
    )
    model.set_logger(Logger(folder=None, output_formats=[]))
    callback = CallbackList([])
    callback.init_callback(model)
    model._setup_learn(row.samples)  # what learn() does before it collects
    model.collect_rollouts(env, callback, model.rollout_buffer, row.samples)
    train: Callable[[], object] = model.train
    return train


def esper_update(row: Row, *, device: str = "cpu") -> Callable[[], object]:
    """``update()`` of an agent with SB3's hyperparameters, and a stop check that finds nothing."""
    config = PPOConfig(
        epochs=EPOCHS,
        minibatch_size=row.minibatch,
        hidden=row.hidden,
        learning_rate=3e-4,
        value_coef=1.0,
        entropy_coef=0.0,
        target_kl=1e3,
        compile=row.compile,
        device=device,
    )
    heads = [HeadSpec(f"head_{index}", size) for index, size in enumerate(row.sizes)]
    agent = PPOAgent(heads, (OBSERVATIONS,), config)
    generator = torch.Generator().manual_seed(0)
    observations = torch.randn(row.samples, OBSERVATIONS, generator=generator)
    decision = agent.decide(observations, None, None, agent.noise(1, row.samples)[0])
    active = torch.ones(row.samples, len(heads), dtype=torch.bool)
    reward = torch.randn(row.samples, generator=generator)
    batch = Batch(
        observations, decision.actions, decision.log_prob, None, active, active[:, 0], reward, reward, decision.values
    )
    rollout = Rollout(batch.to(agent.device))
    return lambda: agent.update(rollout)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'one update, ms of CPU':24s} {'SB3':>8s} {'Esper':>8s}   ratio (quartiles)        wanted at most")
    for name in args.rows or ROWS:
        row = ROWS[name]
        seconds = interleaved({"sb3": sb3_update(row), "esper": esper_update(row)}, args.rounds)
        low, middle, high = quartiles_of_ratios(seconds["esper"], seconds["sb3"])
        sb3, esper = (statistics.median(seconds[case]) * 1e3 for case in ("sb3", "esper"))
        wanted = "" if row.target is None else f"{row.target:14.2f}"
        print(f"{name:24s} {sb3:8.1f} {esper:8.1f}   {middle:.3f} ({low:.3f} to {high:.3f})   {wanted}", flush=True)


if __name__ == "__main__":
    main()
