"""Gaussian, Bernoulli and mixed heads: densities, KL, masks, what the environment gets, and what a checkpoint keeps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from present import present
from torch.distributions import (
    Bernoulli,
    Categorical,
    Normal,
    TanhTransform,
    TransformedDistribution,
    kl_divergence,
)

from esper_core.config.schema import EnvConfig, EsperConfig, PPOConfig, RunConfig
from esper_core.envs.adapter import make_task
from esper_core.errors import ConfigError, EnvironmentContractError, EnvironmentUnsupportedError, EsperError
from esper_core.ppo import HeadSpec, PPOAgent, Trainer
from esper_core.ppo.checkpoint_file import load_checkpoint, save_checkpoint
from esper_core.ppo.checkpoint_fit import restore
from esper_core.ppo.collector import Collector
from esper_core.ppo.evaluation import evaluate
from esper_core.ppo.measure import distribution_of
from esper_core.ppo.rollout import Rollout

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

pytestmark = pytest.mark.numeric
torch.set_num_threads(1)

ARM = (HeadSpec("arm.0", 0, "gaussian", -1, 1), HeadSpec("arm.1", 0, "gaussian", -2, 0.5))
MIXED = (ARM[0], HeadSpec("gear", 3), HeadSpec("lamp", 2, "bernoulli"), ARM[1])


class Body(gym.Env[Any, Any]):
    """Any action space; keeps what it was given, and refuses what is not of its space."""

    def __init__(self, space: gym.Space[Any], **info: Any) -> None:
        self.observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = space
        self.info = info
        self.taken: list[Any] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), dict(self.info)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        # Gymnasium hands a vector environment's numbers out as scalars, which its own Box wants as arrays.
        assert self.action_space.contains(np.asarray(action) if isinstance(action, np.floating) else action), action
        self.taken.append(action)
        return np.zeros(2, np.float32), 1.0, len(self.taken) % 4 == 0, False, dict(self.info)


def agent_of(heads: Any = ARM, *, spread: float = 1.0, **ppo: Any) -> PPOAgent:
    """An agent whose outputs differ by observation and by head."""
    agent = PPOAgent(heads, (3,), PPOConfig(**({"hidden": (8,)} | ppo)), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in (agent.policy.logit_weight, agent.policy.heads.log_std):
            if parameter is not None:
                drawn = spread * torch.randn(parameter.shape, generator=generator)
                parameter.add_(torch.where(parameter != 0, drawn, 0.0) if parameter.dim() > 1 else 0.3 * drawn)
    return agent


def shown(count: int = 64) -> torch.Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(3))


def agent_for(task: Any, **ppo: Any) -> PPOAgent:
    usual: dict[str, Any] = {"rollout_steps": 16, "hidden": (8,), "minibatch_size": 16, "epochs": 2}
    config = PPOConfig(**(usual | ppo))
    return PPOAgent(
        task.heads,
        task.obs_shape,
        config,
        seed=4,
        conditioning_head=task.conditioning_head,
        action_form=task.action_form,
    )


# --- what heads draw from ---------------------------------------------------------------------


def test_gaussian_heads_are_those_of_torch() -> None:
    agent, observations = agent_of(), shown()
    decision = agent.decide(observations, None, None, agent.noise(1, 64)[0])
    found = agent.policy.evaluate(observations, decision.actions, None)
    theirs = Normal(present(found.distribution.mean), present(agent.policy.heads.log_std).exp())
    torch.testing.assert_close(found.log_prob, theirs.log_prob(decision.actions))  # type: ignore[no-untyped-call]  # torch ships it without annotations
    torch.testing.assert_close(decision.log_prob, found.log_prob)
    torch.testing.assert_close(found.entropy, theirs.entropy().expand(64, -1))  # type: ignore[no-untyped-call]  # torch ships it without annotations
    assert decision.actions.dtype == torch.float32


@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_a_squash_has_the_density_and_the_entropy_of_the_squashed_value(shift: float) -> None:
    agent, observations = agent_of(squash=True), shown()
    with torch.no_grad():
        agent.policy.logit_bias.add_(shift)
    decision = agent.decide(observations, None, None, agent.noise(1, 64)[0])
    found = agent.policy.evaluate(observations, decision.actions, None)
    mean = present(found.distribution.mean).double()
    theirs = TransformedDistribution(Normal(mean, present(agent.policy.heads.log_std).double().exp()), TanhTransform())
    inside = decision.actions.double().abs() < 6  # beyond, their own inverse loses the digits
    expected = theirs.log_prob(decision.actions.double().tanh())  # type: ignore[no-untyped-call]  # torch ships it without annotations
    torch.testing.assert_close(found.log_prob[inside].double(), expected[inside], rtol=1e-4, atol=1e-4)
    # The entropy by the trapezoid rule over the sample before the squash.
    z = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    at = mean.unsqueeze(-1) + z * theirs.base_dist.stddev.unsqueeze(-1)
    slope = 2 * (math.log(2) - at - torch.nn.functional.softplus(-2 * at))
    mean = torch.trapezoid(slope * torch.exp(-z * z / 2) / math.sqrt(2 * math.pi), z)
    torch.testing.assert_close(found.entropy.double(), theirs.base_dist.entropy() + mean, atol=2e-3, rtol=0)


def test_bounds_are_reached_by_clipping_or_by_the_squash() -> None:
    for squash in (False, True):
        agent = agent_of(squash=squash)
        raw = np.array([[-50.0, 0.0], [0.25, -0.25], [50.0, 50.0]], dtype=np.float32)
        bounded = agent.bounded(raw)
        assert bounded.dtype == np.float64
        assert bounded[0, 0] == -1.0
        assert bounded[2].tolist() == [1.0, 0.5]
        middle = [math.tanh(0.25), -0.75 + 1.25 * math.tanh(-0.25)] if squash else [0.25, -0.25]
        assert bounded[1].tolist() == pytest.approx(middle)
    assert raw[2, 0] == 50.0, "what was sampled stays as it was"


def test_mixed_heads_keep_their_order_and_their_kinds() -> None:
    agent, observations = agent_of(MIXED), shown(2000)
    decision = agent.decide(observations, None, None, agent.noise(1, 2000)[0])
    found = agent.policy.evaluate(observations, decision.actions, None)
    outputs = agent.policy(observations)[0]
    std = present(agent.policy.heads.log_std).exp()
    theirs = (
        Normal(outputs[:, 0, 0], std[0]),
        Categorical(logits=outputs[:, 1]),
        Bernoulli(logits=outputs[:, 2, 1]),
        Normal(outputs[:, 3, 0], std[1]),
    )
    for column, one in enumerate(theirs):
        torch.testing.assert_close(found.log_prob[:, column], one.log_prob(decision.actions[:, column]))
        torch.testing.assert_close(found.entropy[:, column], one.entropy().expand(2000))
    for column in (1, 2):
        chance = Categorical(logits=outputs[:, 1]).probs if column == 1 else None
        mean = theirs[2].probs if chance is None else chance @ torch.arange(3.0)
        assert decision.actions[:, column].mean().item() == pytest.approx(mean.mean().item(), abs=0.08)


def test_nan_weights_reach_the_update_and_not_the_environment() -> None:
    agent = agent_of(MIXED)
    with torch.no_grad():
        present(agent.policy.heads.log_std)[0] = math.nan
        agent.policy.logit_bias[0] = math.nan
    decision = agent.decide(shown(), None, None, agent.noise(1, 64)[0])
    assert decision.actions.isfinite().all()
    assert not agent.finite


# --- the KL -----------------------------------------------------------------------------------


def rollout_of(toys: Any, agent_options: dict[str, Any], steps: int = 40) -> tuple[PPOAgent, Any]:
    envs = (toys.Mixed(3), toys.Mixed(5, truncates=True, seed=1), toys.Mixed(1, seed=2), toys.Mixed(50, seed=3))
    task = toys.task(*envs)
    agent = agent_for(task, rollout_steps=steps, **agent_options)
    return agent, Collector(agent, task).collect(lambda _: None, lambda: False).batch


@pytest.mark.parametrize("estimator", ["k3", "exact"])
def test_the_payload_of_mixed_heads_is_that_of_float64(toys: Any, estimator: str) -> None:
    """Everything the final pass reports, made again by NumPy and by torch.distributions in float64."""
    agent, batch = rollout_of(toys, {"learning_rate": 3e-2, "target_kl": 0.0, "kl_estimator": estimator})
    old = distribution_of(agent.policy, batch)
    agent.update(Rollout(batch))
    new = distribution_of(agent.policy, batch)
    payload = agent.last
    assert payload is not None
    assert [head.kind for head in payload.heads] == ["categorical", "gaussian", "gaussian", "bernoulli", "bernoulli"]

    def parts(found: Any) -> list[Any]:
        chances = found.log_probs.detach().double().exp()
        std, mean = found.log_std.detach().double().exp(), found.mean.detach().double()
        return [
            Categorical(probs=chances[:, 0]),
            *(Normal(mean[:, dim], std[dim]) for dim in range(2)),
            *(Bernoulli(probs=chances[:, row, 1]) for row in (1, 2)),
        ]

    active = batch.active.numpy()
    before, after = parts(old), parts(new)
    assert active[:, 3:].all()
    assert 0 < active[:, 1].sum() < len(batch)
    assert (active[:, 1] == (batch.actions[:, 0].numpy() != 0)).all()
    assert not active[batch.legal[:, 0].sum(-1).numpy() == 1, 0].any()
    numerators, decisions = [], active.sum(0)
    for column, (one, other) in enumerate(zip(before, after, strict=True)):
        taken = batch.actions[:, column].double()
        ratio = (other.log_prob(taken) - one.log_prob(taken)).numpy()
        kl = np.expm1(ratio) - ratio if estimator == "k3" else kl_divergence(one, other).numpy()
        numerators.append(float(kl[active[:, column]].sum()))
        entropy = float(other.entropy().expand(len(batch)).numpy()[active[:, column]].mean())
        head = payload.heads[column]
        assert head.decisions == decisions[column]
        assert head.kl == pytest.approx(numerators[-1] / decisions[column], rel=2e-4)
        assert head.entropy == pytest.approx(entropy, rel=1e-5)
        if head.kind == "gaussian":
            assert head.entropy_normalised is None, "not defined for a density"
        elif head.kind == "bernoulli":
            assert head.entropy_normalised == pytest.approx(entropy / math.log(2), rel=1e-5)
    assert payload.kl_joint == pytest.approx(sum(numerators) / len(batch), rel=2e-4)
    assert payload.kl_divergence == pytest.approx(sum(numerators) / decisions.sum(), rel=2e-4)
    assert payload.entropy_normalised is not None
    assert payload.differential is False


def test_advantages_of_mixed_heads_are_those_of_an_own_float64_loop(toys: Any) -> None:
    """Termination, truncation with its bootstrap, and the rollout's end, episode by episode."""
    envs = (toys.Mixed(3), toys.Mixed(5, truncates=True, seed=1), toys.Mixed(1, seed=2))
    task = toys.task(*envs)
    agent = agent_for(task, rollout_steps=13)
    results: list[Any] = []
    collector = Collector(agent, task)
    batch = collector.collect(results.append, lambda: False).batch
    assert batch is not None
    values = batch.values.view(13, 3).double().numpy()
    expected: NDArray[np.float64] = np.zeros((13, 3))
    for env in range(3):
        carried = 0.0
        for step in reversed(range(13)):
            result = results[step]
            if result.terminated[env]:
                following, goes_on = 0.0, 0.0
            elif result.truncated[env]:
                following, goes_on = value_of(agent, result.final_values[env]), 0.0
            else:
                following, goes_on = value_of(agent, result.observation.values[env]), 1.0
            delta = result.reward[env] + 0.99 * following - values[step, env]
            carried = delta + 0.99 * 0.95 * goes_on * carried
            expected[step, env] = carried
    np.testing.assert_allclose(batch.advantages.view(13, 3).numpy(), expected, atol=2e-5)


