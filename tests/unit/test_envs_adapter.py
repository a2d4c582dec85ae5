"""Any Gymnasium environment, or one clear error."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from esper_core.config.schema import EnvConfig
from esper_core.envs.adapter import GymTask, make_task
from esper_core.envs.masks import MaskReader, load_causal_mask
from esper_core.errors import ConfigError, EnvironmentContractError, EnvironmentUnsupportedError
from esper_core.ppo import HeadSpec

pytestmark = pytest.mark.numeric


class Odd(gym.Env[Any, Any]):
    """Spaces to order."""

    def __init__(self, observation: gym.Space[Any] | None = None, action: gym.Space[Any] | None = None) -> None:
        self.observation_space = observation or gym.spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = action or gym.spaces.Discrete(2)
        self.taken: list[Any] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.taken.append(action)
        return self.observation_space.sample(), 0.0, False, False, {}


def test_cartpole() -> None:
    task = make_task(EnvConfig(id="CartPole-v1", n_envs=3), seed=0)
    assert (task.name, task.heads, task.obs_shape, task.n_envs) == ("CartPole-v1", (HeadSpec("action", 2),), (4,), 3)
    first = task.reset().values.copy()
    task.close()
    again = make_task(EnvConfig(id="CartPole-v1", n_envs=3), seed=0)
    np.testing.assert_array_equal(again.reset().values, first)
    again.close()


@pytest.mark.parametrize(
    ("space", "size"),
    [
        (gym.spaces.Box(-1, 1, (2, 3), np.float64), 6),
        (gym.spaces.Discrete(5, start=2), 5),
        (gym.spaces.MultiDiscrete([2, 3]), 5),
        (gym.spaces.MultiBinary(4), 4),
    ],
)
def test_observations_become_rows_of_numbers(toys: Any, space: gym.Space[Any], size: int) -> None:
    space.seed(0)
    task = toys.task(Odd(observation=space), Odd(observation=space))
    values = task.reset().values
    assert task.obs_shape == (size,)
    assert (values.shape, values.dtype) == ((2, size), np.float32)
    if isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete):
        assert set(np.unique(values)) == {0.0, 1.0}


def test_bytes_are_scaled(toys: Any) -> None:
    space = gym.spaces.Box(0, 255, (3, 2), np.uint8, seed=0)
    values = toys.task(Odd(observation=space)).reset().values
    assert values.dtype == np.float32
    assert 0 <= values.min() < values.max() <= 1


@pytest.mark.parametrize(
    ("space", "heads"),
    [
        (gym.spaces.Discrete(3, start=5), [3]),
        (gym.spaces.MultiDiscrete([2, 4]), [2, 4]),
        (gym.spaces.MultiDiscrete([2, 4], start=[1, -1]), [2, 4]),
    ],
)
def test_actions_fit_the_space(toys: Any, space: gym.Space[Any], heads: list[int]) -> None:
    env = Odd(action=space)
    task = toys.task(env)
    task.reset()
    assert [head.size for head in task.heads] == heads
    for choice in (0, -1):
        task.step(np.array([[choice % size for size in heads]]))
    assert len(env.taken) == 2


@pytest.mark.parametrize(
    "space",
    [gym.spaces.Box(0, 5, (2,), np.int32), gym.spaces.Text(3), gym.spaces.Sequence(gym.spaces.Discrete(2))],
)
def test_unsupported_action_space_is_named(toys: Any, space: gym.Space[Any]) -> None:
    with pytest.raises(EnvironmentUnsupportedError) as caught:
        toys.task(Odd(action=space), name="Odd-v0")
    assert "Odd-v0 has action space" in str(caught.value)
    assert str(space) in str(caught.value)


def test_unsupported_observation_space_is_named(toys: Any) -> None:
    with pytest.raises(EnvironmentUnsupportedError, match=r"Odd-v0 has observation space Text.* at a"):
        toys.task(Odd(observation=gym.spaces.Dict(a=gym.spaces.Text(2))), name="Odd-v0")


def test_next_step_autoreset_is_refused() -> None:
    env = SyncVectorEnv([Odd], autoreset_mode=AutoresetMode.NEXT_STEP)
    with pytest.raises(EnvironmentUnsupportedError, match="not in the same step"):
        GymTask(env, name="Odd-v0")


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("CartPole-v9", "no environment"),
        ("CartPol-v1", 'did you mean "CartPole-v1"'),
        ("no_such_package:Env-v0", "no_such_package"),
    ],
)
def test_unknown_environment(env_id: str, message: str) -> None:
    with pytest.raises(EnvironmentUnsupportedError, match=message):
        make_task(EnvConfig(id=env_id), seed=0)


def test_wrong_keyword_is_one_clear_error() -> None:
    with pytest.raises(EnvironmentUnsupportedError, match="colour"):
        make_task(EnvConfig(id="CartPole-v1", kwargs={"colour": 1}), seed=0)


def test_registered_by_its_own_module(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("odd_package")
    module.Odd = Odd  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "odd_package", module)
    gym.register("OddTest-v0", entry_point="odd_package:Odd")
    try:
        task = make_task(EnvConfig(id="odd_package:OddTest-v0", n_envs=2), seed=0)
        assert task.n_envs == 2
        task.close()
    finally:
        del gym.registry["OddTest-v0"]


# --- masks --------------------------------------------------------------------------------------------


def reader(conditioning: int | None = None) -> MaskReader:
    return MaskReader("Env-v0", [HeadSpec("a", 2), HeadSpec("b", 3)], 2, conditioning)


def test_masks_are_optional() -> None:
    assert reader().legal({}) == (None, None)
    assert reader(0).legal({}) == (None, None)
    assert reader().causal({}, np.zeros(2, dtype=bool), None) is None


def test_mask_of_wrong_shape_says_what_it_should_be() -> None:
    with pytest.raises(EnvironmentContractError, match=r"shape \(2, 4\), expected \(2, 5\)"):
        reader().legal({"action_mask": np.ones((2, 4), dtype=bool)})


def test_mask_without_a_legal_choice_names_environment_and_head() -> None:
    mask = np.ones((2, 5), dtype=bool)
    mask[1, 2:] = False
    said = r'environment 1: info\["action_mask"\] or action_masks\(\) leaves head b no legal'
    with pytest.raises(EnvironmentContractError, match=said):
        reader().legal({"action_mask": mask})


def test_conditional_mask_gives_heads_without_effect_one_choice_to_name() -> None:
    mask = np.zeros((2, 2, 5), dtype=bool)
    mask[..., :2] = True
    mask[:, 1, 3] = True
    _, safe = reader(0).legal({"conditional_action_mask": mask})
    assert safe is not None
    assert safe[0, 0].tolist() == [True, True, True, False, False]
    assert safe[0, 1].tolist() == [True, True, False, True, False]


def test_causal_mask_of_a_finished_episode_is_its_own() -> None:
    info = {
        "causal_mask": np.array([[True, True], [True, True]]),
        "final_info": {"causal_mask": np.array([[False, False], [True, False]])},
    }
    mask = reader().causal(info, np.array([False, True]), None)
    assert mask is not None
    assert mask.tolist() == [[True, True], [True, False]]


def test_users_causal_mask(monkeypatch: pytest.MonkeyPatch, toys: Any) -> None:
    module = ModuleType("my_masks")
    module.causal = lambda actions: actions > 0  # type: ignore[attr-defined]
    module.wrong = lambda actions: actions[:, 0] > 0  # type: ignore[attr-defined]
    module.number = 3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_masks", module)
    task = toys.task(Odd(action=gym.spaces.MultiDiscrete([2, 2])), causal_mask=load_causal_mask("my_masks:causal"))
    task.reset()
    result = task.step(np.array([[1, 0]]))
    assert result.causal_mask is not None
    assert result.causal_mask.tolist() == [[True, False]]
    task = toys.task(Odd(action=gym.spaces.MultiDiscrete([2, 2])), causal_mask=load_causal_mask("my_masks:wrong"))
    task.reset()
    with pytest.raises(EnvironmentContractError, match=r"causal mask has shape \(1,\), expected \(1, 2\)"):
        task.step(np.array([[1, 0]]))
    for spec, message in [
        ("my_masks", "not of the form"),
        ("my_masks:absent", "has no absent"),
        ("my_masks:number", "cannot be called"),
        ("os:getcwd", r"takes \(\), not one argument"),
        ("no_such_module:f", "no_such_module"),
    ]:
        with pytest.raises(ConfigError, match=message):
            load_causal_mask(spec)


def test_unknown_conditioning_head_is_named(toys: Any) -> None:
    env = Odd(action=gym.spaces.MultiDiscrete([2, 2]))
    env.conditioning_head = "operation"  # type: ignore[attr-defined]
    with pytest.raises(EnvironmentUnsupportedError, match='conditioning_head "operation" is no head'):
        toys.task(env)


def test_gymnasium_environment_with_masks_of_its_own() -> None:
    """Taxi brings ``action_mask`` in its info, as int8, also after a reset within a step."""
    taxi = max(name for name in gym.registry if name.startswith("Taxi-v"))
    task = make_task(EnvConfig(id=taxi, n_envs=2), seed=0)
    observation = task.reset()
    for _ in range(250):
        assert observation.action_mask is not None
        assert observation.action_mask.shape == (2, 6)
        choice = np.argmax(observation.action_mask, axis=1)
        observation = task.step(choice[:, None]).observation
    task.close()
