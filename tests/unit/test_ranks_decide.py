"""Several ranks decide as one: one interruption, one NaN verdict, one limit, and one set of running statistics."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from heard_updates import weights

from esper_core.config.schema import EnvConfig, EsperConfig, PPOConfig, RunConfig
from esper_core.envs.adapter import make_task
from esper_core.health import RunState
from esper_core.ppo import Checkpointer, PPOAgent, Trainer, load_checkpoint
from esper_core.ppo.distributed import checkpoint_of_rank
from esper_core.ppo.reducer import seed_of_rank
from esper_core.ppo.together import Together

if TYPE_CHECKING:
    from pathlib import Path

    from esper_core.ppo.checkpoint import Checkpoint


def update(bandit: Any, ranks: Any, *, spoil: Any = None, stop: Any = lambda rank: None) -> list[tuple[Any, Any]]:
    """Payload and weights of each of two ranks after one update of two halves; ``spoil`` changes rank 1's batch."""
    whole = bandit.agent(seed=1)
    rollout = bandit.rollout(whole, 240)
    parts = torch.arange(240).split(120)  # type: ignore[no-untyped-call]  # torch ships it without annotations

    def work(rank: Any) -> tuple[Any, Any]:
        agent = bandit.agent(seed=1, minibatch_size=40, epochs=2, target_kl=0.0)
        agent.reducer = rank
        batch = rollout.batch.take(parts[rank.rank])
        agent.update(
            replace(rollout, batch=batch if spoil is None or rank.rank == 0 else spoil(batch)),
            should_stop=stop(rank.rank),
        )
        return agent.last, weights(agent)

    learned: list[tuple[Any, Any]] = ranks.ThreadRanks(2).run(work)
    return [(last, bool(torch.equal(found, weights(whole)))) for last, found in learned]


def test_one_rank_that_is_asked_interrupts_the_update_of_all_at_the_same_step(bandit: Any, ranks: Any) -> None:
    calls: list[int] = []

    def stop(rank: int) -> Any:
        def asked() -> bool:
            if rank == 1:
                calls.append(1)
            return rank == 1 and len(calls) == 4

        return asked

    for last, untouched in update(bandit, ranks, stop=stop):
        assert (last.outcome, last.minibatches) == ("interrupted", 3)
        assert not untouched


def test_a_nan_of_one_rank_is_the_verdict_of_all_and_touches_no_weight(bandit: Any, ranks: Any) -> None:
    def spoil(batch: Any) -> Any:
        advantages = batch.advantages.clone()
        advantages[3] = torch.nan
        return batch.with_advantages(advantages)

    for last, untouched in update(bandit, ranks, spoil=spoil):
        assert (last.outcome, last.reason, last.non_finite) == ("skipped", "1 non-finite advantages", 1)
        assert untouched


def test_non_finite_weights_are_counted_once_and_not_on_every_rank(bandit: Any, ranks: Any) -> None:
    rollout = bandit.rollout(bandit.agent(seed=1), 240)

    def work(rank: Any) -> Any:
        agent = bandit.agent(seed=1)
        agent.reducer = rank
        with torch.no_grad():
            agent.policy.logit_weight[0, :2] = torch.nan
        agent.update(rollout)
        return agent.last

    for last in ranks.ThreadRanks(2).run(work):
        assert (last.reason, last.non_finite) == ("2 non-finite weights", 2)


