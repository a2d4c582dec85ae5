"""The figures of docs/explanation/morphogenesis.md.

* ``python tests/benchmarks/bench_morphogenesis.py`` (half a minute): steps a second, where the time goes, memory.
* ``... --learn [--seeds 0 1 2 3 4] [--json FILE]``: trains ``--preset morphogenesis-full`` with each seed and plays the
  policy, the baselines and the best fixed schedules on the same worlds. FILE gets one line a seed. ``--set KEY=VALUE``
  tries another value of a key (as ``ppo.entropy_coef=0.1``), ``--checkpoints FOLDER`` keeps each policy.
* ``... --table FILE ...``: the table of such lines, and how much more each seed earns than the rules.
* ``... --beside CHECKPOINT ...``: what a trained policy, greedy, does about the second death, beside the tuned rule.

The schedules come from ``python -m esper_env_morphogenesis.baselines``, which searches them.
"""

from __future__ import annotations

import argparse
import cProfile
import itertools
import json
import pstats
import resource
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from esper_core.config.layers import load_config
from esper_core.emitter import TelemetryEmitter
from esper_core.envs.adapter import make_task
from esper_core.hooks import SinkHooks
from esper_core.ppo import PPOAgent, Trainer
from esper_core.ppo.checkpoint import checkpoint_content
from esper_core.ppo.checkpoint_file import write_checkpoint
from esper_env_morphogenesis.baselines import AlwaysWait, FixedSchedules, Graft, Policy, Random, Schedule, play
from esper_env_morphogenesis.env import MorphogenesisEnv
from esper_env_morphogenesis.lifecycle import Operation
from esper_env_morphogenesis.reactive import PATIENT, PATIENT_BY_BLOCK, REPAIR, TUNED, TUNED_BY_BLOCK
from esper_env_morphogenesis.story import trained

if TYPE_CHECKING:
    from esper_env_morphogenesis.native import Choice

EVALUATION_SEED: Final = 31_337
HOSTS, EPISODES = 32, 8

SCHEDULES: Final[dict[str, Schedule]] = {
    # Leaders of the search by return, and the most accurate.
    "fixed: conv, gated": (Graft(1, 2, 0, tempo=1, fossil=6), Graft(0, 1, 0, tempo=1)),
    "fixed: conv, gated, fossils": (Graft(1, 2, 0, tempo=1, fossil=6), Graft(0, 1, 0, tempo=1, fossil=6)),
    "fixed: conv, conv": (Graft(1, 2, 0, tempo=1, fossil=6), Graft(0, 2, 0, tempo=1, fossil=6)),
    "fixed: linear, linear, kept": (Graft(0, 3, 0, tempo=1), Graft(2, 3, 0, tempo=1)),
    "fixed: linear, linear": (Graft(0, 3, 0, tempo=1, fossil=12), Graft(1, 3, 2, tempo=1, fossil=12)),
}

RULES: Final = {
    "reactive: tuned": TUNED,
    "reactive: tuned by block": TUNED_BY_BLOCK,
    "reactive: patient": PATIENT,
    "reactive: patient by block": PATIENT_BY_BLOCK,
}
"""The rules that PPO is compared with in the same worlds."""


