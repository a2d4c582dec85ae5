"""Schedules of learning rate, clip range and entropy coefficient: what is in force, told, and gone on from."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from esper_core.config.layers import load_config
from esper_core.config.schema import EnvConfig, EsperConfig, PPOConfig, RunConfig
from esper_core.emitter import TelemetryEmitter
from esper_core.envs.adapter import make_task
from esper_core.errors import ConfigError
from esper_core.hooks import SinkHooks
from esper_core.ppo import Checkpointer, PPOAgent, Trainer, load_checkpoint
from esper_core.ppo.checkpoint import checkpoint_content
from esper_core.ppo.checkpoint_file import write_checkpoint
from esper_core.ppo.checkpoint_fit import restore
from esper_core.ppo.schedules import SCHEDULES, adapted_rate, refuse_impossible, share_left
from esper_core.testing import one_of_each
from esper_core.training import train

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.numeric


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Rates(SinkHooks):
    """Learning rate, clip range and entropy coefficient of every update that it is told of."""

    def __init__(self) -> None:
        self.found: list[tuple[float, float, float]] = []

    def esper_ppo_updated(self, event: Any) -> None:
        update = event.payload
        self.found.append((update.learning_rate, update.clip_range, update.entropy_coef))


def told(toys: Any, run: dict[str, Any], **ppo: Any) -> list[tuple[float, float, float]]:
    """What :class:`Rates` keeps of a run: episodes of 4 steps, 4 steps an update."""
    usual: dict[str, Any] = {"rollout_steps": 4, "hidden": (4,)}
    config = EsperConfig(ppo=PPOConfig(**(usual | ppo)), run=RunConfig(**run))
    task = toys.task(toys.Counter(4))
    seen = Rates()
    agent = PPOAgent(task.heads, task.obs_shape, config.ppo)
    Trainer(agent, task, config, emitter=TelemetryEmitter(seen)).run()
    return seen.found


@pytest.mark.parametrize("limit", [{"updates": 4}, {"steps": 16}, {"episodes": 4}, {"updates": 4, "steps": 1000}])
def test_the_values_follow_the_nearest_limit(toys: Any, limit: dict[str, Any]) -> None:
    schedules = {
        "learning_rate_schedule": "cosine",
        "clip_range_schedule": "linear",
        "entropy_coef_schedule": "linear",
    }
    found = told(toys, limit, learning_rate=1e-3, clip_range=0.4, entropy_coef=0.04, **schedules)
    half = math.sqrt(0.5)
    rates, clips, coefficients = zip(*found, strict=True)
    assert rates == pytest.approx([1e-3, 0.5e-3 * (1 + half), 0.5e-3, 0.5e-3 * (1 - half)])
    assert clips == pytest.approx([0.4, 0.3, 0.2, 0.1])
    assert coefficients == pytest.approx([0.04, 0.03, 0.02, 0.01])


def test_constant_is_the_default(toys: Any) -> None:
    assert told(toys, {"updates": 3}) == [(3e-4, 0.2, 0.01)] * 3


def test_the_share_stays_within_its_ends() -> None:
    for schedule in ("linear", "cosine"):
        assert (share_left(schedule, -1.0), share_left(schedule, 0.0)) == (1.0, 1.0)
        assert (share_left(schedule, 1.0), share_left(schedule, 7.0)) == (0.0, 0.0)
    assert share_left("constant", 0.7) == 1.0


def test_the_clip_range_in_force_is_the_one_that_clips(bandit: Any) -> None:
    """Of two agents with equal weights the one whose schedule has left it the other's clip range learns the same."""
    weights = []
    for ppo, done in ((({"clip_range": 0.05}), 0.0), (({"clip_range": 0.2, "clip_range_schedule": "linear"}), 0.75)):
        agent = bandit.agent(spread=0.5, epochs=4, minibatch_size=64, learning_rate=3e-2, target_kl=0, **ppo)
        agent.anneal(done)
        assert agent.clip_range == pytest.approx(0.05)
        agent.update(bandit.rollout(agent, 256))
        weights.append(torch.nn.utils.parameters_to_vector(agent.policy.parameters()))
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=1e-6)


