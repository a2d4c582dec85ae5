"""What training, evaluation and ``act`` show to the policy is the same, for every space."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper_core.config.schema import PPOConfig
from esper_core.envs.gate import gated
from esper_core.envs.observations import form_of
from esper_core.errors import ConfigError, EnvironmentContractError, EnvironmentUnsupportedError, UsageError
from esper_core.ppo import HeadSpec, PPOAgent, Rollout, load_checkpoint, save_checkpoint
from esper_core.ppo.checkpoint_fit import check_environment, restore
from esper_core.ppo.collector import Collector
from esper_core.ppo.evaluation import evaluate
from esper_core.ppo.preprocessing import ObservationForm, Preprocessing

pytestmark = pytest.mark.numeric


class Film(gym.Env[Any, Any]):
    """Shows the same samples of a space in every episode; keeps what it showed."""

    def __init__(self, space: gym.Space[Any], length: int = 3) -> None:
        self.observation_space = space
        self.action_space = gym.spaces.Discrete(2)
        space.seed(5)
        self.frames = [space.sample() for _ in range(length + 1)]
        self.at = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.at = 0
        return self.frames[0], {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.at += 1
        return self.frames[self.at], 1.0, False, self.at == len(self.frames) - 1, {}


class Witness(PPOAgent):
    """Keeps every row that its policy reads."""

    def actor(self, n_envs: int) -> Any:
        acting = super().actor(n_envs)

        def act(rows: Any, *args: Any) -> Any:
            self.rows.append(torch.from_numpy(rows.copy()))
            return acting(rows, *args)

        return act

    @property
    def rows(self) -> list[torch.Tensor]:
        found: list[torch.Tensor] = self.__dict__.setdefault("seen_rows", [])
        return found


def _boxes() -> st.SearchStrategy[gym.Space[Any]]:
    shapes = st.lists(st.integers(1, 3), min_size=0, max_size=3).map(tuple)
    floats = st.builds(
        lambda shape, dtype: gym.spaces.Box(-3, 3, shape, dtype), shapes, st.sampled_from([np.float32, np.float64])
    )
    whole = st.builds(
        lambda shape, dtype: gym.spaces.Box(0, 9, shape, dtype), shapes, st.sampled_from([np.int64, np.uint8, np.int8])
    )
    pixels = st.sampled_from([(6, 6, 3), (2, 6, 6)]).map(lambda shape: gym.spaces.Box(0, 255, shape, np.uint8))
    return st.one_of(floats, whole, pixels)


def _spaces() -> st.SearchStrategy[gym.Space[Any]]:
    start = st.integers(-3, 3)
    simple = st.one_of(
        _boxes(),
        st.builds(lambda n, first: gym.spaces.Discrete(n, start=first), st.integers(1, 5), start),
        st.lists(st.integers(1, 4), min_size=1, max_size=3).map(gym.spaces.MultiDiscrete),
        st.just(gym.spaces.MultiDiscrete(np.array([[2, 3], [4, 1]]))),
        st.integers(1, 5).map(gym.spaces.MultiBinary),
    )
    return st.recursive(
        simple,
        lambda inner: st.one_of(
            st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, min_size=1, max_size=3).map(gym.spaces.Dict),
            st.lists(inner, min_size=1, max_size=3).map(gym.spaces.Tuple),
        ),
        max_leaves=4,
    )


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(space=_spaces(), normalise=st.booleans())
def test_training_evaluation_and_act_show_the_policy_the_same(
    toys: Any, space: gym.Space[Any], normalise: bool
) -> None:
    env = Film(space)
    task = toys.task(env)
    form = task.observation_form
    config = PPOConfig(
        rollout_steps=3, minibatch_size=3, epochs=1, hidden=(4,), policy="mlp", normalise_observations=normalise
    )
    agent = Witness(task.heads, task.obs_shape, config, form=form)
    collector = Collector(agent, task)
    for _ in range(2):
        collected = collector.collect(lambda _: None, lambda: False)
        assert collected.batch is not None
        agent.update(Rollout(collected.batch, raw=collected.raw))
    agent.rows.clear()
    batch = collector.collect(lambda _: None, lambda: False).batch
    assert batch is not None
    trained = torch.cat(agent.rows)
    torch.testing.assert_close(batch.observations, trained, rtol=0, atol=0)
    assert trained.isfinite().all()
    agent.rows.clear()
    evaluate(agent, task, episodes=1, seed=0)
    torch.testing.assert_close(torch.cat(agent.rows), trained, rtol=0, atol=0)
    agent.rows.clear()
    for frame in env.frames[:3]:
        assert np.shape(agent.act(frame)) == ()
    torch.testing.assert_close(torch.cat(agent.rows), trained, rtol=0, atol=0)
    agent.rows.clear()
    assert agent.act(task.env.observations if hasattr(task.env, "observations") else task.env._observations).shape == (
        1,
    )
    torch.testing.assert_close(torch.cat(agent.rows), trained[:1], rtol=0, atol=0)
    task.close()


def _row(space: gym.Space[Any], observation: Any) -> list[float]:
    row: list[float] = Preprocessing(form_of(space, "Odd-v0")).read(observation)[0][0].tolist()
    return row


def test_bytes_are_scaled_by_the_bounds_of_their_space() -> None:
    assert _row(gym.spaces.Box(0, 1, (2,), np.uint8), np.array([0, 1], np.uint8)) == [0.0, 1.0]
    assert _row(gym.spaces.Box(0, 255, (2,), np.uint8), np.array([0, 51], np.uint8)) == pytest.approx([0.0, 0.2])
    uneven = gym.spaces.Box(np.array([0, 10, 7], np.uint8), np.array([4, 20, 7], np.uint8), dtype=np.uint8)
    assert _row(uneven, np.array([1, 15, 7], np.uint8)) == pytest.approx([0.25, 0.5, 0.0])
    assert _row(gym.spaces.Box(0, 255, (1,), np.float32), np.array([51.0], np.float32)) == [51.0]


def test_parts_lie_one_after_another() -> None:
    space = gym.spaces.Dict(place=gym.spaces.Discrete(3, start=1), more=gym.spaces.Tuple([gym.spaces.MultiBinary(2)]))
    assert _row(space, {"more": ([1, 0],), "place": 3}) == [0.0, 0.0, 1.0, 1.0, 0.0]
    assert str(form_of(space, "x")) == "place: one-hot choices of 3; more.0: numbers (2,) of int8"


@pytest.mark.parametrize(
    ("space", "kind"),
    [
        (gym.spaces.Box(0, 255, (84, 84, 3), np.uint8), "image"),
        (gym.spaces.Box(0, 255, (4, 84, 84), np.uint8), "image"),
        (gym.spaces.Box(0, 255, (4, 84, 84, 3), np.uint8), "image"),
        (gym.spaces.Box(0, 255, (84, 84), np.uint8), "image"),
        (gym.spaces.Box(0, 1, (10, 10, 4), bool), "image"),  # type: ignore[arg-type]  # Gymnasium takes it, MinAtar has it
        (gym.spaces.Box(0, 1, (64, 64, 3), np.float32), "image"),
        (gym.spaces.Box(0, 255, (128,), np.uint8), "numbers"),
        (gym.spaces.Box(0, 255, (10, 10), np.uint8), "numbers"),
        (gym.spaces.Box(0, 2, (10, 10, 3), np.uint8), "numbers"),
        (gym.spaces.Box(-1, 1, (64, 64, 3), np.float32), "numbers"),
        (gym.spaces.Box(0, 1, (3, 3, 2), np.float32), "numbers"),
    ],
)
def test_an_image_is_known_by_shape_and_bounds(space: gym.Space[Any], kind: str) -> None:
    assert form_of(space, "x").parts[0].kind == kind


@pytest.mark.parametrize(
    ("space", "observation", "message"),
    [
        (gym.spaces.Box(0, 255, (2,), np.uint8), np.array([0.1, 0.2]), "dtype float64, not uint8"),
        (gym.spaces.Box(0, 255, (2,), np.uint8), [1, 300], "values from 1 to 300, beyond uint8"),
        (gym.spaces.Box(-1, 1, (2, 2)), np.zeros(4), r"shape \(4,\), not \(2, 2\)"),
        (gym.spaces.Box(-1, 1, (2,)), np.zeros((2, 3, 2)), r"shape \(2, 3, 2\)"),
        (gym.spaces.Box(-1, 1, (2,)), "ab", "dtype <U2, not float32"),
        (gym.spaces.Discrete(3), np.eye(3)[1], "dtype float64, not int64"),
        (gym.spaces.Dict(a=gym.spaces.Discrete(3)), {"b": 1}, "act[(][)]: a is missing"),
        (gym.spaces.Dict(a=gym.spaces.Discrete(3)), 1, "act[(][)]: a is missing"),
        (
            gym.spaces.Tuple([gym.spaces.Discrete(3), gym.spaces.Discrete(2)]),
            (np.array([1, 2]), 0),
            "not of equally many environments",
        ),
    ],
)
def test_act_refuses_what_the_policy_was_not_trained_on(space: gym.Space[Any], observation: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        _row(space, observation)


def test_act_refuses_a_choice_outside_its_space() -> None:
    with pytest.raises(EnvironmentContractError, match=r"observation is 3, outside its observation_space"):
        _row(gym.spaces.Discrete(3), 3)


def test_a_wrong_part_of_an_observation_is_named() -> None:
    class Liar(Film):
        def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
            return {"a": np.zeros(3, np.float32)}, super().reset(**options)[1]

    env = gated(Liar(gym.spaces.Dict(a=gym.spaces.Box(-1, 1, (2,)), b=gym.spaces.Discrete(2))), "Liar-v0", 1)
    with pytest.raises(EnvironmentContractError, match=r"Liar-v0, environment 1, a: observation has shape \(3,\)"):
        env.reset()


def test_an_observation_without_elements_or_of_free_length_is_refused() -> None:
    with pytest.raises(EnvironmentUnsupportedError, match="no elements"):
        form_of(gym.spaces.Dict({}), "x")
    with pytest.raises(EnvironmentUnsupportedError, match="Sequence"):
        form_of(gym.spaces.Sequence(gym.spaces.Discrete(2)), "x")


# --- in the checkpoint ----------------------------------------------------------------------------------


def _agent(task: Any, **ppo: Any) -> PPOAgent:
    return PPOAgent(task.heads, task.obs_shape, PPOConfig(hidden=(4,), **ppo), form=task.observation_form)


def test_the_form_is_in_the_checkpoint_and_another_one_is_refused(toys: Any, tmp_path: Any) -> None:
    task = toys.task(Film(gym.spaces.Dict(pixel=gym.spaces.Box(0, 255, (1,), np.uint8), at=gym.spaces.Discrete(3))))
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, _agent(task), environment="toy")
    agent = PPOAgent.load(path)
    assert agent.observation_form == task.observation_form
    assert agent.act({"pixel": np.array([3], np.uint8), "at": 2}).shape == ()
    other = toys.task(Film(gym.spaces.Dict(pixel=gym.spaces.Box(0, 9, (1,), np.uint8), at=gym.spaces.Discrete(3))))
    message = r"reads pixel: numbers \(1,\) of uint8 scaled from 0..255; at: one-hot choices of 3, and toy shows .*0..9"
    with pytest.raises(ConfigError, match=message):
        check_environment(load_checkpoint(path), other)
    with pytest.raises(ConfigError, match="another preprocessing"):
        restore(_agent(other), load_checkpoint(path))


def test_a_checkpoint_of_0_1_is_read_as_it_was_written(toys: Any, tmp_path: Any) -> None:
    """Bytes by 255 whatever their bounds, images in dense layers, and the trunk's layers under their old names."""
    task = toys.task(Film(gym.spaces.Box(0, 5, (2,), np.uint8)))
    path = tmp_path / "checkpoint.pt"
    agent = _agent(task)
    save_checkpoint(path, agent)
    content = torch.load(path, weights_only=True)
    del content["observation_form"], content["state"]["observations"], content["state"]["rewards"]
    for key in ("policy", "activation", "shared_trunk", "normalise_observations", "normalise_rewards"):
        del content["config"][key]
    content["state"]["policy"] = {
        name.replace("trunk.", "trunk_"): weight for name, weight in content["state"]["policy"].items()
    }
    torch.save(content, path)
    old = load_checkpoint(path)
    assert (old.observation_form, old.config.policy) == (None, "mlp")
    task.read_as(old.observation_form)
    assert task.reset(0).values.max() <= 5 / 255
    resumed = _agent(task)
    restore(resumed, old)
    assert resumed.policy.state_dict().keys() == agent.policy.state_dict().keys()
    # What the resumed run writes is read in the same way again.
    save_checkpoint(path, resumed)
    later = toys.task(Film(gym.spaces.Box(0, 5, (2,), np.uint8)))
    later.read_as(load_checkpoint(path).observation_form)
    check_environment(load_checkpoint(path), later)
    assert PPOAgent.load(path).act(np.zeros(2, np.uint8)).shape == ()


def test_an_agent_without_a_form_reads_rows(tmp_path: Any) -> None:
    agent = PPOAgent([HeadSpec("action", 3)], (2, 2))
    assert agent.observation_form == ObservationForm.numbers((2, 2))
    assert agent.act(np.zeros((5, 2, 2))).shape == (5,)
