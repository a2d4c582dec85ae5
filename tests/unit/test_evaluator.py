"""Evaluation while training: what is played, told and kept, and that training does not notice it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium as gym
import msgspec
import numpy as np
import pytest
import torch
from present import creator, present

import esper_core
from esper_core.config.schema import EnvConfig, EsperConfig, PPOConfig, RunConfig
from esper_core.emitter import TelemetryEmitter
from esper_core.envs.adapter import make_task
from esper_core.envs.evaluation import evaluation_task
from esper_core.envs.seeds import environment_seeds, evaluation_seed
from esper_core.events import PolicyEvaluated
from esper_core.health import RunState
from esper_core.hooks import SinkHooks
from esper_core.ppo import Checkpointer, PPOAgent, Trainer, load_checkpoint
from esper_core.ppo.evaluation import Evaluated, evaluate
from esper_core.ppo.evaluator import Evaluator
from esper_core.reading.aggregator import SanctumAggregator
from esper_core.reading.sentences import policy_evaluated
from esper_core.runs.layout import BEST
from esper_core.testing import make_event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.numeric
ENV = EnvConfig(id="CartPole-v1", n_envs=2, seed_episodes=True)
PPO = PPOConfig(rollout_steps=16, epochs=2, minibatch_size=16, hidden=(8,), normalise_observations=True)
RUN = RunConfig(updates=5, seed=3, eval_every=2, eval_episodes=3)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Heard(SinkHooks):
    """Keeps evaluations."""

    def __init__(self) -> None:
        self.found: list[PolicyEvaluated] = []

    def esper_policy_evaluated(self, event: Any) -> None:
        self.found.append(event.payload)


def train(
    path: Path, run: RunConfig, *, env: EnvConfig = ENV, should_stop: Callable[[PPOAgent], bool] = lambda _: False
) -> tuple[list[PolicyEvaluated], PPOAgent]:
    task = make_task(env, seed=run.seed)
    seed = evaluation_seed(run.seed)
    own = evaluation_task(env, episodes=run.eval_episodes, seed=seed)
    agent = PPOAgent(task.heads, task.obs_shape, PPO, seed=run.seed, form=task.observation_form)
    heard = Heard()
    Trainer(
        agent,
        task,
        EsperConfig(env=env, ppo=PPO, run=run),
        emitter=TelemetryEmitter(heard),
        should_stop=lambda: should_stop(agent),
        checkpointer=Checkpointer(path, interval_s=0.0),
        evaluator=Evaluator(own, run, seed=seed, renew=lambda failed: failed or own),
        resume=load_checkpoint(path) if path.exists() else None,
    ).run()
    task.close()
    own.close()
    return heard.found, agent


def changed(**run: Any) -> RunConfig:
    return msgspec.structs.replace(RUN, **run)


def weights(path: Path) -> dict[str, Any]:
    state = load_checkpoint(path).state
    found = {name: weight.tolist() for name, weight in state["policy"].items()}
    return found | {name: state[name].tolist() for name in ("sampling", "order")}


@pytest.mark.parametrize("deterministic", [True, False])
def test_training_does_not_notice_it(tmp_path: Path, *, deterministic: bool) -> None:
    """Weights and generators are bit for bit those of the run that is never evaluated."""
    found, _ = train(tmp_path / "with.pt", changed(eval_deterministic=deterministic))
    none, _ = train(tmp_path / "without.pt", changed(eval_every=0))
    assert ([item.update_id for item in found], none) == ([2, 4], [])
    assert weights(tmp_path / "with.pt") == weights(tmp_path / "without.pt")
    assert [item.deterministic for item in found] == [deterministic] * 2


def test_it_tells_what_the_same_policy_earns_when_it_plays_again(tmp_path: Path) -> None:
    """Every evaluation plays the same episodes: the best policy, loaded, earns what was told."""
    found, _ = train(tmp_path / "checkpoint.pt", RUN)
    best = max(found, key=lambda item: item.return_mean)
    kept = load_checkpoint(tmp_path / BEST)
    assert (kept.update_id, kept.evaluated) == (best.update_id, best.return_mean)
    assert load_checkpoint(tmp_path / "checkpoint.pt").evaluated is None
    seed = evaluation_seed(RUN.seed)
    task = evaluation_task(ENV, episodes=3, seed=seed)
    played = evaluate(PPOAgent.load(tmp_path / BEST), task, episodes=3, seed=seed, deterministic=True)
    task.close()
    assert (played.return_mean, played.return_std) == (best.return_mean, best.return_std)
    assert (min(played.returns), max(played.returns)) == (best.return_min, best.return_max)
    assert best.episodes == len(played.returns) == 3
    assert found[-1].best_return_mean == best.return_mean


def test_only_a_better_policy_replaces_the_best_also_after_a_resume(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    train(path, changed(updates=2))
    content = torch.load(tmp_path / BEST, weights_only=True)
    torch.save(content | {"evaluated": 1e6}, tmp_path / BEST)
    (again,), _ = train(path, RUN)
    assert (again.update_id, again.better, again.best_return_mean, again.best_update_id) == (4, False, 1e6, 2)
    assert load_checkpoint(tmp_path / BEST).update_id == 2


def test_a_stop_leaves_an_evaluation_at_its_next_step_and_a_resume_makes_it(tmp_path: Path) -> None:
    """Where the environments can be brought back, the update is made again, and then evaluated."""
    (tmp_path / "whole").mkdir()
    whole, _ = train(tmp_path / "whole" / "checkpoint.pt", RUN)
    path = tmp_path / "checkpoint.pt"
    asked = 0

    def during(agent: PPOAgent) -> bool:
        nonlocal asked
        asked += agent.last is not None and agent.last.update_id == 2
        return asked > 3

    cut, agent = train(path, RUN, should_stop=during)
    assert (cut, agent.updates) == ([], 2)
    found, _ = train(path, RUN)
    assert [replace(item, duration_s=None) for item in found] == [replace(item, duration_s=None) for item in whole]
    assert weights(path) == weights(tmp_path / "whole" / "checkpoint.pt")


def test_a_stop_in_the_first_evaluation_keeps_the_update(tmp_path: Path) -> None:
    """Environments that cannot be brought back: the checkpoint is that of the update, which is not evaluated."""
    env = EnvConfig(id="CartPole-v1", n_envs=2)
    path = tmp_path / "checkpoint.pt"
    asked = 0

    def during(agent: PPOAgent) -> bool:
        nonlocal asked
        asked += agent.last is not None
        return asked > 1

    found, _ = train(path, changed(eval_every=1), env=env, should_stop=during)
    assert found == []
    assert load_checkpoint(path).update_id == 1


class Fragile(gym.Env[Any, Any]):
    """The second one, the evaluation's first, breaks in its second evaluation; the third cannot be made."""

    made: ClassVar[list[Fragile]] = []

    def __init__(self) -> None:
        self.observation_space, self.action_space = gym.spaces.Box(-1, 1, (1,)), gym.spaces.Discrete(2)
        self.made.append(self)
        self.begun = self.closed = 0
        if len(self.made) == 3:
            raise OSError("no display")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.begun += seed is not None
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if len(self.made) == 2 and self is self.made[1] and self.begun == 2:
            raise OSError("the display is gone")
        return np.zeros(1, np.float32), 1.0, True, False, {}

    def close(self) -> None:
        self.closed += 1