def value_of(agent: PPOAgent, observation: Any) -> float:
    return float(agent.values_of(torch.as_tensor(np.array(observation, dtype=np.float32))[None])[0])


def test_the_ratio_of_the_loss_is_the_joint_one_over_active_heads(toys: Any) -> None:
    """The gradient of a step is that of the surrogate of joint densities, made by torch.distributions."""
    agent, batch = rollout_of(
        toys,
        {
            "epochs": 1,
            "minibatch_size": 10_000,
            "target_kl": 0.0,
            "value_coef": 0.0,
            "entropy_coef": 0.1,
            "normalise_advantage": False,
            "max_grad_norm": 1e9,
        },
    )
    outputs = agent.policy(batch.observations)[0]
    std = present(agent.policy.heads.log_std).exp()
    logits = torch.where(batch.legal[:, 0], outputs[:, 0], -torch.inf)
    heads = [
        Categorical(logits=logits),
        *(Normal(outputs[:, 1 + dim, 0], std[dim]) for dim in range(2)),
        *(Bernoulli(logits=outputs[:, row, 1]) for row in (3, 4)),
    ]
    on = batch.active
    log_prob = torch.stack([head.log_prob(batch.actions[:, column]) for column, head in enumerate(heads)], 1)
    entropy = torch.stack([head.entropy().expand(len(batch)) for head in heads], 1)
    ratio = torch.where(on, log_prob - batch.log_prob, 0.0).sum(1).exp()
    loss = -(ratio * batch.advantages).mean() - 0.1 * torch.where(on, entropy, 0.0).sum(1).mean()
    trained = [item for name, item in agent.policy.named_parameters() if not name.startswith("value")]
    expected = torch.autograd.grad(loss, trained)
    agent.update(Rollout(batch))
    for parameter, gradient in zip(trained, expected, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-4)


