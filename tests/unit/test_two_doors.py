"""One recorded rollout through PPOAgent and through ``monitor``: equal payloads, field by field."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

import esper_core
from esper_core.config.schema import PPOConfig
from esper_core.events import PPOUpdatePayload
from esper_core.ppo import HeadSpec, PPOAgent
from esper_core.ppo.rollout import Batch, Rollout, active_decisions

if TYPE_CHECKING:
    from pathlib import Path

    from esper_core.monitoring import Monitor

pytestmark = pytest.mark.numeric

TIMES = {"rollout_s", "update_s", "steps_per_s"}


def learn_like_anyone(agent: PPOAgent, run: Monitor, rollout: Rollout) -> PPOUpdatePayload | None:
    """The update as a user would write it, with the agent's networks, optimizer and order of samples."""
    config, batch = agent.config, rollout.batch
    unforced = batch.unforced
    of_policy = batch.advantages[unforced].double()
    mean, std = of_policy.mean(), of_policy.std(correction=0)
    normalised = (((batch.advantages.double() - mean) / (std + 1e-8)) * unforced).float()
    causal, choices = batch.active, _choices(agent, batch)
    minibatches = math.ceil(len(batch) / config.minibatch_size)
    run.begin_update(epochs=config.epochs, minibatches=minibatches)
    stopped = False
    for _ in range(config.epochs):
        run.begin_epoch()
        for part in batch.with_advantages(normalised).shuffled(agent.order_generator).split(minibatches):
            now = agent.policy.evaluate(part.observations, part.actions, part.legal)
            log_ratio = now.log_prob - part.log_prob
            ratio = torch.where(part.active, log_ratio, 0.0).sum(-1).exp()
            clipped = ratio.clamp(1 - config.clip_range, 1 + config.clip_range)
            steps = part.unforced.sum().clamp_min(1)
            policy_loss = -torch.minimum(ratio * part.advantages, clipped * part.advantages).sum() / steps
            value_loss = 0.5 * (now.values - part.returns).square().mean()
            entropy = torch.where(part.active, now.entropy, 0.0).sum() / steps
            agent.optimizer.zero_grad()
            (policy_loss + config.value_coef * value_loss - config.entropy_coef * entropy).backward()  # type: ignore[no-untyped-call]  # torch ships it without annotations
            norm = torch.nn.utils.clip_grad_norm_(agent.policy.parameters(), config.max_grad_norm)
            stopped = run.too_far(
                log_ratio, mask=part.active, policy_loss=policy_loss, value_loss=value_loss, grad_norm=norm
            )
            if stopped:
                break
            agent.optimizer.step()
        stopped = stopped or run.end_epoch()
        if stopped:
            break
    with torch.no_grad():
        now = agent.policy.evaluate(batch.observations, batch.actions, batch.legal)
    for index, (value, length) in enumerate(zip(rollout.episodes.returns, rollout.episodes.lengths, strict=True)):
        run.episode(value, length, env_index=index)
    return run.ppo_update(
        old=batch.log_prob,
        new=now.log_prob,
        causal=causal,
        choices=choices,
        entropy=now.entropy,
        advantages=batch.advantages,
        returns=batch.returns,
        values=batch.values,
        env_steps=rollout.env_steps,
        learning_rate=float(agent.optimizer.param_groups[0]["lr"]),
        entropy_coef=agent.config.entropy_coef,
    )


def _choices(agent: PPOAgent, batch: Batch) -> Any:
    legal = agent.policy.layout.valid.expand(len(batch), -1, -1) if batch.legal is None else batch.legal
    dense = torch.tensor([head.dense for head in agent.layout.heads])
    return torch.where(dense, torch.inf, legal.sum(-1).double())


KINDS = {
    "gaussian": (HeadSpec("arm.0", 0, "gaussian", -1, 1), HeadSpec("arm.1", 0, "gaussian", -1, 1)),
    "mixed": (
        HeadSpec("gear", 3),
        HeadSpec("arm", 0, "gaussian"),
        HeadSpec("lamp", 2, "bernoulli"),
        HeadSpec("leg", 0, "gaussian", 1, 1),
    ),
}


