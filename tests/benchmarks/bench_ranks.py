"""What a second rank brings and what its exchanges cost: env steps a second, CPU a step, and one reduction by size.

    python tests/benchmarks/bench_ranks.py [--rounds 5] [--updates 12]

Each row trains the agent alone (no session, no sinks) in processes that are pinned to cores: one rank on one core, two
ranks on that one core, two ranks on two cores. The rows take turns in every round; medians over rounds. Every rank has
8 environments and the same minibatches (weak scaling). ``spin`` is CartPole whose step takes some 30 microseconds of
CPU more. ``exchanges`` is the part of the CPU that was spent while a rank was in one, gloo's own threads included. On a
machine that others use, the CPU of a step is to be trusted more than the steps a second.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from esper_core.ppo.distributed import GroupReducer

ENVIRONMENTS = ("CartPole-v1", "spin")
LAYOUTS = {"1 rank, 1 core": (0,), "2 ranks, 1 core": (0, 0), "2 ranks, 2 cores": (0, 1)}
SIZES = (1_000, 10_000, 100_000, 1_000_000)
WARM = 2
LOOPS = 3_000
"""Of an empty loop, for the slower step."""


class Timed:
    """A group whose exchanges are timed."""

    def __init__(self, group: Any) -> None:
        self._group = group
        self.rank, self.world_size = group.rank, group.world_size
        self.calls, self.cpu_s = 0, 0.0

    def sum(self, value: Any) -> Any:
        """Timed."""
        return self._timed(self._group.sum, value)

    def max(self, value: Any) -> Any:
        """Timed."""
        return self._timed(self._group.max, value)

    def gather(self, value: Any) -> Any:
        """Timed."""
        return self._timed(self._group.gather, value)

    def _timed(self, call: Callable[[Any], Any], value: Any) -> Any:
        begun = time.process_time()
        found = call(value)
        self.cpu_s += time.process_time() - begun
        self.calls += 1
        return found


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Scaling over ranks.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=12)
    args = parser.parse_args()
    if "WORLD_SIZE" in os.environ:
        return _rank(os.environ["BENCH_ENV"], args.updates)
    cores = sorted(os.sched_getaffinity(0))
    found: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    sums: dict[int, list[float]] = {}
    for _ in range(args.rounds):
        for env in ENVIRONMENTS:
            for layout, places in LAYOUTS.items():
                if max(places) < len(cores):
                    told = _start(env, [cores[place] for place in places], args.updates)
                    steps = sum(item["steps"] for item in told)
                    wall, cpu = max(item["wall_s"] for item in told), sum(item["cpu_s"] for item in told)
                    within = sum(item["exchange_cpu_s"] for item in told)
                    row = steps / wall, cpu / steps * 1e6, within / steps * 1e6
                    found.setdefault((env, layout), []).append(row)
                    for size, value in told[0]["sums_us"].items() if places == (0, 1) else ():
                        sums.setdefault(int(size), []).append(value)
    print(f"{'environment':<14}{'layout':<20}{'steps/s':>10}{'CPU us/step':>14}{'exchanges':>12}")
    for (env, layout), values in found.items():
        rate, cpu, within = (statistics.median(column) for column in zip(*values, strict=True))
        print(f"{env:<14}{layout:<20}{rate:>10.0f}{cpu:>14.1f}{within:>12.1f}")
    print(f"\n{'float32 values':>16}{'us a reduction':>16}  two ranks, two cores, wall clock")
    for size, times in sums.items():
        print(f"{size:>16}{statistics.median(times):>16.0f}")
    return 0


def _start(env: str, cores: list[int], updates: int) -> list[dict[str, Any]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(len(cores)), "BENCH_ENV": env}
    processes = [
        subprocess.Popen(
            ["taskset", "-c", str(core), sys.executable, __file__, "--updates", str(updates)],
            env=os.environ | where | {"RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank, core in enumerate(cores)
    ]
    return [json.loads(process.communicate()[0]) for process in processes]


def _rank(name: str, updates: int) -> int:
    """Train in this process, and print what it took."""
    import contextlib

    import gymnasium as gym
    import torch

    from esper_core.config.schema import EnvConfig, EsperConfig, RunConfig
    from esper_core.envs.adapter import make_task
    from esper_core.host.process.signals import StopFlag
    from esper_core.ppo import PPOAgent, Trainer
    from esper_core.ppo.reducer import seed_of_rank
    from esper_core.ppo.together import Together
    from esper_core.training.ranks import join, place_of

    class Spin(gym.Wrapper[Any, Any, Any, Any]):
        def step(self, action: Any) -> Any:
            for _ in range(LOOPS):
                pass
            return self.env.step(action)

    gym.register("Spin-v0", entry_point=lambda **_: Spin(gym.make("CartPole-v1")))
    torch.set_num_threads(1)
    place = place_of(os.environ)
    env = EnvConfig(id="Spin-v0" if name == "spin" else name)
    task = make_task(env, seed=seed_of_rank(0, place.rank))
    with join(place, 600, StopFlag()) if place.several else contextlib.nullcontext() as group:
        config = EsperConfig(env=env, run=RunConfig(updates=WARM, episodes=0, steps=0))
        timed = Timed(group) if group is not None else None
        agent = PPOAgent(task.heads, task.obs_shape, config.ppo, form=task.observation_form, reducer=timed)
        agreement = Together(timed, check_updates=0) if timed is not None else None  # type: ignore[arg-type]  # it has what is asked
        Trainer(agent, task, config, agreement=agreement).run()
        config = EsperConfig(env=env, run=RunConfig(updates=WARM + updates, episodes=0, steps=0))
        trainer = Trainer(agent, task, config, agreement=agreement)
        wall, cpu, before = time.perf_counter(), time.process_time(), timed.cpu_s if timed is not None else 0.0
        result = trainer.run()
        took = {
            "exchange_cpu_s": timed.cpu_s - before if timed is not None else 0.0,
            "wall_s": time.perf_counter() - wall,
            "cpu_s": time.process_time() - cpu,
            "steps": result.env_steps / place.world,
            "sums_us": {size: _sum_us(group, size) for size in SIZES} if group is not None else {},
        }
    task.close()
    print(json.dumps(took))
    return 0


def _sum_us(group: GroupReducer, size: int) -> float:
    """Wall clock of one reduction of so many float32 values, in microseconds."""
    import torch

    values, count = torch.zeros(size), 100
    begun = time.perf_counter()
    for _ in range(count):
        group.sum(values)
    return (time.perf_counter() - begun) / count * 1e6


if __name__ == "__main__":
    sys.exit(main())