def test_a_dimension_whose_bounds_are_one_number_decides_nothing(toys: Any) -> None:
    space = gym.spaces.Box(np.array([-1, 3], np.float32), np.array([1, 3], np.float32))
    task = toys.task(Body(space))
    agent = agent_for(task)
    batch = Collector(agent, task).collect(lambda _: None, lambda: False).batch
    assert batch is not None
    assert batch.active.all(0).tolist() == [True, False]
    assert not batch.active[:, 1].any()


# --- spaces -----------------------------------------------------------------------------------

SPACES: dict[str, tuple[gym.Space[Any], list[str] | None]] = {
    "one": (gym.spaces.Box(-2, 2, (1,)), ["action"]),
    "number": (gym.spaces.Box(-2, 2, ()), ["action"]),
    "unbounded": (gym.spaces.Box(-np.inf, np.inf, (2,), np.float64), ["action.0", "action.1"]),
    "small": (gym.spaces.Box(-0.1, 0.1, (2,), np.float16), ["action.0", "action.1"]),
    "narrow": (gym.spaces.Box(-0.1, 0.1, (2,), np.float64), ["action.0", "action.1"]),
    "matrix": (gym.spaces.Box(-1, 1, (2, 3)), [f"action.{row}.{column}" for row in range(2) for column in range(3)]),
    "switches": (gym.spaces.MultiBinary((2, 2)), ["action.0.0", "action.0.1", "action.1.0", "action.1.1"]),
    "table": (
        gym.spaces.MultiDiscrete(np.array([[2, 3], [4, 1]])),
        ["action.0.0", "action.0.1", "action.1.0", "action.1.1"],
    ),
    "start": (gym.spaces.Discrete(3, start=-7), ["action"]),
    "columns": (gym.spaces.MultiDiscrete([2, 3], start=[5, -2]), ["head_0", "head_1"]),
    "tuple": (
        gym.spaces.Tuple((gym.spaces.Discrete(3, start=2), gym.spaces.Box(-1, 1, (2,)))),
        ["action.0", "action.1.0", "action.1.1"],
    ),
    "nested": (
        gym.spaces.Dict(
            move=gym.spaces.Box(-1, 1, (1,)),
            hand=gym.spaces.Dict(grip=gym.spaces.MultiBinary(1), turn=gym.spaces.Tuple([gym.spaces.Discrete(2)])),
        ),
        None,
    ),
}