class Curve(SinkHooks):
    """Keeps what each update said."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def esper_ppo_updated(self, event: Any) -> None:
        """Take one update in."""
        update = event.payload
        self.rows.append(
            {
                "update": update.update_id,
                "steps": update.env_steps,
                "return": update.return_mean,
                "kl": update.kl_divergence,
                "heads": {head.name: (head.kl, head.decisions) for head in update.heads},
                "decisions": update.steps,
                "forced": update.steps_forced,
                "explained_variance": update.explained_variance,
            }
        )


def measure(policy: Policy) -> dict[str, Any]:
    """Play 256 whole episodes on the worlds that every policy meets."""
    result = play(MorphogenesisEnv(HOSTS), policy, seed=EVALUATION_SEED, episodes=EPISODES)
    return {
        "return": float(result.returns.mean()),
        "return_error": float(result.returns.std() / result.returns.size**0.5),
        "accuracy": float(result.accuracies.mean()),
        "accuracy_error": float(result.accuracies.std() / result.accuracies.size**0.5),
        "returns": result.returns.ravel().tolist(),
    }


def learn(seed: int, changes: dict[str, Any], checkpoints: Path | None) -> dict[str, Any]:
    """Train the preset with one seed, measure the policy.

    Args:
        seed: of the run.
        changes: other values of keys than the preset's.
        checkpoints: where the policy is kept, as ``seed-N.pt``; None for nowhere.
    """
    flags = {"preset": "morphogenesis-full", "run.seed": seed, **changes}
    config = load_config(no_file=True, flags=flags).config
    task = make_task(config.env, seed=seed)
    curve = Curve()
    agent = PPOAgent(task.heads, task.obs_shape, config.ppo, seed=seed, conditioning_head=task.conditioning_head)
    wall, cpu = time.perf_counter(), time.process_time()
    Trainer(agent, task, config, emitter=TelemetryEmitter(curve)).run()
    spent = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    if checkpoints is not None:
        checkpoints.mkdir(parents=True, exist_ok=True)
        write_checkpoint(checkpoints / f"seed-{seed}.pt", checkpoint_content(agent))
    agent.sampling_generator.manual_seed(seed)
    greedy = {f"greedy_{name}": value for name, value in measure(trained(agent, deterministic=True)).items()}
    return {"seed": seed, "changes": changes, **spent, **measure(trained(agent)), **greedy, "curve": curve.rows}


def baselines() -> dict[str, dict[str, Any]]:
    """Measure everything that does not learn."""
    policies: dict[str, Policy] = {"always WAIT": AlwaysWait(), "random": Random(0)}
    for name, schedule in SCHEDULES.items():
        policies[name] = FixedSchedules([schedule] * HOSTS)
    policies |= {"reactive: repair": REPAIR, **RULES}
    return {name: measure(policy) for name, policy in policies.items()}


def repairs(policy: Policy) -> tuple[list[float], list[int | None]]:
    """Play the evaluation's worlds.

    Returns:
        The return of each episode, and how many epochs after its death the second block got a module; negative when it
        had one before, None when it got none.
    """
    env = MorphogenesisEnv(HOSTS)
    observations, info = env.reset(seed=EVALUATION_SEED)
    returns: list[float] = []
    delays: list[int | None] = []
    for _ in range(EPISODES):
        seconds = [world.lesions[1] for world in env.worlds]
        sums = np.zeros(HOSTS)
        planted: list[int | None] = [None] * HOSTS
        for epoch in range(env.epochs):
            actions = policy(env, observations, info)
            for row in np.flatnonzero(actions[:, -1] == Operation.GERMINATE).tolist():
                death, block = seconds[row]
                if actions[row, 0] == block and (planted[row] is None or epoch < death):
                    planted[row] = epoch - death
            observations, rewards, _, _, info = env.step(actions)
            sums += rewards
        returns += sums.tolist()
        delays += planted
    return returns, delays


def beside(paths: list[Path]) -> None:
    """Print how each policy's episodes differ from the tuned rule's, by when it repaired the second block."""
    rule, _ = repairs(TUNED)
    for path in paths:
        returns, delays = repairs(trained(PPOAgent.load(path), deterministic=True))
        more = np.array(returns) - np.array(rule)
        parts = {
            "before its death": [delay is not None and delay < 0 for delay in delays],
            "after it": [delay is not None and delay >= 0 for delay in delays],
            "never": [delay is None for delay in delays],
        }
        print(
            f"{path}: return {np.mean(returns):.3f}, {more.mean():+.3f} ± {more.std() / more.size**0.5:.3f} to the rule"
        )
        for when, which in parts.items():
            if any(which):
                print(f"  second block repaired {when}: {np.mean(which):.0%} of episodes, {more[which].mean():+.2f}")


def margins(fixed: dict[str, dict[str, Any]], seeds: list[dict[str, Any]]) -> None:
    """Print how much more each seed earns than the tuned rules in the same worlds, and the mean over seeds."""
    for name in RULES:
        if not seeds or "returns" not in fixed.get(name, {}):
            continue
        for kind in ("", "greedy_"):
            more = [np.array(line[f"{kind}returns"]) - np.array(fixed[name]["returns"]) for line in seeds]
            each = [float(difference.mean()) for difference in more]
            error = statistics.stdev(each) / len(each) ** 0.5 if len(each) > 1 else float("nan")
            said = ", ".join(f"{mean:+.3f} ± {d.std() / d.size**0.5:.3f}" for mean, d in zip(each, more, strict=True))
            print(f"{kind or 'sampled'} above {name}: {statistics.mean(each):+.3f} ± {error:.3f} over seeds ({said})")


def table(lines: list[dict[str, Any]]) -> None:
    """Print the comparison and the learning curves."""
    fixed: dict[str, dict[str, Any]] = next((line["baselines"] for line in lines if "baselines" in line), {})
    seeds = sorted((line for line in lines if "seed" in line), key=lambda line: line["seed"])
    for name, row in fixed.items():
        print(f"{name:<24} return {row['return']:6.2f} ± {row['return_error']:.2f}  accuracy {row['accuracy']:6.1%}")
    for line in seeds:
        print(
            f"PPO, seed {line['seed']:<14} return {line['return']:6.2f} ± {line['return_error']:.2f}"
            f"  accuracy {line['accuracy']:6.1%}  greedy {line['greedy_return']:6.2f}"
            f" ± {line['greedy_return_error']:.2f}  accuracy {line['greedy_accuracy']:6.1%}"
            f"  {line['cpu_s']:.0f} s of CPU, {line['wall_s']:.0f} s"
        )
    if len(seeds) > 1:
        for kind in ("", "greedy_"):
            returns, accuracies = ([line[kind + of] for line in seeds] for of in ("return", "accuracy"))
            print(
                f"PPO, {len(seeds)} seeds, {kind or 'sampled'}: return {statistics.mean(returns):.2f} ±"
                f" {statistics.stdev(returns):.2f} (worst {min(returns):.2f}),"
                f" accuracy {statistics.mean(accuracies):.1%} ±"
                f" {statistics.stdev(accuracies):.1%} (worst {min(accuracies):.1%})"
            )
    margins(fixed, seeds)
    print("\nlearning curves: mean return of the episodes of five updates")
    ends = range(5, len(seeds[0]["curve"]) + 1, 10) if seeds else ()
    print("env steps " + "".join(f"{seeds[0]['curve'][end - 1]['steps']:>8}" for end in ends) if seeds else "")
    for line in seeds:
        means = [
            statistics.mean(row["return"] for row in line["curve"][end - 5 : end] if row["return"] is not None)
            for end in ends
        ]
        print(f"seed {line['seed']:<5}" + "".join(f"{mean:>8.2f}" for mean in means))


def speed() -> None:
    """Steps a second, where the time goes, memory."""
    computes: tuple[Choice, ...] = ("native", "torch")
    for hosts, compute in itertools.product((8, 32), computes):
        env, policy = MorphogenesisEnv(hosts, compute=compute), Random(0)
        observations, info = env.reset(seed=0)
        walls, cpus = [], []
        profile = cProfile.Profile()
        for step in range(3 * env.epochs):
            actions = policy(env, observations, info)
            wall, cpu = time.perf_counter(), time.process_time()
            if step >= 2 * env.epochs:
                profile.enable()
            observations, _, _, _, info = env.step(actions)
            profile.disable()
            if step < 2 * env.epochs:
                walls.append(time.perf_counter() - wall)
                cpus.append(time.process_time() - cpu)
        print(
            f"{hosts} hosts, {compute}: {hosts / float(np.mean(cpus)):.0f} environment steps per CPU second, "
            f"{hosts / float(np.mean(walls)):.0f} per second, {1000 * float(np.median(walls)):.1f} ms a step"
        )
        stats = pstats.Stats(profile)
        parts = {"train": "network.py:train", "validate": "network.py:validate"}
        whole, found = 0.0, dict.fromkeys(parts, 0.0)
        for (file, _, function), (_, _, _, cumulative, _) in stats.stats.items():  # type: ignore[attr-defined]
            place = f"{Path(file).name}:{function}"
            whole = max(whole, cumulative if place == "env.py:step" else 0.0)
            for part, end in parts.items():
                if place == end:
                    found[part] += cumulative
        print("  " + ", ".join(f"{part} {spent / whole:.0%}" for part, spent in found.items()) + " of a step")
    print(f"memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB at most, torch included")


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learn", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--baselines", action="store_true", help="with --learn: measure only the baselines")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="with --learn: try a value")
    parser.add_argument("--checkpoints", type=Path, metavar="FOLDER", help="with --learn: keep each policy")
    parser.add_argument("--table", type=Path, nargs="+")
    parser.add_argument("--beside", type=Path, nargs="+")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.table is not None:
        table([json.loads(line) for path in options.table for line in path.read_text(encoding="utf-8").splitlines()])
        return
    if options.beside is not None:
        beside(options.beside)
        return
    if not options.learn:
        speed()
        return
    lines: list[dict[str, Any]] = []
    changes = {key: json.loads(value) for key, _, value in (change.partition("=") for change in options.set)}
    work: list[int | None] = [None] if options.baselines else [*options.seeds, None]
    for seed in work:
        lines.append({"baselines": baselines()} if seed is None else learn(seed, changes, options.checkpoints))
        if options.json is not None:
            with options.json.open("a", encoding="utf-8") as file:
                file.write(json.dumps(lines[-1]) + "\n")
    table(lines)


if __name__ == "__main__":
    main()
