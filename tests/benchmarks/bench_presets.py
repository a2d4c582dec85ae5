"""What Esper's presets learn, beside Stable-Baselines3 with rl-baselines3-zoo's published hyperparameters.

``python tests/benchmarks/bench_presets.py [TASK ...] [--seeds 1 2] [--libraries esper sb3]``; needs
``pip install 'gymnasium[box2d,mujoco]' minatar``.

Each result (task, seed, library) is one line of ``results/presets.jsonl`` beside this file; one that is there is not
run again, unless the preset has changed since. docs/reference/presets.md has the table: ``make docs`` writes it from
that file. Both libraries take the preset's number of steps; the CPU time is the learning's, with one torch thread.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import gymnasium as gym
import torch
import zoo
from preset_results import EPISODES, LIBRARIES, RESULTS, TASKS, Job, Task, keep, known

import esper_core
from esper_core.config.layers import load_config
from esper_core.envs.adapter import make_task
from esper_core.envs.evaluation import evaluation_task
from esper_core.errors import EsperError
from esper_core.ppo import PPOAgent
from esper_core.ppo.evaluation import evaluate

if TYPE_CHECKING:
    from collections.abc import Sequence

_EVALUATION_SEED: Final = 50_000


def train_esper(task: Task, job: Job) -> dict[str, Any]:
    """Train as ``esper ppo --env ID --seed N`` does, then play greedily what its checkpoint holds."""
    config = load_config(no_file=True, flags=task.flags).config
    with tempfile.TemporaryDirectory() as folder:
        begun = time.process_time()
        run = esper_core.train(
            no_config=True,
            env=job.env_id,
            preset=task.preset,
            seed=job.seed,
            sinks=["journal"],
            run={"dir": folder},
        )
        seconds = time.process_time() - begun
        agent = PPOAgent.load(run.path)
        if run.summary is None:
            raise SystemExit(f"{run.path} has no summary")
        steps, last = run.summary["env_steps"], run.summary["return_mean_100"]
    seed = _EVALUATION_SEED + job.seed
    test = evaluation_task(config.env, episodes=EPISODES, seed=seed)
    played = evaluate(agent, test, episodes=EPISODES, seed=seed, deterministic=True)
    test.close()
    return {"steps_taken": steps, "cpu_s": round(seconds, 1), "last_100": last, "greedy": played.return_mean}


def train_sb3(task: Task, job: Job) -> dict[str, Any]:
    """Train the peer on the same number of steps."""
    make_task(load_config(no_file=True, flags=task.flags).config.env, seed=0).close()  # registers the id
    return zoo.train(job.env_id, seed=job.seed, steps=job.steps, episodes=EPISODES, evaluation_seed=_EVALUATION_SEED)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what has no result yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [task.env_id for task in TASKS]
    parser.add_argument("tasks", nargs="*", metavar="TASK", default=names, help=f"default: all, {', '.join(names)}")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: 1 to 5 up to 300 000 steps, 1 and 2 beyond")
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=LIBRARIES)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args(arguments)
    if unknown := set(args.tasks) - set(names):
        parser.error(f"unknown task {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    done = known(args.results)
    jobs = [
        (task, task.job(seed, library))
        for task in TASKS
        if task.env_id in args.tasks
        for seed in args.seeds or task.seeds
        for library in args.libraries
    ]
    for task, job in jobs:
        if job in done:
            continue
        try:
            result = train_esper(task, job) if job.library == "esper" else train_sb3(task, job)
        except (EsperError, gym.error.Error, ImportError) as error:
            print(f"{job.env_id:26} {job.library:6} cannot be trained here: {error}", file=sys.stderr)
            continue
        keep(job, result, args.results)
        shown = "  ".join(f"{key} {value}" for key, value in result.items())
        print(f"{job.env_id:26} seed {job.seed}  {job.library:6} {shown}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