class Independent(gym.Env[Any, Any]):
    """Shows and pays what its own generator draws, whatever is done; episodes of ``length`` steps."""

    def __init__(self, seed: int, length: int, *, poison: int = 0) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = gym.spaces.Discrete(2)
        self.random, self.length, self.poison = np.random.default_rng(seed), length, poison
        self.steps = 0

    def _show(self) -> np.ndarray:
        return self.random.normal((50, -3), (5, 0.1))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self._show(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        reward = np.nan if self.steps == self.poison else self.random.normal(2, 7)
        return self._show(), reward, self.steps % self.length == 0, False, {}


def config(*, run: dict[str, Any], **ppo: Any) -> EsperConfig:
    settings: dict[str, Any] = {
        "rollout_steps": 12,
        "epochs": 2,
        "minibatch_size": 6,
        "hidden": (8,),
        "target_kl": 0.0,
    } | ppo
    return EsperConfig(ppo=PPOConfig(**settings), run=RunConfig(seed=3, **({"updates": 0, "episodes": 0} | run)))


def train(settings: EsperConfig, task: Any, rank: Any = None) -> tuple[Any, PPOAgent]:
    """Result and agent of one rank, or of one process."""
    agent = PPOAgent(task.heads, task.obs_shape, settings.ppo, seed=3, form=task.observation_form, reducer=rank)
    agreement = None if rank is None else Together(rank, check_updates=1)
    return Trainer(agent, task, settings, agreement=agreement).run(), agent


@pytest.mark.parametrize(("limit", "updates"), [({"steps": 60}, 3), ({"episodes": 7}, 2), ({"updates": 2}, 2)])
def test_a_limit_is_of_all_ranks(limit: dict[str, int], updates: int, toys: Any, ranks: Any) -> None:
    """24 steps an update, of 12 a rank; rank 0 ends 3 episodes in 12 steps, and rank 1 none but every second time."""

    def work(rank: Any) -> Any:
        return train(config(run=limit), toys.task(Independent(rank.rank, (4, 24)[rank.rank])), rank)[0]

    for result in ranks.ThreadRanks(2).run(work):
        assert (result.state, result.updates, result.env_steps) == (RunState.DONE, updates, 24 * updates)
        assert result.episodes == 3 * updates + updates // 2


def test_a_nan_of_one_ranks_environment_ends_all(toys: Any, ranks: Any) -> None:
    def work(rank: Any) -> Any:
        return train(config(run={"updates": 9}), toys.task(Independent(0, 4, poison=(0, 15)[rank.rank])), rank)[0]

    for result in ranks.ThreadRanks(2).run(work):
        assert result.state is RunState.FAILED
        assert result.reason == "NaN or Inf in update 2: reward of environment 0 is nan (rank 1)"
        assert result.env_steps == 24 + 12 + 3


NORMALISED = {"normalise_observations": True, "normalise_rewards": True}
SHAPES = ((3, 5), (4, 7))
"""Seed and episode length of each environment."""


def statistics(agent: PPOAgent) -> list[torch.Tensor]:
    assert agent.normaliser is not None
    assert agent.reward_normaliser is not None
    found = []
    for moments in (agent.normaliser.moments, agent.reward_normaliser.moments):
        found += [torch.tensor([moments.count], dtype=torch.float64), moments.mean, moments.squares]
    return found


def test_running_statistics_are_those_of_all_ranks_data(toys: Any, ranks: Any) -> None:
    """What is shown and paid hangs on no action: one process that plays all environments sees the same."""
    settings = config(run={"updates": 3}, **NORMALISED)
    _, one = train(settings, toys.task(*(Independent(*shape) for shape in SHAPES)))

    def work(rank: Any) -> tuple[Any, PPOAgent]:
        return train(settings, toys.task(Independent(*SHAPES[rank.rank])), rank)

    (_, first), (_, second) = ranks.ThreadRanks(2).run(work)
    for mine, other, pooled in zip(statistics(first), statistics(second), statistics(one), strict=True):
        assert torch.equal(mine, other), "to the last bit"
        torch.testing.assert_close(mine, pooled, rtol=1e-9, atol=0)
    assert first.last is not None
    assert first.last.divergences[0].name == "normaliser"
    assert first.last.divergences == second.last.divergences


@pytest.mark.parametrize("poison", [5, 15], ids=["in the first rollout", "later"])
def test_statistics_stay_the_same_when_one_ranks_rollout_is_lost(poison: int, toys: Any, ranks: Any) -> None:
    """Rank 1 has none to learn from and rank 0 has: neither waits in a call that the other does not make."""
    settings = config(run={"updates": 4, "keep_going": True}, **NORMALISED)

    def work(rank: Any) -> tuple[Any, PPOAgent]:
        return train(settings, toys.task(Independent(rank.rank, 5, poison=(0, poison)[rank.rank])), rank)

    (result, first), (_, second) = ranks.ThreadRanks(2).run(work)
    assert (result.state, result.updates) == (RunState.DONE, 4)
    for mine, other in zip(statistics(first), statistics(second), strict=True):
        assert torch.equal(mine, other)


def test_an_interruption_of_one_ranks_first_rollout_leaves_nobody_waiting(toys: Any, ranks: Any) -> None:
    settings = config(run={"updates": 4}, **NORMALISED)

    def work(rank: Any) -> Any:
        task = toys.task(Independent(rank.rank, 5))
        agent = PPOAgent(task.heads, task.obs_shape, settings.ppo, seed=3, form=task.observation_form, reducer=rank)
        left = iter((True,) * 7)
        asked = (lambda: False) if rank.rank == 0 else (lambda: not next(left, False))
        return Trainer(agent, task, settings, agreement=Together(rank, check_updates=1), should_stop=asked).run()

    for result in ranks.ThreadRanks(2).run(work):
        assert (result.state, result.updates, result.env_steps) == (RunState.STOPPED, 0, 12 + 7)


def test_an_update_takes_as_many_exchanges_as_the_page_plans_with(toys: Any, ranks: Any) -> None:
    """epochs x (1 + 2 x minibatches) + 8, of which two gather what each rank tells after a rollout and an update."""
    epochs, minibatches, updates = 2, 2, 3

    def work(rank: Any) -> int:
        task = toys.task(Independent(rank.rank, 5))
        settings = config(run={"updates": updates})
        agent = PPOAgent(task.heads, task.obs_shape, settings.ppo, seed=3, form=task.observation_form, reducer=rank)
        Trainer(agent, task, settings, agreement=Together(rank, check_updates=0)).run()
        return int(rank.calls)

    expected = updates * (epochs * (1 + 2 * minibatches) + 8) + 1  # at the end, what each rank goes on from
    assert ranks.ThreadRanks(2).run(work) == [expected, expected]


class KilledError(Exception):
    """Stands for what ends a rank at once."""


@pytest.mark.parametrize("end", ["in order", "killed"])
def test_ranks_go_on_where_they_stopped_or_where_the_last_checkpoint_was_written(
    end: str, ranks: Any, tmp_path: Path
) -> None:
    """With seeded episodes, to the last bit: ended in the middle of a rollout, and resumed by as many ranks."""

    def learned(folder: str, updates: int, *, end_at: int = 0, resume: Checkpoint | None = None) -> list[torch.Tensor]:
        settings = config(run={"updates": updates}, normalise_rewards=True, normalise_observations=True)

        def work(rank: Any) -> torch.Tensor:
            env = EnvConfig(id="CartPole-v1", n_envs=2, seed_episodes=True)
            task = make_task(env, seed=seed_of_rank(3, rank.rank))
            own = None if resume is None else checkpoint_of_rank(resume, rank.rank, 2)
            agent = PPOAgent(task.heads, task.obs_shape, settings.ppo, seed=3, form=task.observation_form, reducer=rank)
            asked: list[int] = []

            def should_stop() -> bool:
                asked.append(1)
                if rank.rank == 1 and end == "killed" and len(asked) == end_at:
                    raise KilledError
                return bool(end_at) and rank.rank == 1 and end == "in order" and len(asked) >= end_at

            path = tmp_path / folder / "checkpoint.pt"
            trainer = Trainer(
                agent,
                task,
                settings,
                agreement=Together(rank, check_updates=1),
                should_stop=should_stop,
                checkpointer=Checkpointer(path, interval_s=0.0) if rank.rank == 0 else None,
                resume=own,
            )
            trainer.run()
            return weights(agent)

        (tmp_path / folder).mkdir()
        found: list[torch.Tensor] = ranks.ThreadRanks(2).run(work)
        return found

    whole = learned("whole", 6)
    with pytest.raises(KilledError) if end == "killed" else contextlib.nullcontext():
        learned("half", 6, end_at=60)
    half = load_checkpoint(tmp_path / "half" / "checkpoint.pt")
    assert 0 < half.update_id < 6
    for mine, other in zip(learned("again", 6, resume=half), whole, strict=True):
        assert torch.equal(mine, other)
    anew = replace(half, ranks=half.ranks[:1])  # of another number of ranks
    assert not torch.equal(learned("anew", 6, resume=anew)[0], whole[0])