@pytest.mark.parametrize("name", SPACES)
def test_actions_are_of_the_space_in_training_in_act_and_in_eval(toys: Any, tmp_path: Path, name: str) -> None:
    space, names = SPACES[name]
    env = Body(space)
    task = toys.task(env)
    if names is not None:
        assert [head.name for head in task.heads] == names
    agent = agent_for(task, log_std_init=1.0)
    Trainer(agent, task, EsperConfig(ppo=agent.config, run=RunConfig(updates=2))).run()
    assert len(env.taken) == 32
    assert agent.last is not None
    assert agent.last.outcome == "completed"
    evaluate(agent, task, episodes=2, seed=0)

    save_checkpoint(tmp_path / "checkpoint.pt", agent)
    loaded = PPOAgent.load(tmp_path / "checkpoint.pt")
    assert loaded.layout.heads == agent.layout.heads
    for deterministic in (False, True):
        seen = [one.act(np.zeros(2, np.float32), deterministic=deterministic) for one in (agent, loaded)]
        assert space.contains(seen[0]), seen[0]
        assert repr(seen[0]) == repr(seen[1])
    together = loaded.act(np.zeros((5, 2), np.float32))
    for action in gym.vector.utils.iterate(gym.vector.utils.batch_space(space, 5), together):
        assert space.contains(np.asarray(action) if isinstance(action, np.floating) else action), action


