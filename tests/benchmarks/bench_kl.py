"""The numbers of docs/explanation/kl.md: one update as four libraries report it, k3 against the exact KL on the very
samples that an update was fitted to, and where the stop rules stop.

Updates and stops are measured on the five-head bandit of the unit tests, whose KL is known in closed form; the sample's
own bias also in CartPole and the default task. Usage: ``python tests/benchmarks/bench_kl.py [PART ...]``.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from esper_core.config.layers import load_config
from esper_core.envs.adapter import make_task
from esper_core.kl.torch import exact_categorical_sums, k3_sums
from esper_core.ppo import PPOAgent, learning
from esper_core.ppo.measure import distribution_of, see_minibatch
from esper_core.ppo.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable

    from esper_core.ppo import Rollout
    from esper_core.ppo.minibatches import Minibatch
    from esper_core.ppo.surrogate import Loss


def load_bandit() -> Any:
    """The yardstick of the unit tests."""
    path = Path(__file__).parents[1] / "unit" / "_bandit.py"
    spec = importlib.util.spec_from_file_location("esper_bench_bandit", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"no {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.Bandit()


BANDIT = load_bandit()


class Watch:
    """Keeps the joint log-ratio of every minibatch, as other libraries see it."""

    def __init__(self) -> None:
        self.joint: list[torch.Tensor] = []

    def __call__(self, loss: Loss, minibatch: Minibatch, grad_norm: torch.Tensor, **more: Any) -> Any:
        """Stand in for ``see_minibatch``."""
        self.joint.append(loss.joint.detach())
        return see_minibatch(loss, minibatch, grad_norm, **more)


def k3(joint: torch.Tensor) -> float:
    """The estimator as it is usually written, for one number a step."""
    return float(((joint.exp() - 1) - joint).mean())


def one_update() -> None:
    """The same update, told in four ways."""
    watch = Watch()
    learning.see_minibatch = watch  # type: ignore[attr-defined]  # a witness where the update looks it up
    epochs, parts = 4, 64
    agent: PPOAgent = BANDIT.agent(
        seed=1, spread=0.5, epochs=epochs, minibatch_size=64, learning_rate=6e-4, target_kl=0, entropy_coef=0.0
    )
    old = BANDIT.log_probs(agent)
    rollout = BANDIT.rollout(agent, 64 * parts)
    agent.update(rollout)
    learning.see_minibatch = see_minibatch  # type: ignore[attr-defined]  # as above
    truth, payload = BANDIT.true_kl(old, BANDIT.log_probs(agent)), agent.last
    if payload is None:
        raise SystemExit("no update")
    now = agent.policy.evaluate(rollout.batch.observations, rollout.batch.actions, None).log_prob.detach()
    joint = torch.where(rollout.batch.active, now - rollout.batch.log_prob, 0.0).sum(-1)
    active = sum(head.decisions for head in payload.heads) / payload.steps
    print(f"one update: {epochs} epochs of {parts} minibatches of 64, {active:.2f} heads active per step")
    rows = [
        ("true KL per head-decision after the update (closed form)", truth.weighted),
        ("Esper kl_divergence", payload.kl_divergence),
        ("Esper kl_mean, over the minibatches", payload.kl_mean),
        ("true KL per step after the update (closed form)", truth.joint),
        ("Esper kl_joint", payload.kl_joint),
        (
            "Stable-Baselines3 train/approx_kl: k3, mean of the last epoch",
            statistics.fmean(map(k3, watch.joint[-parts:])),
        ),
        ("CleanRL approx_kl: k3, last minibatch", k3(watch.joint[-1])),
        ("Spinning Up KL: k1, whole rollout", -float(joint.mean())),
    ]
    for label, value in rows:
        print(f"  {label:66s} {value:8.4f}")
    for head, kl in zip(payload.heads, truth.by_head, strict=True):
        print(
            f"  head {head.name:14s} kl {head.kl:.4f} (true {kl:.4f})  decisions {head.decisions:5d}"
            f"  weight {head.weight:.3f}  share {head.share:.3f}"
        )
    minibatches = torch.split(joint, 64)
    per_head = torch.where(rollout.batch.active, now - rollout.batch.log_prob, 0.0)
    summed = [float((torch.expm1(part) - part).sum(-1).mean()) for part in torch.split(per_head, 64)]
    print(
        "  spread over minibatches of 64 of the joint KL: "
        f"k3 of the joint ratio {statistics.pstdev(map(k3, minibatches)):.4f}, "
        f"sum of the heads' k3 {statistics.pstdev(summed):.4f}, "
        f"k1 {statistics.pstdev(-float(part.mean()) for part in minibatches):.4f}"
    )


class InSample:
    """Compares estimators on the rollout that each update of an agent was fitted to.

    Attributes:
        agent: whose ``update`` is watched.
        sums: of every update: the heads' k3, the exact KL, and k3 of the joint ratio.
    """

    def __init__(self, agent: PPOAgent) -> None:
        self.agent = agent
        self.sums: list[tuple[float, float, float]] = []
        self._update: Callable[..., dict[str, float]] = agent.update
        agent.update = self  # type: ignore[method-assign]  # a witness around it

    def __call__(self, rollout: Rollout, **options: Any) -> dict[str, float]:
        """Stand in for ``agent.update``."""
        batch, policy = rollout.batch, self.agent.policy
        old = distribution_of(policy, batch)
        metrics = self._update(rollout, **options)
        with torch.no_grad():
            now = policy.evaluate(batch.observations, batch.actions, batch.legal)
        ratio = torch.where(batch.active, now.log_prob - batch.log_prob, 0.0).double()
        joint = ratio.sum(-1)[batch.unforced]
        before, after = old.log_probs, now.distribution.log_probs
        if before is None or after is None:
            raise SystemExit("only for heads that choose: others have no log-probability of every choice")
        self.sums.append(
            (
                float(k3_sums(ratio, batch.active).sum()),
                float(exact_categorical_sums(before.double(), after.double(), batch.active).sum()),
                float((torch.expm1(joint) - joint).sum()),
            )
        )
        return metrics


def trained(preset: str, env: str, updates: int, **ppo: object) -> list[InSample]:
    """Updates of a run with a preset."""
    flags = {"env.id": env, "run.updates": updates, **{f"ppo.{name}": value for name, value in ppo.items()}}
    config = load_config(no_file=True, flags=flags | ({"preset": preset} if preset else {})).config
    task = make_task(config.env, seed=0)
    agent = PPOAgent(task.heads, task.obs_shape, config.ppo, seed=0, conditioning_head=task.conditioning_head)
    witness = InSample(agent)
    Trainer(agent, task, config).run()
    task.close()
    return [witness]


def on_the_bandit(updates: int, samples: int, **ppo: object) -> list[InSample]:
    """One update each of agents with other seeds on the bandit."""
    found = []
    for seed in range(updates):
        witness = InSample(BANDIT.agent(seed=seed, spread=0.3, **ppo))
        witness(BANDIT.rollout(witness.agent, samples))
        found.append(witness)
    return found


LARGE = {"epochs": 1, "learning_rate": 1e-2, "target_kl": 0, "max_grad_norm": 1e3}
"""With a quarter of the rollout a minibatch: four large steps."""


def in_sample() -> None:
    """k3 on the samples that the update was fitted to, against the KL itself; and the heads' sum against the joint."""
    print("\non the rollout of each update, after it: ratio of the sums over 40 updates (middle 80 % of updates)")
    print(f"  {'':42s}heads   {'k3 / exact':26s}sum of heads' k3 / k3 of the joint ratio")
    rows = (
        ("CartPole-v1, its preset", trained("", "CartPole-v1", 40)),
        ("CartPole-v1, 4 large steps", trained("", "CartPole-v1", 40, rollout_steps=64, minibatch_size=128, **LARGE)),
        ("bandit, 4 epochs of 16 steps", on_the_bandit(40, 1024, minibatch_size=64, learning_rate=1e-3)),
        ("bandit, 4 large steps", on_the_bandit(40, 1024, minibatch_size=256, **LARGE)),
        ("morphogenesis-full", trained("morphogenesis-full", "morphogenesis", 40)),
    )
    for label, witnesses in rows:
        sums = [found for witness in witnesses for found in witness.sums if min(found) > 0]
        heads = witnesses[0].agent.layout.count
        print(f"  {label:42s}{heads:5d}   {spread(sums, 1):26s}{spread(sums, 2)}", flush=True)