@pytest.mark.parametrize("squash", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_both_doors_report_the_same_of_heads_of_every_kind(
    tmp_path: Path, name: str, squash: bool
) -> None:  # a parameter
    """Densities too, whose number of choices is infinite and whose normalised entropy is not defined."""
    heads = KINDS[name]
    if squash:
        heads = tuple(replace(head, low=-1.0, high=1.0) if head.dense and head.decides else head for head in heads)
    config = PPOConfig(hidden=(8,), epochs=2, minibatch_size=50, learning_rate=5e-3, target_kl=0.0, squash=squash)
    ours, theirs = (PPOAgent(heads, (3,), config, seed=5) for _ in range(2))
    with opened(tmp_path, theirs, head_kinds=ours.layout.kinds) as run:
        for _ in range(2):
            ours.update(_rollout_of(ours))
            payload = learn_like_anyone(theirs, run, _rollout_of(theirs))
            assert payload is not None
            assert_equal(payload, ours.last)
    assert ours.last is not None
    assert [head.kind for head in ours.last.heads] == [head.kind for head in heads]


def _rollout_of(agent: PPOAgent) -> Rollout:
    """150 one-step episodes that reward small actions; the first head decides in two thirds of them."""
    observations = torch.randn(150, 3, generator=torch.Generator().manual_seed(6))
    decision = agent.decide(observations, None, None, agent.noise(1, 150)[0])
    causal = torch.ones_like(decision.log_prob, dtype=torch.bool)
    causal[::3, 0] = False
    active, unforced = active_decisions(agent.layout, causal, None)
    reward = -decision.actions.float().abs().sum(-1)
    batch = Batch(
        observations=observations,
        actions=decision.actions,
        log_prob=decision.log_prob,
        legal=None,
        active=active,
        unforced=unforced,
        advantages=reward - decision.values,
        returns=reward,
        values=decision.values,
    )
    return Rollout(batch, env_steps=150)


def opened(tmp_path: Path, agent: PPOAgent, **more: Any) -> Monitor:
    config = agent.config
    return esper_core.monitor(
        "bandit",
        heads=agent.layout.names,
        target_kl=config.target_kl,
        stop_on=config.stop_on,
        stop_rule=config.stop_rule,
        clip_range=config.clip_range,
        kl_on="weighted",
        kl_warning=0.015,
        kl_critical=0.03,
        sinks=["journal"],
        settings={"run": {"dir": str(tmp_path)}},
        **more,
    )


@pytest.mark.parametrize(
    ("stop_rule", "stop_on", "target_kl", "expected"),
    [
        ("pooled", "weighted", 0.0, "completed"),
        ("pooled", "weighted", 0.004, "early_stopped"),
        ("minibatch", "joint", 0.01, "early_stopped"),
        ("epoch", "weighted", 0.001, "early_stopped"),
    ],
)
def test_both_doors_report_the_same(
    tmp_path: Path, bandit: Any, stop_rule: str, stop_on: str, target_kl: float, expected: str
) -> None:
    """Causal masks, legal masks and forced steps in it; the stop in the middle of an epoch and after one."""
    options = {
        "seed": 3,
        "spread": 0.5,
        "epochs": 3,
        "minibatch_size": 100,
        "learning_rate": 5e-3,
        "target_kl": target_kl,
        "stop_on": stop_on,
        "stop_rule": stop_rule,
    }
    ours, theirs = bandit.agent(**options), bandit.agent(**options)
    with opened(tmp_path, theirs) as run:
        for _ in range(2):
            rollout = bandit.rollout(ours, 600)
            again = bandit.rollout(theirs, 600)
            ours.update(rollout)
            payload = learn_like_anyone(theirs, run, again)
            assert payload is not None
            assert_equal(payload, ours.last)
    assert ours.last.outcome == expected
    # The agent adds the same terms up in another order.
    torch.testing.assert_close(
        torch.nn.utils.parameters_to_vector(ours.policy.parameters()),
        torch.nn.utils.parameters_to_vector(theirs.policy.parameters()),
        rtol=1e-4,
        atol=1e-5,
    )


def assert_equal(payload: PPOUpdatePayload, reference: PPOUpdatePayload | None) -> None:
    """Every field; of times only that both know them or neither does."""
    assert reference is not None
    for item in fields(PPOUpdatePayload):
        ours, theirs = getattr(reference, item.name), getattr(payload, item.name)
        if item.name in TIMES:
            continue
        if item.name == "heads":
            assert len(ours) == len(theirs)
            for one, other in zip(ours, theirs, strict=True):
                for part in fields(one):
                    assert_close(f"{one.name}.{part.name}", getattr(other, part.name), getattr(one, part.name))
        elif item.name == "early_stop" and ours is not None:
            for part in fields(ours):
                assert_close(f"early_stop.{part.name}", getattr(theirs, part.name), getattr(ours, part.name))
        elif item.name == "reason":
            assert theirs.split(" > ")[0].split()[:2] == ours.split(" > ")[0].split()[:2]
        else:
            assert_close(item.name, theirs, ours)


def assert_close(name: str, value: Any, reference: Any) -> None:
    if isinstance(reference, float):
        # The last digits of float32 sums differ by the order of the summands.
        assert value == pytest.approx(reference, rel=1e-5, abs=1e-7), name
    elif isinstance(reference, tuple) and reference and isinstance(reference[0], float):
        assert value == pytest.approx(reference, rel=1e-5, abs=1e-7), name
    else:
        assert value == reference, name