def test_the_entropy_coefficient_in_force_is_the_one_that_weighs(bandit: Any) -> None:
    """As with the clip range; and an agent that keeps its coefficient learns something else."""
    weights = []
    for coefficient, schedule in ((0.1, "constant"), (0.4, "linear"), (0.4, "constant")):
        agent = bandit.agent(
            spread=0.5,
            epochs=2,
            minibatch_size=64,
            learning_rate=3e-2,
            target_kl=0,
            entropy_coef=coefficient,
            entropy_coef_schedule=schedule,
        )
        agent.anneal(0.75)
        agent.update(bandit.rollout(agent, 256))
        weights.append(torch.nn.utils.parameters_to_vector(agent.policy.parameters()))
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=1e-6)
    assert (weights[0] - weights[2]).abs().max() > 1e-2


# --- by the KL ----------------------------------------------------------------------------------


def update_with(kl: float | None, joint: float | None = None) -> Any:
    (payload,) = [event.payload for event in one_of_each() if event.kind == "ppo_updated"]
    return replace(payload, kl_divergence=kl, kl_joint=joint, non_finite=0)


@pytest.mark.parametrize(
    ("rate", "kl", "expected"),
    [
        (3e-3, 0.0201, 2e-3),
        (3e-3, 0.02, 3e-3),  # the bounds are strict, as theirs
        (3e-3, 0.005, 3e-3),
        (2e-3, 0.0049, 3e-3),
        (2e-3, 0.0, 2e-3),
        (2e-3, None, 2e-3),
        (1.2e-5, 1.0, 1e-5),
        (9e-3, 0.001, 1e-2),
        (1e-6, 1.0, 1e-6),  # configured beyond a bound: not raised by a KL that is too high
        (1e-6, 0.001, 1.5e-6),
        (5e-2, 0.001, 5e-2),
        (6e-2, 1.0, 4e-2),
    ],
)
def test_the_rate_follows_the_kl_as_in_rsl_rl(rate: float, kl: float | None, expected: float) -> None:
    config = PPOConfig(learning_rate_schedule="kl_adaptive", desired_kl=0.01)
    assert adapted_rate(rate, update_with(kl, 0.01), config) == pytest.approx(expected)


def test_the_kl_is_the_one_that_target_kl_means() -> None:
    update = update_with(0.001, 1.0)
    on_joint = PPOConfig(learning_rate_schedule="kl_adaptive", target_kl=0.01, stop_on="joint")
    on_weighted = PPOConfig(learning_rate_schedule="kl_adaptive", target_kl=0.01)
    assert adapted_rate(3e-3, update, on_joint) == pytest.approx(2e-3)
    assert adapted_rate(3e-3, update, on_weighted) == pytest.approx(4.5e-3)


def test_an_update_tells_its_own_rate_and_sets_the_next(bandit: Any, tmp_path: Path) -> None:
    """And a checkpoint keeps the rate: an agent that goes on has it, one with a constant rate has its own."""
    ppo = {"epochs": 4, "minibatch_size": 64, "learning_rate": 3e-3, "target_kl": 0, "desired_kl": 1e-6}
    agent = bandit.agent(spread=0.5, learning_rate_schedule="kl_adaptive", **ppo)
    for power in range(3):
        agent.anneal(0.5)
        agent.update(bandit.rollout(agent, 256))
        assert agent.last is not None
        assert agent.last.kl_divergence is not None
        assert agent.last.kl_divergence > 2e-6
        assert agent.last.learning_rate == pytest.approx(3e-3 / 1.5**power)
    write_checkpoint(tmp_path / "kept.pt", checkpoint_content(agent))
    assert PPOAgent.load(tmp_path / "kept.pt").learning_rate == agent.learning_rate == pytest.approx(3e-3 / 1.5**3)
    constant = bandit.agent(**ppo)
    restore(constant, load_checkpoint(tmp_path / "kept.pt"))
    assert constant.learning_rate == 3e-3


