"""Running statistics: right, still while a policy is measured, kept in checkpoints, and told as a divergence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from esper_core.config.schema import EsperConfig, PPOConfig, RunConfig
from esper_core.errors import ConfigError
from esper_core.ppo import Checkpointer, PPOAgent, Trainer, load_checkpoint
from esper_core.ppo.distributions import masked_log_softmax
from esper_core.ppo.normalisation import ObservationNormaliser, RewardNormaliser, RunningMoments
from esper_core.ppo.reducer import Identity

if TYPE_CHECKING:
    from esper_core.events import PPOUpdatePayload, TelemetryEvent

pytestmark = pytest.mark.numeric

NORMALISED: dict[str, Any] = {"normalise_observations": True, "normalise_rewards": True}


def test_moments_of_pieces_are_those_of_the_whole() -> None:
    rows = 1e6 + torch.randn(1000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moments = RunningMoments(3)
    for piece in rows.split([1, 7, 500, 492]):  # type: ignore[no-untyped-call]  # torch ships it without annotations
        moments.see(piece, Identity())
    torch.testing.assert_close(moments.mean, rows.mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(moments.variance, rows.var(0, unbiased=False), rtol=1e-6, atol=0)
    assert moments.count == 1000


def test_two_ranks_see_as_one() -> None:
    rows = torch.arange(24.0).reshape(12, 2).square()

    class Doubled(Identity):
        def sum(self, values: torch.Tensor) -> torch.Tensor:
            return 2 * values

    both, one = RunningMoments(2), RunningMoments(2)
    both.see(torch.cat([rows, rows]), Identity())
    one.see(rows, Doubled())
    torch.testing.assert_close(one.mean, both.mean)
    torch.testing.assert_close(one.squares, both.squares)


def test_only_numbers_of_unknown_scale_are_normalised_and_they_are_clipped() -> None:
    normaliser = ObservationNormaliser(np.array([True, False]))
    normaliser.see(torch.tensor([[1.0, 1.0], [3.0, 3.0]]), Identity())
    seen = normaliser(torch.tensor([[4.0, 4.0], [1e9, 1e9]]))
    assert seen.tolist() == [[pytest.approx(2.0), 4.0], [10.0, 1e9]]


def test_rewards_are_divided_as_vecnormalize_does() -> None:
    generator = np.random.default_rng(0)
    rewards, done = generator.normal(3, 2, (20, 2)), generator.random((20, 2)) < 0.2
    scale = RewardNormaliser(0.9)
    first = scale(rewards[:10], done[:10], Identity())
    resumed = RewardNormaliser(0.9)
    resumed.restore(scale.state())
    got = np.concatenate([first, resumed(rewards[10:], done[10:], Identity())])
    running, returns = np.zeros(2), []
    for step in range(20):
        running = running * 0.9 + rewards[step]
        returns.append(running.copy())
        running[done[step]] = 0
    deviation = np.std(returns)
    assert float(resumed.moments.variance) == pytest.approx(deviation**2)
    np.testing.assert_allclose(got[10:], rewards[10:] / deviation, rtol=1e-6)


class Ramp(gym.Env[Any, Any]):
    """Shows numbers far from 0 whose scale grows; pays 100 for action 1."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = gym.spaces.Discrete(2)
        self.steps = 0

    def _show(self) -> np.ndarray:
        return np.array([1000 + 3 * (self.steps % 5), 0.01 * self.steps])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self._show(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self._show(), 100.0 * int(action), self.steps % 4 == 0, False, {}


def _config(**run: Any) -> EsperConfig:
    ppo = PPOConfig(
        rollout_steps=8, epochs=2, minibatch_size=8, hidden=(8,), target_kl=0, learning_rate=0.1, **NORMALISED
    )
    return EsperConfig(ppo=ppo, run=RunConfig(seed=3, **run))


def _agent(task: Any, ppo: PPOConfig) -> PPOAgent:
    return PPOAgent(task.heads, task.obs_shape, ppo, seed=3, form=task.observation_form)


class Watched(PPOAgent):
    """Keeps what the statistics and the policy were around each of their moves."""

    def _move(self, raw: torch.Tensor, batch: Any) -> Any:
        before = masked_log_softmax(self.policy(self.seen(raw))[0].detach().double(), None)
        torch.testing.assert_close(batch.observations, self.seen(raw), rtol=0, atol=0)
        told = super()._move(raw, batch)
        after = masked_log_softmax(self.policy(self.seen(raw))[0].detach().double(), None)
        self.__dict__.setdefault("moves", []).append((told, float((before.exp() * (before - after)).sum(-1).mean())))
        return told


def test_what_moving_statistics_do_to_the_policy_is_a_divergence_and_no_part_of_the_kl(toys: Any) -> None:
    task = toys.task(Ramp())
    config = _config(updates=3)
    agent = Watched(task.heads, task.obs_shape, config.ppo, seed=3, form=task.observation_form)
    payloads: list[PPOUpdatePayload] = []
    emit = agent.emitter.emit_ppo_update

    def noting(payload: PPOUpdatePayload) -> TelemetryEvent[PPOUpdatePayload]:
        payloads.append(payload)
        return emit(payload)

    agent.emitter.emit_ppo_update = noting  # type: ignore[method-assign]  # to hear of each
    result = Trainer(agent, task, config).run()
    assert [payload.kl_first_minibatch for payload in payloads] == pytest.approx([0, 0, 0], abs=1e-9)
    first, *later = payloads
    assert first.divergences == (), "the statistics of the first rollout moved while it was played"
    for payload, (told, exact) in zip(later, agent.__dict__["moves"], strict=True):
        assert payload.divergences == (told,)
        assert (told.reference, told.estimator, told.direction) == ("normaliser", "exact", "reference_policy")
        assert told.per_decision == pytest.approx(exact, rel=1e-2, abs=1e-7)
        assert told.per_step == told.per_decision
        assert exact > 1e-5
    assert agent.normaliser is not None
    assert agent.normaliser.moments.count == 24
    assert result.episodes == 6
    returns = {payload.return_max for payload in payloads}
    assert returns <= {0.0, 100.0, 200.0, 300.0, 400.0}, "as the environment pays"


def test_statistics_are_kept_stand_still_in_use_and_go_on_when_resumed(toys: Any, tmp_path: Any) -> None:
    path = tmp_path / "checkpoint.pt"
    task = toys.task(Ramp())
    config = _config(updates=2)
    agent = _agent(task, config.ppo)
    Trainer(agent, task, config, checkpointer=Checkpointer(path)).run()
    loaded = PPOAgent.load(path)
    rows = torch.tensor([[1004.0, 0.1]])
    assert torch.equal(loaded.seen(rows), agent.seen(rows))
    assert not torch.equal(loaded.seen(rows), rows)
    loaded.act(np.array([5.0, 5.0]))
    assert torch.equal(loaded.seen(rows), agent.seen(rows)), "acting moves nothing"

    task.env.envs[0].steps = 16
    more = _config(updates=3)
    resumed = _agent(task, more.ppo)
    Trainer(resumed, task, more, resume=load_checkpoint(path), resumed_from=1).run()
    assert resumed.normaliser is not None
    assert resumed.reward_normaliser is not None
    shown = np.array([[1000 + 3 * (step % 5), 0.01 * step] for step in [*range(16), *range(16, 24)]])
    np.testing.assert_allclose(resumed.normaliser.moments.mean.numpy(), shown.mean(0), rtol=1e-6)
    np.testing.assert_allclose(resumed.normaliser.moments.variance.numpy(), shown.var(0), rtol=1e-4)
    assert resumed.reward_normaliser.moments.count == 24


def test_a_run_is_not_resumed_with_other_normalisation_and_damaged_statistics_are_refused(
    toys: Any, tmp_path: Any
) -> None:
    path = tmp_path / "checkpoint.pt"
    task = toys.task(Ramp())
    config = _config(updates=1)
    Trainer(_agent(task, config.ppo), task, config, checkpointer=Checkpointer(path)).run()
    with pytest.raises(ConfigError, match=r"another ppo\.normalise_observations: True, this run has False"):
        Trainer(_agent(task, PPOConfig(hidden=(8,))), task, config, resume=load_checkpoint(path))
    content = torch.load(path, weights_only=True)
    for broken in (None, {}, {"count": -1.0, "mean": torch.zeros(2), "squares": torch.zeros(2)}):
        content["state"]["observations"] = broken
        torch.save(content, path)
        with pytest.raises(ConfigError, match="does not fit this agent"):
            PPOAgent.load(path)