def spread(sums: list[tuple[float, float, float]], other: int) -> str:
    """The heads' k3 over another sum: of all updates together (and of the middle 80 % of them each)."""
    each = statistics.quantiles([found[0] / found[other] for found in sums], n=10)
    together = sum(found[0] for found in sums) / sum(found[other] for found in sums)
    return f"{together:.3f} ({each[0]:.3f} to {each[-1]:.3f})"


RULES = ("pooled", "minibatch", "epoch")
TRAVEL = {4: 0.08, 8: 0.08, 16: 0.1, 32: 0.12, 64: 0.2, 160: 0.35, 320: 0.5}
"""Planned minibatches -> learning rate times their number, so that the limit is crossed about half-way."""


def ratios(*, planned: int, travel: float, rule: str, size: int) -> list[float]:
    """Closed-form KL at the stop, as a share of the limit: one value a seed that stopped."""
    found = []
    for seed in range(10):
        agent = BANDIT.agent(
            seed=seed,
            spread=0.3,
            epochs=4,
            minibatch_size=size,
            learning_rate=travel / planned,
            entropy_coef=0.0,
            max_grad_norm=1e3,
            stop_rule=rule,
        )
        old = BANDIT.log_probs(agent)
        agent.update(BANDIT.rollout(agent, size * planned // 4))
        stop = agent.last.early_stop if agent.last is not None else None
        if stop is not None:
            found.append(BANDIT.true_kl(old, BANDIT.log_probs(agent)).weighted / stop.threshold)
    return found


def cell(found: list[float]) -> str:
    """Mean (least to most) [stops]."""
    if not found:
        return "no stop"
    return f"{statistics.fmean(found):.2f} ({min(found):.2f} to {max(found):.2f}) [{len(found)}]"


def stops() -> None:
    """Where the three rules stop, by minibatches planned and by minibatch size."""
    print("\ntrue KL at the stop / limit: mean (least to most) [stops] of 10 seeds, limit on the weighted KL")
    print("  planned   size      pooled                    minibatch                 epoch")
    for planned, travel in TRAVEL.items():
        cells = [cell(ratios(planned=planned, travel=travel, rule=rule, size=256)) for rule in RULES]
        print(f"  {planned:7d} {256:6d}      " + "".join(f"{text:26s}" for text in cells), flush=True)
    for size in (64, 32):
        cells = [cell(ratios(planned=320, travel=TRAVEL[320], rule=rule, size=size)) for rule in RULES[:2]]
        print(f"  {320:7d} {size:6d}      " + "".join(f"{text:26s}" for text in cells), flush=True)


PARTS = {"one_update": one_update, "in_sample": in_sample, "stops": stops}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default all")
    asked = parser.parse_args().parts or list(PARTS)
    if unknown := set(asked) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    for name in asked:
        PARTS[name]()
