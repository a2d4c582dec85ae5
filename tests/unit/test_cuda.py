"""On a GPU: the numbers are the CPU's, a captured step is the eager one, and nothing waits that need not.

Skipped where torch finds no CUDA device, and so in CI.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gpu_waits import waits
from present import creator
from samples import random_rollout
from update_cases import CASES, FIVE, MIXED, NOTICES, Case, agent_of, assert_same, rollout_of, told, vector

import esper_core
from esper_core.ppo import PPOAgent

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.numeric,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device on this machine"),
]


@pytest.fixture(autouse=True)
def _heard() -> Iterator[None]:
    NOTICES.clear()
    yield
    assert not NOTICES, "an update that was to be captured was not"


def waits_of_update(agent: PPOAgent, case: Case) -> int:
    """How often an update waits for the GPU."""
    rollout = rollout_of(agent_of(case), case)
    there = replace(rollout, batch=rollout.batch.to(agent.device))
    return waits(lambda: agent.update(there))


@pytest.mark.parametrize("name", CASES)
def test_an_update_on_the_gpu_is_the_one_on_the_cpu(name: str) -> None:
    case = CASES[name]
    here, there = agent_of(case), agent_of(case, device="cuda")
    assert torch.equal(vector(here), vector(there))
    for update in range(2):
        rollout = rollout_of(here, case, update)
        for agent in (here, there):
            agent.update(rollout)
            agent.anneal(0.3)
        assert_same(there, here)
    assert told(there).device.startswith("cuda")
    assert (told(here).early_stop is not None) == case.stops


@pytest.mark.parametrize("name", CASES)
def test_a_captured_step_is_the_eager_one(name: str) -> None:
    """250 samples in minibatches of 48: two sizes, so two graphs. A step that the KL forbids is not taken."""
    case = CASES[name]
    eager, captured = agent_of(case, device="cuda"), agent_of(case, device="cuda", compile=True)
    start = vector(eager)
    for update in range(3):
        rollout = rollout_of(agent_of(case), case, update)
        for agent in (eager, captured):
            agent.update(rollout)
            agent.anneal(0.3)
        assert_same(captured, eager)
    assert (vector(eager) - start).abs().max() > 0.005
    assert (told(captured).early_stop is not None) == case.stops


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "captured"])
def test_an_update_waits_once_a_minibatch_and_once_an_epoch(compiled: bool) -> None:
    """For the stop check and for the denominators; everything else is a number of waits that does not grow."""
    found = {}
    for epochs, size in ((2, 50), (4, 50), (2, 25)):
        case = Case(MIXED, causal=True, ppo={"epochs": epochs, "minibatch_size": size})
        agent = agent_of(case, device="cuda", compile=compiled)
        waits_of_update(agent, case)  # captures
        found[epochs, size] = waits_of_update(agent, case)
    per_minibatch = (found[2, 25] - found[2, 50]) / 10
    per_epoch = (found[4, 50] - found[2, 50]) / 2 - 5 * per_minibatch
    assert per_minibatch == 1
    assert per_epoch <= 2, "the denominators, and the order of the samples"
    assert found[2, 50] - 10 - 2 * per_epoch <= 30


def test_a_copy_of_an_agent_learns_by_itself() -> None:
    case = Case(FIVE, causal=True)
    agent = agent_of(case, device="cuda", compile=True)
    agent.update(rollout_of(agent_of(case), case))
    twin, before = copy.deepcopy(agent), vector(agent)
    twin.update(rollout_of(agent_of(case), case, 2))
    assert torch.equal(vector(agent), before)
    agent.update(rollout_of(agent_of(case), case, 2))
    torch.testing.assert_close(vector(agent), vector(twin), rtol=0, atol=2e-5)


@pytest.mark.parametrize("case", [Case(FIVE, legal=True), Case(MIXED)], ids=["masked", "mixed"])
def test_what_the_gpu_decides_is_what_the_cpu_decides(case: Case) -> None:
    here, there = agent_of(case), agent_of(case, device="cuda")
    mine, theirs = (random_rollout(agent, 200, legal=case.legal).batch for agent in (here, there))
    torch.testing.assert_close(mine.actions, theirs.actions, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mine.log_prob, theirs.log_prob, rtol=1e-4, atol=1e-5)


class Screen(gym.Env[Any, Any]):
    """A picture of noise; the brightness is the reward."""

    observation_space = gym.spaces.Box(0, 255, (40, 40, 3), np.uint8)
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._step = 0
        return self._picture(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._step += 1
        picture = self._picture()
        return picture, float(picture.mean() / 255), self._step == 5, False, {}

    def _picture(self) -> Any:
        return self.np_random.integers(0, 256, (40, 40, 3), dtype=np.uint8)


@pytest.fixture
def screen() -> Iterator[str]:
    gym.register("Screen-v0", creator(Screen), max_episode_steps=10)
    yield "Screen-v0"
    del gym.registry["Screen-v0"]


@pytest.mark.parametrize(
    ("env", "ppo"),
    [
        ("CartPole-v1", {"compile": True}),
        ("CartPole-v1", {"normalise_observations": True, "normalise_rewards": True, "kl_estimator": "exact"}),
        ("Pendulum-v1", {"squash": True, "compile": True}),
        ("Screen-v0", {"compile": True, "rollout_steps": 40}),
    ],
    ids=["captured", "normalised, exact", "Gaussian", "pictures"],
)
@pytest.mark.usefixtures("screen")
def test_a_whole_run_on_the_gpu(env: str, ppo: dict[str, Any], tmp_path: Path) -> None:
    """Trained, evaluated and kept without a notice; loaded on either device, resumed on the CPU."""
    settings: Any = {"device": "cuda", "minibatch_size": 64, **ppo}  # a PPOTable
    run = esper_core.train(
        env={"id": env, "n_envs": 2},
        updates=3,
        sinks=["journal"],
        ppo=settings,
        run={"dir": str(tmp_path), "eval_every": 2, "eval_episodes": 2},
    )
    assert [update.payload.outcome for update in run.updates()] == ["completed"] * 3
    there, here = (PPOAgent.load(run.path, device=device) for device in ("cuda", "cpu"))
    observation = gym.make(env).observation_space.sample()
    mine, theirs = (agent.act(observation, deterministic=True) for agent in (here, there))
    np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)
    resumed = esper_core.train(resume=run.path, updates=4, ppo={"device": "cpu", "compile": False}, sinks=["journal"])
    assert [update.payload.outcome for update in resumed.updates()] == ["completed"] * 4


def test_environments_in_processes_of_their_own_beside_the_gpu(tmp_path: Path) -> None:
    """They are made before or after the GPU is first used; none of them touches it."""
    run = esper_core.train(
        env={"id": "CartPole-v1", "n_envs": 2, "vector": "async"},
        updates=2,
        sinks=["journal"],
        ppo={"device": "cuda"},
        run={"dir": str(tmp_path)},
    )
    assert [update.payload.outcome for update in run.updates()] == ["completed"] * 2


def test_the_monitor_takes_tensors_of_the_gpu(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    old, new = -torch.rand(2, 256, generator=draw)
    found = []
    for device in ("cpu", "cuda"):
        with esper_core.monitor(sinks=[], settings={"run": {"dir": str(tmp_path)}}) as monitor:
            payload = monitor.ppo_update(old=old.to(device), new=new.to(device))
        assert payload is not None
        found.append(payload.kl_divergence)
    assert found[0] == pytest.approx(found[1], rel=1e-6)