def evaluated_each_update(folder: Path, env_id: str, *, updates: int, **kwargs: float) -> esper_core.Run:
    """Train in one environment, and play two episodes after every update."""
    return esper_core.train(
        env={"id": env_id, "n_envs": 1, "kwargs": kwargs},
        updates=updates,
        run={"dir": str(folder), "eval_every": 1, "eval_episodes": 2},
        ppo={"rollout_steps": 8, "epochs": 1},
        sinks=["journal"],
        no_config=True,
    )


def test_an_evaluation_whose_environment_fails_is_told_once_and_the_next_plays_in_a_new_one(tmp_path: Path) -> None:
    error = "OSError: the display is gone"
    Fragile.made.clear()
    gym.register("Fragile-v0", creator(Fragile))
    try:
        with pytest.warns(UserWarning, match="evaluation") as told:
            run = evaluated_each_update(tmp_path, "Fragile-v0", updates=5)
    finally:
        del gym.registry["Fragile-v0"]
    assert [str(item.message) for item in told] == [
        f"the evaluation after update 2 failed, training goes on, and the next one plays in new environments: {error}",
        "2 evaluations failed; trainer.log has what each raised",
    ]
    summary = present(run.summary)
    assert (summary["updates"], summary["evaluations_failed"]) == (5, 2)
    found = [event.payload.update_id for event in run.events() if isinstance(event.payload, PolicyEvaluated)]
    assert found == [1, 4, 5]
    assert "OSError: no display" in (run.path / "trainer.log").read_text()
    assert [env.closed for env in Fragile.made] == [1, 1, 0, 1]


