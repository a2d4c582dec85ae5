"""Does the shipped preset reach a mean return of 475 over 100 episodes within 100 000 steps? Five seeds.

``python tests/benchmarks/bench_cartpole.py [--seeds N]``. Two answers a seed: the step at which the mean return of
the last 100 training episodes first reaches 475, and the mean return of 100 fresh episodes of the final policy. Exits
with 1 when a seed fails either.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import msgspec
import torch

from esper_core.config.layers import load_config
from esper_core.emitter import TelemetryEmitter
from esper_core.envs.adapter import make_task
from esper_core.hooks import SinkHooks
from esper_core.ppo import PPOAgent, Trainer
from esper_core.ppo.evaluation import evaluate

LIMIT = 475.0


class FirstCrossing(SinkHooks):
    """Remembers when the mean of the last 100 returns first reached the limit."""

    def __init__(self) -> None:
        self.returns: list[float] = []
        self.steps: int | None = None

    def esper_episode_finished(self, event: Any) -> None:
        """Take one episode in."""
        self.returns.append(event.payload.episode_return)
        recent = self.returns[-100:]
        if self.steps is None and len(recent) == 100 and sum(recent) / 100 >= LIMIT:
            self.steps = event.payload.env_steps


def run(seed: int) -> bool:
    """Train one seed and print its line."""
    config = load_config(no_file=True, flags={"env.id": "CartPole-v1", "run.seed": seed}).config
    task = make_task(config.env, seed=seed)
    agent = PPOAgent(task.heads, task.obs_shape, config.ppo, seed=seed)
    crossing = FirstCrossing()
    begun = time.process_time()
    result = Trainer(agent, task, config, emitter=TelemetryEmitter(crossing)).run()
    seconds = time.process_time() - begun
    task.close()
    test = make_task(msgspec.structs.replace(config.env, n_envs=20), seed=50_000)
    final = evaluate(agent, test, episodes=100, seed=50_000).return_mean
    test.close()
    crossed = f"{crossing.steps:,}" if crossing.steps is not None else "never"
    print(
        f"  {seed:4d} {crossed:>18s} {final:18.1f} {result.updates:10d} {result.early_stops:12d} {seconds:10.1f}",
        flush=True,
    )
    return crossing.steps is not None and final >= LIMIT


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("  seed    475 at step    final policy, 100 ep.    updates  early stops      CPU s")
    passed = [run(seed) for seed in range(args.seeds)]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
