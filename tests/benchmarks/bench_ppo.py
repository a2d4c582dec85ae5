"""What the agent costs: the update, the KL within it, and environment steps per second on CartPole.

CPU time, one torch thread, best of several rounds; comparisons are ratios within one run of this script. Usage:
``python tests/benchmarks/bench_ppo.py [--sb3]``.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from esper_core.config.layers import load_config
from esper_core.config.schema import EnvConfig, EsperConfig, PPOConfig, RunConfig
from esper_core.envs.adapter import make_task
from esper_core.kl.torch import exact_categorical_sums, k3_sums
from esper_core.ppo import Batch, HeadSpec, PPOAgent, Rollout, Trainer

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

HEADS = tuple(
    HeadSpec(name, size)
    for name, size in (("slot", 3), ("blueprint", 5), ("tempo", 3), ("tempo_offset", 3), ("operations", 4))
)


def best(work: Callable[[], Any], *, number: int, rounds: int = 7) -> float:
    """Least CPU seconds of one call, over rounds of ``number`` calls."""
    work()
    seconds = []
    for _ in range(rounds):
        begun = time.process_time()
        for _ in range(number):
            work()
        seconds.append((time.process_time() - begun) / number)
    return min(seconds)


def naive_kl(log_ratio: Tensor, active: Tensor) -> tuple[list[float], float]:
    """The usual way: a Python loop over heads, exp(x) - 1 - x, and a transfer for every number."""
    total = active.any(1).sum().item()
    by_head, weights = [], []
    for head in range(log_ratio.shape[1]):
        mask = active[:, head].float()
        count = mask.sum().item()
        value = (((log_ratio[:, head].exp() - 1) - log_ratio[:, head]) * mask).sum().item() / max(count, 1.0)
        by_head.append(value)
        weights.append(count / total)
    weighted = sum(w * kl for w, kl in zip(weights, by_head, strict=True)) / max(sum(weights), 1e-8)
    return by_head, weighted


def _listed(sums: Callable[..., Tensor], *given: Tensor) -> list[float]:
    """The sums as Python numbers, as a report reads them."""
    found: list[float] = sums(*given).tolist()
    return found


def bench_kl() -> None:
    """KL statistics of one minibatch: the table."""
    print("KL of one minibatch, five heads        vectorised      naive loop      exact KL, for comparison")
    generator = torch.Generator().manual_seed(0)
    for size in (64, 256, 2048):
        log_ratio = 0.1 * torch.randn(size, 5, generator=generator)
        active = torch.rand(size, 5, generator=generator) < torch.tensor([0.6, 0.3, 0.3, 0.3, 1.0])
        old, new = (torch.log_softmax(torch.randn(size, 5, 5, generator=generator), -1) for _ in range(2))
        ours = best(partial(_listed, k3_sums, log_ratio, active), number=500)
        loop = best(partial(naive_kl, log_ratio, active), number=200)
        exact = best(partial(_listed, exact_categorical_sums, old, new, active), number=200)
        print(
            f"  {size:5d} samples                      {ours * 1e6:7.1f} us     {loop * 1e6:7.1f} us"
            f"  ({loop / ours:4.1f}x)  {exact * 1e6:7.1f} us"
        )


def update_of(heads: tuple[HeadSpec, ...], samples: int, minibatch: int, epochs: int) -> tuple[float, int]:
    """CPU seconds of one whole update, and its minibatches."""
    config = PPOConfig(epochs=epochs, minibatch_size=minibatch, target_kl=0.0, learning_rate=1e-4)
    agent = PPOAgent(heads, (4,), config)
    observations = torch.randn(samples, 4, generator=torch.Generator().manual_seed(0))
    decision = agent.decide(observations, None, None, agent.noise(1, samples)[0])
    active = torch.ones(samples, len(heads), dtype=torch.bool)
    reward = torch.randn(samples, generator=torch.Generator().manual_seed(1))
    batch = Batch(
        observations, decision.actions, decision.log_prob, None, active, active[:, 0], reward, reward, decision.values
    )
    rollout = Rollout(batch)
    return best(lambda: agent.update(rollout), number=1, rounds=5), epochs * samples // minibatch


def bench_update() -> None:
    """Whole updates, observations of 4, two 64x64 trunks."""
    print("\none update, rollout of 2048                      ms     us/minibatch   share of the KL statistics")
    for label, heads, minibatch, epochs in (
        ("one head, minibatch 64, 10 epochs", (HeadSpec("action", 2),), 64, 10),
        ("five heads, minibatch 64, 10 epochs", HEADS, 64, 10),
        ("five heads, minibatch 256, 4 epochs", HEADS, 256, 4),
    ):
        seconds, minibatches = update_of(heads, 2048, minibatch, epochs)
        log_ratio = 0.1 * torch.randn(minibatch, len(heads))
        active = torch.ones(minibatch, len(heads), dtype=torch.bool)
        kl = best(partial(k3_sums, log_ratio, active), number=500)
        print(
            f"  {label:40s} {seconds * 1e3:8.1f} {seconds / minibatches * 1e6:12.0f} {kl * minibatches / seconds:14.1%}"
        )


def train(config: EsperConfig) -> tuple[float, float, float]:
    """Steps per CPU second of a whole run, and of its rollouts and updates per wall second."""
    task = make_task(config.env, seed=0)
    agent = PPOAgent(task.heads, task.obs_shape, config.ppo, seed=0)
    shares = [0.0, 0.0]

    def note(**_: int) -> None:
        last = agent.last
        if last is not None and last.update_id != note.seen:  # type: ignore[attr-defined]
            note.seen = last.update_id  # type: ignore[attr-defined]
            shares[0] += last.rollout_s or 0.0
            shares[1] += last.update_s or 0.0

    note.seen = 0  # type: ignore[attr-defined]
    begun = time.process_time()
    result = Trainer(agent, task, config, on_progress=note).run()
    seconds = time.process_time() - begun
    task.close()
    return result.env_steps / seconds, shares[0] / sum(shares), shares[1] / sum(shares)


def bench_cartpole() -> None:
    """Training on CartPole-v1, no sinks."""
    print("\nCartPole-v1, training                     env steps per CPU second    rollout     update")
    preset = load_config(no_file=True, flags={"env.id": "CartPole-v1", "run.steps": 6000}).config
    env = EnvConfig(id="CartPole-v1", n_envs=8)
    cases = {
        "the shipped preset": preset,
        "8 envs x 256, 320 minibatches of 64 (SB3's)": EsperConfig(
            env=env, ppo=PPOConfig(rollout_steps=256, epochs=10, minibatch_size=64), run=RunConfig(steps=8192)
        ),
        "8 envs x 128, 16 minibatches of 256": EsperConfig(
            env=env, ppo=PPOConfig(rollout_steps=128, epochs=4, minibatch_size=256), run=RunConfig(steps=32768)
        ),
    }
    for label, config in cases.items():
        rate, rollout, update = max(train(config) for _ in range(3))
        print(f"  {label:46s} {rate:14,.0f} {rollout:14.0%} {update:10.0%}")


def bench_sb3() -> None:
    """The same work in Stable-Baselines3, for the ratio."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env

    env = make_vec_env("CartPole-v1", n_envs=8, seed=0)
    cases: tuple[tuple[str, dict[str, Any]], ...] = (
        ("8 envs x 256, 320 minibatches of 64", {"n_steps": 256, "batch_size": 64, "n_epochs": 10}),
        ("8 envs x 128, 16 minibatches of 256", {"n_steps": 128, "batch_size": 256, "n_epochs": 4}),
    )
    for label, options in cases:
        model = PPO("MlpPolicy", env, device="cpu", seed=0, verbose=0, **options)
        steps = 8192 if options["n_epochs"] == 10 else 32768
        begun = time.process_time()
        model.learn(steps)
        print(f"  SB3: {label:41s} {steps / (time.process_time() - begun):14,.0f}")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sb3", action="store_true", help="measure Stable-Baselines3 too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    bench_kl()
    bench_update()
    bench_cartpole()
    if args.sb3:
        bench_sb3()


if __name__ == "__main__":
    main()
