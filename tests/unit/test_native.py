"""``env.vector = "native"``: environments that are made as one and begin an episode in the step after one's last."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from present import present

import esper_core
from esper_core.config.schema import EnvConfig, PPOConfig
from esper_core.envs.adapter import GymTask, make_task
from esper_core.errors import EnvironmentUnsupportedError
from esper_core.ppo import PPOAgent, load_checkpoint
from esper_core.ppo.collector import Collector
from esper_core.ppo.episodes import EpisodeTracker
from esper_core.ppo.evaluation import evaluate

if TYPE_CHECKING:
    from pathlib import Path

    from esper_core.config.keywords import EnvTable
    from esper_core.ppo.task import StepResult

pytestmark = pytest.mark.numeric

GAMMA, LAMBDA = 0.9, 0.7


class Logged(gym.Env[Any, Any]):
    """Shows its index, episode and step; keeps every transition. At the end of an episode nothing is legal."""

    def __init__(self, index: int, length: int, *, truncates: bool) -> None:
        self.observation_space = gym.spaces.Box(-100, 100, (3,))
        self.action_space = gym.spaces.Discrete(3)
        self.index, self.length, self.truncates = index, length, truncates
        self.at, self.episode = 0, 0
        self.random = np.random.default_rng(index)
        self.log: list[tuple[np.ndarray, float, bool, bool, np.ndarray]] = []

    def _shown(self) -> np.ndarray:
        return np.array([self.index, self.episode, self.at], dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.at, self.episode = 0, self.episode + 1
        return self._shown(), {"action_mask": np.array([True, True, False])}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert action != 2, "not legal"
        before, reward = self._shown(), float(self.random.normal())
        self.at += 1
        ended = self.at == self.length
        self.log.append((before, reward, ended and not self.truncates, ended and self.truncates, self._shown()))
        return self._shown(), reward, *self.log[-1][2:4], {"action_mask": np.array([not ended, not ended, False])}


def native(*envs: gym.Env[Any, Any]) -> GymTask:
    vector = SyncVectorEnv([lambda env=env: env for env in envs], autoreset_mode=AutoresetMode.NEXT_STEP)  # type: ignore[misc]
    return GymTask(vector, name="native", next_step=True)


def agent_of(task: Any, **ppo: Any) -> PPOAgent:
    config = PPOConfig(hidden=(8,), gamma=GAMMA, gae_lambda=LAMBDA, **ppo)
    return PPOAgent(task.heads, task.obs_shape, config, form=task.observation_form)


def advantage(rows: list[Any], at: int, value: Any) -> float:
    """By the definition: the discounted sum of what later steps of the same episode, within the rollout, turned out."""
    total, weight = 0.0, 1.0
    for before, reward, terminated, truncated, after in rows[at:]:
        total += weight * (reward + (0.0 if terminated else GAMMA * value(after)) - value(before))
        if terminated or truncated:
            break
        weight *= GAMMA * LAMBDA
    return total


@pytest.mark.parametrize("steps", [1, 7])
def test_steps_that_only_reset_are_in_no_batch_and_advantages_are_those_of_the_episodes(steps: int) -> None:
    envs = [Logged(0, 3, truncates=True), Logged(1, 2, truncates=False), Logged(2, 1, truncates=True)]
    task = native(*envs)
    agent = agent_of(task, rollout_steps=steps, normalise_observations=steps > 1)
    collector = Collector(agent, task)
    tracker, begun = EpisodeTracker(3), [0, 0, 0]

    def value(shown: np.ndarray) -> float:
        return float(agent.values_of(agent.seen(torch.from_numpy(shown)[None]))[0])

    def played_step(step: StepResult) -> None:
        tracker.step(step.reward, step.terminated, step.truncated, env_steps=0, resets=step.resets)

    for _ in range(4):
        collected = collector.collect(
            played_step,
            lambda: False,
        )
        batch, played = collected.batch, [env.log[start:] for env, start in zip(envs, begun, strict=True)]
        begun = [len(env.log) for env in envs]
        assert batch is not None
        assert len(batch) == collected.steps == sum(map(len, played)) <= 3 * steps
        assert batch.legal is not None
        assert not batch.legal[:, 0, 2].any()
        assert batch.unforced.all()
        if agent.normaliser is not None and collected.raw is None:
            continue  # the first rollout, in which the statistics moved with every step
        shown = batch.observations if collected.raw is None else collected.raw
        for index, rows in enumerate(played):
            found = batch.advantages[shown[:, 0] == index]
            expected = [advantage(rows, at, value) for at in range(len(rows))]
            assert found.tolist() == pytest.approx(expected, abs=1e-5)
    summary = tracker.drain()
    episodes: dict[tuple[float, float], list[Any]] = {}
    for before, *step in itertools.chain(*(env.log for env in envs)):
        episodes.setdefault((before[0], before[1]), []).append(step)
    ended = [steps for steps in episodes.values() if steps[-1][1] or steps[-1][2]]
    assert sorted(summary.lengths) == sorted(map(len, ended))
    assert sorted(summary.returns) == pytest.approx(sorted(sum(step[0] for step in steps) for steps in ended))


def test_statistics_of_rewards_take_in_what_was_played() -> None:
    task = native(Logged(0, 1, truncates=False), Logged(1, 2, truncates=True))
    agent = agent_of(task, rollout_steps=6, normalise_rewards=True)
    collected = Collector(agent, task).collect(lambda _: None, lambda: False)
    assert agent.reward_normaliser is not None
    assert agent.reward_normaliser.moments.count == collected.steps == 3 + 4


def test_a_rollout_in_which_nothing_was_played_skips_its_update() -> None:
    task = native(Logged(0, 1, truncates=False))
    agent = agent_of(task, rollout_steps=1)
    collector = Collector(agent, task)
    lengths = [len(collector.collect(lambda _: None, lambda: False).batch or ()) for _ in range(3)]
    assert lengths == [1, 0, 1]


def test_evaluation_counts_no_step_that_only_resets() -> None:
    task = make_task(EnvConfig(id="CartPole-v1", n_envs=3, vector="native"), seed=0)
    played = evaluate(agent_of(task), task, episodes=7, seed=3)
    assert played.returns == tuple(map(float, played.lengths)), "CartPole gives 1 for each step of an episode"


def test_a_run_of_a_native_environment_is_trained_kept_resumed_and_played(tmp_path: Path) -> None:
    env: EnvTable = {"id": "CartPole-v1", "vector": "native"}
    options: dict[str, Any] = {
        "run": {"dir": tmp_path, "eval_every": 1, "eval_episodes": 2},
        "ppo": {"rollout_steps": 32, "epochs": 1},
    }
    run = esper_core.train(env=env, updates=2, sinks=[], no_config=True, **options)
    steps = present(run.summary)["env_steps"]
    assert 0 < steps < 2 * 32 * 8, "resets are no steps"
    again = esper_core.train(resume=run, updates=3, sinks=[])
    assert present(again.summary)["env_steps"] > steps
    # The checkpoint is one of CartPole: any form of it can be played.
    agent = PPOAgent.load(again)
    single = gym.make("CartPole-v1")
    assert single.action_space.contains(agent.act(single.reset(seed=1)[0]))
    assert load_checkpoint(again.directory.checkpoint).spaces == make_task(EnvConfig(id="CartPole-v1"), seed=0).spaces


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"id": "MountainCar-v0"}, "MountainCar-v0 is not: it has no vector entry point\n.*sync"),
        ({"wrappers": ("ClipReward?max_reward=1",)}, "env.wrappers is for single environments.*makes them as one"),
        ({"masks": "method"}, 'env.masks = "method" is for single'),
        ({"seed_episodes": True}, "env.seed_episodes is for single"),
        ({"kwargs": {"sutton": True}}, "unexpected keyword argument 'sutton'"),
        ({"kwargs": {"num_envs": 9}}, "env.kwargs.num_envs is no argument of CartPole-v1 itself\n.*env.n_envs"),
        ({"kwargs": {"vectorization_mode": "sync"}}, "env.kwargs.vectorization_mode is no argument"),
    ],
)
def test_what_native_cannot_do_is_refused(env: dict[str, Any], message: str) -> None:
    with pytest.raises(EnvironmentUnsupportedError, match=message):
        make_task(EnvConfig(**{"id": "CartPole-v1", "vector": "native", **env}), seed=0)
