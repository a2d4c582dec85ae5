"""Several ranks learn as one: the split of a rollout changes nothing, and what is their own differs."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from heard_updates import weights

from esper_core.config.layers import load_config
from esper_core.errors import RanksError, UsageError
from esper_core.host.load.selection import Selection
from esper_core.ppo import PPOAgent, load_checkpoint
from esper_core.ppo.checkpoint_file import save_checkpoint
from esper_core.ppo.checkpoint_fit import restore
from esper_core.ppo.collector import Collection, Fault
from esper_core.ppo.distributed import checkpoint_of_rank
from esper_core.ppo.episodes import EpisodeTracker
from esper_core.ppo.reducer import Identity, seed_of_rank
from esper_core.ppo.rollout import Batch
from esper_core.ppo.together import Together
from esper_core.training.agreement import agree_on_settings
from esper_core.training.ranks import Place, place_of, refuse_for_ranks

if TYPE_CHECKING:
    from pathlib import Path

    from esper_core.updates import EpisodeSummary


SAMPLES, PARTS = 960, 6
SETTINGS = {"epochs": 3, "learning_rate": 1e-2, "target_kl": 0.01}


@pytest.mark.parametrize("estimator", ["k3", "exact"])
@pytest.mark.parametrize("sizes", [(480, 480), (240, 240, 240, 240), (600, 360), (960, 0)])
def test_a_rollout_split_over_ranks_teaches_the_same(
    sizes: tuple[int, ...], estimator: str, bandit: Any, ranks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same global minibatches: the same KL, weights and stop, also when a rank has less, or nothing."""
    settings = SETTINGS | {"kl_estimator": estimator}
    whole = bandit.agent(seed=1, minibatch_size=SAMPLES // PARTS, **settings)
    rollout = bandit.rollout(whole, SAMPLES)
    start = copy.deepcopy(whole.policy.state_dict())
    parts = rollout.batch.observations.split(list(sizes))
    offsets = np.cumsum([0, *sizes[:-1]]).tolist()
    places = [torch.arange(offset, offset + len(part)) for offset, part in zip(offsets, parts, strict=True)]

    def work(rank: Any) -> tuple[dict[str, float], Any, torch.Tensor]:
        agent = bandit.agent(seed=1, minibatch_size=SAMPLES // PARTS // rank.world_size, **settings)
        agent.policy.load_state_dict(start)
        agent.reducer = rank
        agent.order_generator.manual_seed(rank.rank)
        metrics = agent.update(replace(rollout, batch=rollout.batch.take(places[rank.rank])))
        return metrics, agent.last, weights(agent)

    learned = ranks.ThreadRanks(len(sizes)).run(work)

    orders = [torch.Generator().manual_seed(rank) for rank in range(len(sizes))]

    def side_by_side(batch: Batch, _: torch.Generator) -> Batch:
        drawn = [own[torch.randperm(len(own), generator=order)] for own, order in zip(places, orders, strict=True)]
        split = [own.tensor_split(PARTS) for own in drawn]
        return batch.take(torch.cat([piece for minibatch in zip(*split, strict=True) for piece in minibatch]))

    monkeypatch.setattr(Batch, "shuffled", side_by_side)
    expected = whole.update(rollout)
    assert whole.last is not None
    stop = whole.last.early_stop
    assert stop is not None
    assert stop.minibatch < PARTS, "the stop is in the middle of an epoch"
    assert abs(stop.value / stop.threshold - 1) > 0.05, "rounding cannot move the stop"
    for metrics, last, learned_weights in learned:
        assert (last.early_stop.epoch, last.early_stop.minibatch) == (stop.epoch, stop.minibatch)
        assert last.minibatches == whole.last.minibatches
        torch.testing.assert_close(learned_weights, weights(whole), rtol=1e-4, atol=1e-5)
        assert torch.equal(learned_weights, learned[0][2])
        for name in ("approx_kl", "kl_joint", "policy_loss", "value_loss", "advantage_std", "steps", "slot/kl"):
            assert metrics[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-6), name


def test_each_rank_draws_its_own_from_the_same_weights(bandit: Any, ranks: Any) -> None:
    two = ranks.ThreadRanks(2)
    agents = [PPOAgent(bandit.heads, (bandit.contexts,), seed=5, reducer=two.of(rank)) for rank in (0, 1)]
    alone = PPOAgent(bandit.heads, (bandit.contexts,), seed=5)
    assert torch.equal(weights(agents[0]), weights(agents[1]))
    for generator in ("sampling_generator", "order_generator"):
        first, second, one = (getattr(agent, generator).get_state() for agent in (*agents, alone))
        assert torch.equal(first, one), "rank 0 draws what a run of one rank draws"
        assert not torch.equal(first, second)
    assert seed_of_rank(5, 0) == 5
    assert len({seed_of_rank(seed, rank) for seed in range(4) for rank in range(64)}) == 4 * 64


def test_another_rank_goes_on_from_rank_0s_checkpoint_and_draws_its_own(bandit: Any, tmp_path: Path) -> None:
    agent = bandit.agent(seed=5)
    agent.updates = 3
    save_checkpoint(tmp_path / "a.pt", agent)
    agent.updates = 4
    save_checkpoint(tmp_path / "b.pt", agent)
    third, fourth = (load_checkpoint(tmp_path / name) for name in ("a.pt", "b.pt"))
    assert checkpoint_of_rank(third, 0, 2) is third
    drawn = []
    for checkpoint, rank in ((third, 0), (third, 1), (third, 2), (fourth, 1)):
        resumed = bandit.agent(seed=5, spread=1.0)
        restore(resumed, checkpoint_of_rank(checkpoint, rank, 3))
        assert torch.equal(weights(resumed), weights(agent))
        assert resumed.updates == checkpoint.update_id
        drawn += [resumed.sampling_generator.get_state(), resumed.order_generator.get_state()]
    drawn += [state for rank in (1, 2) for state in states_of_a_new_run(bandit, rank)]
    assert len({tuple(state.tolist()) for state in drawn}) == len(drawn)


def states_of_a_new_run(bandit: Any, rank: int) -> list[torch.Tensor]:
    class Placed(Identity):
        pass

    Placed.rank = rank
    agent = PPOAgent(bandit.heads, (bandit.contexts,), seed=5, reducer=Placed())
    return [agent.sampling_generator.get_state(), agent.order_generator.get_state()]


class Flag:
    """A stop flag."""

    def __init__(self, number: int | None = None) -> None:
        self.signal = number
        self.requested = number is not None

    def __call__(self) -> bool:
        return self.requested

    def request(self, number: int | None = None) -> None:
        self.requested, self.signal = True, self.signal or number


def test_one_rank_that_is_asked_stops_all_for_the_same_reason(bandit: Any, ranks: Any) -> None:
    flags = [Flag(), Flag(15)]

    def work(rank: Any) -> tuple[bool, bool]:
        together = Together(rank, check_updates=0)
        return together.on_update(flags[rank.rank], bandit.agent(), due=rank.rank == 0)

    assert ranks.ThreadRanks(2).run(work) == 2 * [(True, True)]
    assert [flag.signal for flag in flags] == [15, 15]


def test_a_rollout_is_of_all_ranks(bandit: Any, ranks: Any) -> None:
    """Steps and episodes are summed; a fault of one rank leaves none with a batch to learn from."""
    agent = bandit.agent()
    batch = bandit.rollout(agent, 8).batch

    def work(rank: Any) -> tuple[Collection, int, EpisodeSummary, int]:
        tracker = EpisodeTracker(2, episodes=10, recent=[1.0])
        done = np.array([True, rank.rank == 1])
        tracker.step(np.array([2.0, 3.0]) + rank.rank, done, np.zeros(2, dtype=bool), env_steps=2)
        own = Collection(batch, 8) if rank.rank == 0 else Collection(None, 4, fault=Fault("reward is nan", 2))
        agreed = Together(rank, check_updates=0).on_rollout(own, tracker, Flag())
        return (*agreed, tracker.episodes)

    for collected, steps, episodes, counted in ranks.ThreadRanks(2).run(work):
        assert collected.batch is None
        assert collected.fault == Fault("reward is nan (rank 1)", 2)
        assert (steps, counted) == (12, 13)
        assert sorted(episodes.returns) == [2.0, 3.0, 4.0]
        assert episodes.mean_100 == pytest.approx((1 + 2 + 3 + 4) / 4)


@pytest.mark.parametrize(
    ("env", "place"),
    [
        ({}, Place()),
        ({"WORLD_SIZE": "1"}, Place()),
        ({"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, Place(1, 2)),
    ],
)
def test_the_place_is_read_from_torchruns_variables(env: dict[str, str], place: Place) -> None:
    assert place_of(env) == place


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"RANK": ""}, "RANK is not set"),
        ({"RANK": "2"}, "RANK is 2 and WORLD_SIZE is 2"),
        ({"RANK": "-1"}, "RANK is '-1'"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0'"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
    ],
)
def test_variables_that_make_no_place_are_refused(change: dict[str, str], named: str) -> None:
    env = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1"} | change
    with pytest.raises(UsageError, match=named):
        place_of(env)


def test_what_several_ranks_cannot_do_yet_is_refused() -> None:
    resolved = load_config(no_file=True, keywords={"ppo": {"device": "cuda"}})
    with pytest.raises(UsageError, match=r"ppo\.device cuda"):
        refuse_for_ranks(resolved, Selection(sinks=()), Place(0, 2))
    assert refuse_for_ranks(resolved, Selection(sinks=()), Place()) is resolved


def test_ranks_of_other_settings_are_refused_by_the_keys_that_differ(ranks: Any) -> None:
    """On every rank, and without the values of sinks' options."""
    same = {"sinks": ["journal"], "ppo": {"learning_rate": 0.001, "epochs": 4, "gamma": 0.9}}
    found: list[str] = []
    for more in ({}, {"ppo": {"learning_rate": 0.01, "epochs": 3, "gamma": 0.5}, "run": {"seed": 7, "name": "x"}}):

        def work(rank: Any, more: Any = more) -> str:
            keywords = same | (more if rank.rank == 1 else {}) | {"sink": {"mine": {"token": f"canary{rank.rank}"}}}
            try:
                agree_on_settings(rank, load_config(keywords=keywords).config)
            except RanksError as error:
                return error.message
            return ""

        first, *others = ranks.ThreadRanks(3).run(work)
        assert others == [first, first]
        found.append(first)
    assert found[0] == ""
    assert found[1] == (
        "rank 1 of 3 has another configuration than rank 0: ppo.epochs is 3 and on rank 0 4; "
        "ppo.gamma is 0.5 and on rank 0 0.9; ppo.learning_rate is 0.01 and on rank 0 0.001; and 2 keys more"
    )


def test_ranks_of_other_versions_are_refused(ranks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here every rank that asks has a newer torch than the one before."""
    asked: list[int] = []

    def versions(names: tuple[str, ...]) -> tuple[str, ...]:
        asked.append(len(asked))
        return tuple(f"{name}==1.{asked[-1] if name == 'torch' else 0}" for name in names)

    monkeypatch.setattr("esper_core.training.agreement.versions_of", versions)

    def work(rank: Any) -> str:
        with pytest.raises(RanksError) as caught:
            agree_on_settings(rank, load_config(keywords={}).config)
        assert "packages" in str(caught.value.hint)
        return str(caught.value.message)

    first, second = ranks.ThreadRanks(2).run(work)
    assert first == second
    assert first.startswith("rank 1 of 2 has another configuration than rank 0: the version of torch is 1.")