def test_a_resumed_run_adapts_and_anneals_on_bit_for_bit(tmp_path: Path) -> None:
    """Three updates, then two more: as five in one go, with a rate that moves and a clip range that shrinks."""
    ppo = PPOConfig(
        rollout_steps=16,
        epochs=2,
        minibatch_size=16,
        hidden=(8,),
        learning_rate_schedule="kl_adaptive",
        clip_range_schedule="cosine",
        entropy_coef_schedule="linear",
        target_kl=1e-5,
    )
    env = EnvConfig(id="CartPole-v1", n_envs=2, seed_episodes=True)
    config = EsperConfig(env=env, ppo=ppo, run=RunConfig(updates=5, seed=3))

    def attempt(path: Path, stop_at: int = 99) -> list[tuple[float, float, float]]:
        task = make_task(env, seed=3)
        agent = PPOAgent(task.heads, task.obs_shape, ppo, seed=3)
        seen = Rates()
        Trainer(
            agent,
            task,
            config,
            emitter=TelemetryEmitter(seen),
            should_stop=lambda: agent.updates >= stop_at,
            checkpointer=Checkpointer(path, interval_s=0.0),
            resume=load_checkpoint(path) if path.exists() else None,
        ).run()
        task.close()
        return seen.found

    whole = attempt(tmp_path / "whole.pt")
    parts = [*attempt(tmp_path / "cut.pt", stop_at=3)[:2], *attempt(tmp_path / "cut.pt")]
    assert len(whole) == 5
    assert whole == parts
    assert all(len(set(values)) > 1 for values in zip(*whole, strict=True))
    first, second = (load_checkpoint(tmp_path / name).state["policy"] for name in ("whole.pt", "cut.pt"))
    assert all(torch.equal(first[name], second[name]) for name in first)


# --- what cannot be followed --------------------------------------------------------------------


@pytest.mark.parametrize("key", SCHEDULES)
def test_a_planned_schedule_needs_a_limit(key: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f'^ppo.{key} = "cosine" needs a planned end, and this run has no limit'):
        train(
            env="CartPole-v1",
            steps=0,
            ppo={key: "cosine"},  # type: ignore[misc]  # a key of the table
            sinks=[],
            run={"dir": str(tmp_path)},
            no_config=True,
            preset="none",
        )
    assert list(tmp_path.iterdir()) == []


def test_adapting_needs_a_kl_to_steer_to(bandit: Any) -> None:
    with pytest.raises(ConfigError, match=r"needs a KL to steer to, and ppo.target_kl is 0") as caught:
        bandit.agent(learning_rate_schedule="kl_adaptive", target_kl=0)
    assert caught.value.hint is not None
    assert "ppo.desired_kl" in caught.value.hint


# --- runs of earlier versions -------------------------------------------------------------------


def test_a_run_that_annealed_under_the_older_key_goes_on_linearly() -> None:
    old = {"ppo": {"anneal_learning_rate": True}, "run": {"updates": 3}}
    config = load_config(no_file=True, base=old, base_label="config.toml").config
    assert config.ppo.learning_rate_schedule == "linear"
    with pytest.raises(ConfigError, match='did you mean "learning_rate_schedule"'):
        load_config(no_file=True, sets=["ppo.anneal_learning_rate=true"])


def test_who_set_a_schedule_decides_whether_a_run_without_a_limit_is_refused(tmp_path: Path) -> None:
    """A preset's, and that of a run that is resumed, leaves its value constant there; one that is asked for is not."""
    unlimited = {"env.id": "CartPole-v1", "run.steps": 0}
    of_preset = load_config(no_file=True, flags=unlimited, cwd=tmp_path)
    assert of_preset.config.ppo.learning_rate_schedule == "linear"
    assert "ppo.learning_rate_schedule" not in of_preset.asked
    base = {"ppo": {"learning_rate_schedule": "linear"}}
    resumed = load_config(no_file=True, flags=unlimited, base=base, base_label="run x", cwd=tmp_path)
    assert "ppo.learning_rate_schedule" not in resumed.asked
    sets = ['ppo.learning_rate_schedule="linear"']
    asked = load_config(no_file=True, flags=unlimited, sets=sets, base=base, base_label="run x", cwd=tmp_path)
    assert "ppo.learning_rate_schedule" in asked.asked
    for resolved, refused in ((of_preset, False), (resumed, False), (asked, True)):
        keys = [key for key in SCHEDULES if f"ppo.{key}" in resolved.asked]
        with pytest.raises(ConfigError) if refused else nullcontext():
            refuse_impossible(resolved.config.ppo, resolved.config.run, asked=keys)