def test_names_of_nested_spaces_are_paths(toys: Any) -> None:
    task = toys.task(Body(SPACES["nested"][0]))
    assert sorted(head.name for head in task.heads) == ["hand.grip", "hand.turn.0", "move"]
    named = Body(gym.spaces.Box(-1, 1, (2,)))
    named.head_names = ("steer", "throttle")  # type: ignore[attr-defined]
    assert [head.name for head in toys.task(named).heads] == ["steer", "throttle"]


def test_greedy_is_the_mean_within_its_bounds() -> None:
    agent = agent_of(spread=3.0)
    mean = agent.policy.distribution(shown(), None)[0].mean
    assert mean is not None
    greedy = agent.act(shown().numpy(), deterministic=True)
    np.testing.assert_allclose(
        greedy, np.clip(mean.detach().double().numpy(), [-1, -2], [1, 0.5]), rtol=1e-4, atol=1e-5
    )
    assert (greedy == [1, 0.5]).any(), "something was clipped"


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (gym.spaces.Box(0, 9, (2,), np.int64), "a Box of int64 has no density"),
        (gym.spaces.Box(0, 1, (0,)), "a space of size 0"),
        (gym.spaces.Box(0, 1, (2, 0)), "a space of size 0"),
        (gym.spaces.Dict({}), "a space of size 0"),
        (gym.spaces.Tuple(()), "a space of size 0"),
        (gym.spaces.Text(3), "has action space Text"),
        (gym.spaces.Tuple((gym.spaces.Discrete(2), gym.spaces.Sequence(gym.spaces.Discrete(2)))), "has action space"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_sentence(toys: Any, space: gym.Space[Any], message: str) -> None:
    with pytest.raises(EnvironmentUnsupportedError, match=message) as caught:
        toys.task(Body(space), name="Body-v0")
    assert str(caught.value).startswith("Body-v0 has action space")
    assert caught.value.hint


def test_a_squash_without_bounds_is_refused_by_the_heads_name(toys: Any) -> None:
    task = toys.task(Body(gym.spaces.Box(np.array([-1, 0], np.float32), np.array([1, np.inf], np.float32))))
    with pytest.raises(EnvironmentUnsupportedError, match=r"ppo.squash = true needs bounds, and head action.1 goes"):
        agent_for(task, squash=True)


def test_masks_of_choices_where_there_are_none_are_refused(toys: Any) -> None:
    task = toys.task(Body(gym.spaces.Box(-1, 1, (2,)), action_mask=np.ones(2, dtype=bool)))
    with pytest.raises(EnvironmentContractError, match="no head has choices"):
        task.reset()
    gated = make_task(EnvConfig(id="Pendulum-v1", n_envs=1), seed=0)
    gated.close()
    env = Body(gym.spaces.Box(-1, 1, (2,)))
    env.conditioning_head = "action.0"  # type: ignore[attr-defined]
    with pytest.raises(EnvironmentUnsupportedError, match="has no choices"):
        toys.task(env)


# --- checkpoints ------------------------------------------------------------------------------


def test_a_file_that_was_written_before_heads_had_kinds_loads(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    agent = PPOAgent([HeadSpec("a", 3), HeadSpec("b", 2)], (4,), PPOConfig(hidden=(8,)))
    save_checkpoint(path, agent)
    content = torch.load(path, weights_only=True)
    del content["action_form"]
    for key in ("log_std_init", "squash"):
        del content["config"][key]
    assert content["heads"] == [("a", 3), ("b", 2)]
    torch.save(content, path)
    assert load_checkpoint(path).action_form is None
    loaded = PPOAgent.load(path)
    seen = np.random.default_rng(0).normal(size=(20, 4))
    np.testing.assert_array_equal(loaded.act(seen), agent.act(seen))


@pytest.mark.parametrize(
    "change",
    [
        {"action_form": {"dtype": "float32", "shape": [3]}},
        {"action_form": {"dtype": "no dtype", "shape": [2]}},
        {"action_form": {"parts": [{}, {}], "keys": ["a"]}},
        {"heads": [("arm.0", 0, "gaussian", -1.0, 1.0), ("arm.1", 0, "gaussian", "low", 1.0)]},
        {"heads": [("arm.0", 0, "gaussian", -1.0, 1.0), ("arm.1", 0)]},
    ],
)
def test_a_file_whose_heads_cannot_be_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, agent_of(ARM))
    torch.save(torch.load(path, weights_only=True) | change, path)
    with pytest.raises(EsperError):
        PPOAgent.load(path)


def test_a_resume_with_other_bounds_or_another_squash_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    agent = agent_of(ARM)
    save_checkpoint(path, agent)
    restore(agent_of(ARM), load_checkpoint(path))
    with pytest.raises(ConfigError, match=r"another ppo.squash: False, this run has True"):
        restore(agent_of(ARM, squash=True), load_checkpoint(path))
    with pytest.raises(ConfigError, match="another heads"):
        restore(agent_of(MIXED), load_checkpoint(path))


# --- learning ---------------------------------------------------------------------------------


@pytest.mark.parametrize("squash", [False, True])
def test_a_gaussian_head_learns_where_the_reward_is(toys: Any, squash: bool) -> None:  # a parameter
    class Target(Body):
        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            shown, _, _, _, info = super().step(action)
            return shown, -float(abs(action[0] - 1.2)), True, False, info

    task = toys.task(Target(gym.spaces.Box(-2, 2, (1,))))
    agent = agent_for(task, rollout_steps=64, epochs=8, minibatch_size=64, learning_rate=2e-2, squash=squash)
    Trainer(agent, task, EsperConfig(ppo=agent.config, run=RunConfig(updates=20))).run()
    assert float(agent.act(np.zeros(2), deterministic=True)[0]) == pytest.approx(1.2, abs=0.4)