class Odd(gym.Env[Any, Any]):
    """The evaluation's, which is made after the training's, shows or pays what is no number."""

    made = 0

    def __init__(self, seen: float, paid: float) -> None:
        self.observation_space, self.action_space = gym.spaces.Box(-9, 9, (1,)), gym.spaces.Discrete(2)
        Odd.made += 1
        self.seen, self.paid = (seen, paid) if Odd.made > 1 else (0.0, 1.0)
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.steps = 0
        return np.full(1, self.seen, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return np.full(1, self.seen, np.float32), self.paid, self.steps == 2, False, {}


@pytest.mark.parametrize(
    ("seen", "paid", "said"),
    [
        (math.nan, 1.0, "observation of environment 0 is nan"),
        (0.0, -math.inf, "reward of environment 0 is -inf"),
        (0.0, 1e308, "the return of an episode is inf"),
    ],
)
def test_an_evaluation_that_is_no_number_has_failed_and_the_training_goes_on(
    tmp_path: Path, seen: float, paid: float, said: str
) -> None:
    Odd.made = 0
    gym.register("Odd-v0", creator(Odd))
    try:
        with pytest.warns(UserWarning, match=f"evaluation after update 1 failed, training goes on.*{said}"):
            run = evaluated_each_update(tmp_path, "Odd-v0", updates=1, seen=seen, paid=paid)
    finally:
        del gym.registry["Odd-v0"]
    assert (run.state, present(run.summary)["evaluations_failed"]) == (RunState.DONE, 1)
    assert not (run.path / "best.pt").exists()


def test_the_mean_and_spread_of_returns_are_beyond_no_float() -> None:
    played = Evaluated((1.6e308, 1.6e308, 1.6e308), (2, 2, 2))
    assert (played.return_mean, played.return_std) == (1.6e308, 0.0)


def test_its_seeds_are_apart_from_those_of_training() -> None:
    training = {seed for run in range(50) for seed in environment_seeds(run, 16)}
    evaluations = {seed for run in range(50) for seed in environment_seeds(evaluation_seed(run), 16)}
    assert len(evaluations) == 800
    assert not training & evaluations


def test_sanctum_lists_it(tmp_path: Path) -> None:
    found, _ = train(tmp_path / "checkpoint.pt", changed(updates=2))
    run = SanctumAggregator()
    run.handle(make_event(found[0]))
    (entry,) = run.snapshot().events
    assert (entry.tone, entry.source, entry.update_id) == ("good", "eval", 2)
    assert entry.text == policy_evaluated(found[0])
    assert entry.text.endswith("over 3 greedy episodes, the best so far")
    later = replace(found[0], better=False, best_return_mean=99.0, best_update_id=1, deterministic=False)
    assert policy_evaluated(later).endswith("over 3 sampled episodes; best 99.0 after update 1")
