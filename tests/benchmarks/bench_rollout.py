"""One rollout beside Stable-Baselines3's ``collect_rollouts``: the same environment, turn by turn in one process.

CPU time of the whole process, one torch thread: a round plays one rollout of every case, and the ratio is the median of
the rounds' own ratios, so that a busy machine slows all alike. Esper's rollout is what a run plays: decisions, masks,
checks of what the environment returns, episodes' statistics, advantages; SB3's is its own loop with its Monitor, as
``make_vec_env`` sets it up. Usage: ``python tests/benchmarks/bench_rollout.py [--rounds 9] [ROW ...]``; needs
stable-baselines3.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from turns import interleaved, quartiles_of_ratios

from esper_core.config.schema import EnvConfig, EsperConfig, PPOConfig, RunConfig
from esper_core.emitter import TelemetryEmitter
from esper_core.envs.adapter import make_task
from esper_core.events import PPOUpdatePayload
from esper_core.ppo import PPOAgent, Trainer

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS = 256


@dataclass(frozen=True)
class Row:
    """One comparison: environments side by side, Esper's table ``[env]`` beside the id, and the wanted ratio."""

    env: str
    n_envs: int
    settings: dict[str, Any]
    target: float | None = None


ROWS = {
    "CartPole": Row("CartPole-v1", 8, {}, 3.0),
    "CartPole, native": Row("CartPole-v1", 8, {"vector": "native"}),
    "CartPole, 64": Row("CartPole-v1", 64, {}),
    "CartPole, 64, native": Row("CartPole-v1", 64, {"vector": "native"}),
    "Pendulum": Row("Pendulum-v1", 8, {}),
}
"""With how many times SB3's steps are wanted, where a number is."""


def sb3_rollout(row: Row) -> Callable[[], object]:
    """``collect_rollouts()`` of a model, with the rollout of the row."""
    env = make_vec_env(row.env, n_envs=row.n_envs, seed=0)
    model = PPO("MlpPolicy", env, n_steps=STEPS, device="cpu", seed=0)
    model.set_logger(Logger(folder=None, output_formats=[]))
    callback = CallbackList([])
    callback.init_callback(model)
    model._setup_learn(STEPS * row.n_envs)  # what learn() does before it collects
    return lambda: model.collect_rollouts(env, callback, model.rollout_buffer, STEPS)


def esper_rollout(row: Row) -> Callable[[], object]:
    """The rollout that a run plays between two updates, its limit never reached."""
    config = EsperConfig(
        env=EnvConfig(id=row.env, n_envs=row.n_envs, **row.settings),
        ppo=PPOConfig(rollout_steps=STEPS, hidden=(64, 64)),
        run=RunConfig(steps=10**12),
    )
    task = make_task(config.env, seed=0)
    agent = PPOAgent(task.heads, task.obs_shape, config.ppo, action_form=task.action_form, form=task.observation_form)
    # The default sinks hear of updates and not of every episode, whose event is then not built.
    return Trainer(agent, task, config, emitter=TelemetryEmitter(heard={PPOUpdatePayload.kind}))._collect


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'steps per CPU second':24s} {'SB3':>9s} {'Esper':>9s}   times SB3 (quartiles)      wanted at least")
    for name in args.rows or ROWS:
        row = ROWS[name]
        seconds = interleaved({"sb3": sb3_rollout(row), "esper": esper_rollout(row)}, args.rounds)
        low, middle, high = quartiles_of_ratios(seconds["sb3"], seconds["esper"])
        sb3, esper = (STEPS * row.n_envs / statistics.median(seconds[case]) for case in ("sb3", "esper"))
        wanted = "" if row.target is None else f"{row.target:15.2f}"
        print(f"{name:24s} {sb3:9,.0f} {esper:9,.0f}   {middle:.2f} ({low:.2f} to {high:.2f})   {wanted}", flush=True)


if __name__ == "__main__":
    main()
