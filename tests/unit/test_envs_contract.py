"""Gymnasium's vector contract: one environment and many, in this process and in others, are read alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorWrapper
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from present import creator

from esper_core.config.schema import EnvConfig, EsperConfig, PPOConfig, RunConfig
from esper_core.envs.adapter import GymTask, make_task
from esper_core.envs.gate import gated
from esper_core.envs.info import keep_batching
from esper_core.errors import EnvironmentContractError, EnvironmentUnsupportedError
from esper_core.ppo import PPOAgent, Trainer

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.numeric

SIZES = (2, 3)
STEPS = 6
N = 3
FORMS: dict[str, Any] = {
    "bool": lambda rows: np.array(rows, dtype=bool),
    "int8": lambda rows: np.array(rows, dtype=np.int8),
    "list": lambda rows: np.array(rows, dtype=bool).tolist(),
}


def scripted(script: list[dict[str, Any]]) -> Any:
    return [dict(entry) for entry in script]


class Scripted(gym.Env[Any, Any]):
    """Plays a script: what each step, and the reset after it, puts into ``info``, and whether the episode ends.

    It writes into the arrays that it returned before, as simulators with one buffer do.
    """

    head_names = ("gear", "lane")
    conditioning_head = "gear"
    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gym.spaces.MultiDiscrete(list(SIZES))

    def __init__(self) -> None:
        self.script: list[dict[str, Any]] = [{"end": "", "info": {}, "after": {}}]
        self.place = 0
        self.buffer = np.zeros(1, np.float32)
        self.held: list[Any] = []

    def _info(self, entry: dict[str, Any]) -> dict[str, Any]:
        for mask in self.held:
            mask[...] = False
        info = {key: FORMS[form](rows) if form in FORMS else rows for key, (form, rows) in entry.items()}
        self.held = [value for value in info.values() if isinstance(value, np.ndarray)]
        return info

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if seed is not None:
            self.place = 0
        self.buffer[0] = -1.0
        return self.buffer, self._info(self.script[max(self.place - 1, 0)]["after"])

    def step(self, action: Any) -> Any:
        entry = self.script[self.place]
        self.place += 1
        self.buffer[0] = self.place
        return self.buffer, 1.0, entry["end"] == "terminated", entry["end"] == "truncated", self._info(entry["info"])


def bits(*shape: int) -> st.SearchStrategy[Any]:
    """Masks that leave both heads a choice."""

    def mend(flat: list[bool]) -> Any:
        rows = np.array(flat).reshape(shape)
        for begin, end in ((0, SIZES[0]), (SIZES[0], sum(SIZES))):
            rows[..., begin] |= ~rows[..., begin:end].any(-1)
        return rows.tolist()

    count = int(np.prod(shape))
    return st.lists(st.booleans(), min_size=count, max_size=count).map(mend)


def formed(rows: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.tuples(st.sampled_from(sorted(FORMS)), rows)


CONDITIONAL = bits(SIZES[0], sum(SIZES)).map(lambda rows: [[True] * SIZES[0] + row[SIZES[0] :] for row in rows])
JUNK = st.sampled_from([3, None, "text", 0.5, 10**30, [1, 2], np.zeros(2), np.zeros((1, 3)), {"a": 1}, {"a": None}])
INFO = st.fixed_dictionaries(
    {},
    optional={
        "action_mask": formed(bits(sum(SIZES))),
        "conditional_action_mask": formed(CONDITIONAL),
        "causal_mask": formed(st.lists(st.booleans(), min_size=2, max_size=2)),
        "junk": st.tuples(st.just("junk"), JUNK),
        "final_thing": st.tuples(st.just("junk"), JUNK),
    },
)
ENTRY = st.fixed_dictionaries(
    {"end": st.sampled_from(["", "", "terminated", "truncated"]), "info": INFO, "after": INFO}
)
SCRIPTS = st.lists(st.lists(ENTRY, min_size=STEPS, max_size=STEPS), min_size=N, max_size=N)


def allowed(action: Any, conditional: Any) -> tuple[Any, Any]:
    """What the first head may choose, and what each of its choices leaves to the second."""
    flat = np.ones(sum(SIZES), bool) if action is None else np.array(action, bool)
    rows = np.ones((SIZES[0], sum(SIZES)), bool) if conditional is None else np.array(conditional, bool)
    first = flat[: SIZES[0]] if action is not None else rows[:, : SIZES[0]].diagonal()
    return first.tolist(), (rows & flat)[:, SIZES[0] :].tolist()


def expected(script: list[dict[str, Any]]) -> list[Any]:
    """By hand: no mask means every choice and every head."""
    seen = []
    for number, entry in enumerate(script, 1):
        shown = entry["after"] if entry["end"] else entry["info"]
        masks = {key: value[1] for key, value in shown.items()}
        causal = entry["info"].get("causal_mask", (None, [True, True]))[1]
        last = float(number) if entry["end"] == "truncated" else None
        seen.append((*allowed(masks.get("action_mask"), masks.get("conditional_action_mask")), causal, last))
    return seen


def played(vector: Any, scripts: list[Any]) -> list[list[Any]]:
    """What a task makes of the scripts: one list an environment."""
    vector.set_attr("script", [scripted(script) for script in scripts])
    task = GymTask(vector, name="Scripted-v0")
    task.reset(0)
    seen: list[list[Any]] = [[] for _ in scripts]
    for _ in range(STEPS):
        result = task.step(np.zeros((len(scripts), 2), np.int64))
        action, conditional = result.observation.action_mask, result.observation.conditional_mask
        for index, rows in enumerate(seen):
            causal = [True, True] if result.causal_mask is None else result.causal_mask[index].tolist()
            legal = [None if mask is None else mask[index] for mask in (action, conditional)]
            last = float(result.final_values[index, 0]) if result.truncated[index] else None  # type: ignore[index]
            rows.append((*allowed(*legal), causal, last))
    return seen


def behind_gates(n_envs: int, kind: Any = SyncVectorEnv) -> Any:
    makers = [lambda index=index: gated(Scripted(), "Scripted-v0", index) for index in range(n_envs)]
    return kind(makers, autoreset_mode=AutoresetMode.SAME_STEP)


@settings(max_examples=60, deadline=None)
@given(SCRIPTS)
def test_one_environment_and_many_are_read_alike(scripts: list[Any]) -> None:
    right = [expected(script) for script in scripts]
    assert played(behind_gates(N), scripts) == right
    assert [played(behind_gates(1), [script])[0] for script in scripts] == right


@settings(max_examples=60, deadline=None)
@given(SCRIPTS)
def test_somebody_elses_vector_environment_is_read_alike(scripts: list[Any]) -> None:
    """Gymnasium's own batching, without gates. What it keeps without a copy (last observations, lists) is left out."""
    plain = {"list": "bool"}
    for entry in (entry for script in scripts for entry in script):
        for part in ("info", "after"):
            entry[part] = {key: (plain.get(form, form), rows) for key, (form, rows) in entry[part].items()}
    vector = SyncVectorEnv([Scripted] * N, autoreset_mode=AutoresetMode.SAME_STEP)
    keep_batching(vector)
    right = [[step[:3] for step in expected(script)] for script in scripts]
    assert [[step[:3] for step in rows] for rows in played(vector, scripts)] == right


@pytest.fixture(scope="module")
def asynchronous() -> Iterator[Any]:
    vector = behind_gates(N, AsyncVectorEnv)
    yield vector
    vector.close()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scripts=SCRIPTS)
def test_environments_in_other_processes_are_read_alike(asynchronous: Any, scripts: list[Any]) -> None:
    assert played(asynchronous, scripts) == [expected(script) for script in scripts]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_attributes_come_from_other_processes(asynchronous: Any) -> None:
    task = GymTask(asynchronous, name="Scripted-v0")
    assert [head.name for head in task.heads] == ["gear", "lane"]
    assert (task.conditioning_head, task.causal_table) == ("gear", None)


# --- the same counts ------------------------------------------------------------------------------------------------


class Alternating(gym.Env[Any, Any]):
    """Names a mask on some of its eight steps only."""

    observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
    action_space = gym.spaces.MultiDiscrete([2, 3])

    def _out(self) -> Any:
        info: dict[str, Any] = {"odd": None if self.steps % 3 else np.zeros(self.steps + 1)}
        if self.steps % 4 == 1:
            info["causal_mask"] = np.array([True, False])
        if self.steps in {2, 3}:
            info["action_mask"] = np.array([True, False, True, True, self.steps == 2])
        return np.zeros(1, np.float32), info

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.steps = 0
        return self._out()

    def step(self, action: Any) -> Any:
        self.steps += 1
        observation, info = self._out()
        return observation, 1.0, False, self.steps == 8, info


@pytest.fixture
def registered() -> Iterator[None]:
    gym.register("Alternating-v0", creator(Alternating))
    gym.register("AlternatingVector-v0", vector_entry_point=creator(_asynchronous))
    yield
    for name in ("Alternating-v0", "AlternatingVector-v0"):
        del gym.registry[name]


def _asynchronous(num_envs: int, **kwargs: Any) -> Any:
    return AsyncVectorEnv([Alternating] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)


def counts(env_id: str, n_envs: int, steps: int) -> Any:
    config = EsperConfig(
        env=EnvConfig(id=env_id, n_envs=n_envs),
        ppo=PPOConfig(rollout_steps=steps, hidden=(4,), epochs=1),
        run=RunConfig(updates=1),
    )
    task = make_task(config.env, seed=0)
    agent = PPOAgent(task.heads, task.obs_shape, config.ppo)
    last = Trainer(agent, task, config).run().last
    task.close()
    assert last is not None
    return last.steps_forced, {head.name: head.decisions for head in last.heads}


@pytest.mark.usefixtures("registered")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_the_same_environment_counts_the_same_for_any_number() -> None:
    torch.set_num_threads(1)
    # Of 8 steps head_0 has one choice on two; head_1 is without effect on the two that lead to steps 1 and 5.
    right = (0, {"head_0": 48, "head_1": 48})
    found = {n: counts("Alternating-v0", n, 64 // n) for n in (1, 4, 8)}
    assert found == dict.fromkeys((1, 4, 8), right)
    assert counts("AlternatingVector-v0", 4, 16) == right


# --- copies and wrappers --------------------------------------------------------------------------------------------


def greedy(actions: Any) -> Any:
    mask = actions > 0
    actions[:] = 0
    return mask


def test_a_causal_mask_function_may_write_into_its_argument(toys: Any) -> None:
    task = toys.task(Scripted(), causal_mask=greedy)
    task.reset()
    actions = np.array([[1, 2]])
    result = task.step(actions)
    assert result.causal_mask.tolist() == [[True, True]]
    assert actions.tolist() == [[1, 2]]


class OneBuffer(gym.vector.VectorEnv[Any, Any, Any]):
    """Two environments as one object, which writes every mask into the same array."""

    num_envs = 2
    single_action_space = gym.spaces.Discrete(2)
    single_observation_space = gym.spaces.Discrete(2)

    def __init__(self) -> None:
        self.metadata = {"autoreset_mode": "SameStep"}
        self.mask = np.ones((2, 2), bool)

    def reset(self, **options: Any) -> Any:
        self.mask[:] = [[True, False], [True, True]]
        return np.zeros(2, np.int64), {"action_mask": self.mask, "causal_mask": np.zeros((2, 1), bool)}

    def step(self, actions: Any) -> Any:
        actions[:] = 7
        self.mask[:] = [[False, True], [False, True]]
        nothing = np.zeros(2, bool)
        return np.ones(2, np.int64), np.ones(2, np.float32), nothing, nothing, {"action_mask": self.mask}


def test_masks_outlive_the_environments_own_array() -> None:
    task = GymTask(OneBuffer(), name="OneBuffer-v0")
    first = task.reset()
    actions = np.array([[0], [1]])
    task.step(actions)
    assert first.action_mask is not None
    assert first.action_mask.tolist() == [[True, False], [True, True]]
    assert actions.tolist() == [[0], [1]]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda r: r[:4], "step\\(\\) returned a tuple of 4 items"),
        (lambda r: (np.ones(3), *r[1:]), r"observation has shape \(3,\)"),
        (lambda r: (np.array([0, 2]), *r[1:]), "environment 1: observation is 2, outside"),
        (lambda r: (r[0], np.ones((2, 1)), *r[2:]), r"reward is an array of shape \(2, 1\)"),
        (lambda r: (r[0], ["a", "b"], *r[2:]), "reward is an array of shape .* and dtype <U1"),
        (lambda r: (*r[:2], np.array([0.0, 1.0]), *r[3:]), "terminated has dtype float64"),
        (lambda r: (*r[:3], False, r[4]), r"truncated has shape \(\)"),
        (lambda r: (*r[:3], np.array([True, False]), {}), 'environment 0: truncates without info\\["final_obs"\\]'),
        (lambda r: (*r[:4], None), "info is None"),
        (lambda r: (*r[:4], {"action_mask": r[4]["action_mask"], "_action_mask": 3}), r'"_action_mask"\] has shape'),
    ],
)
def test_a_batch_is_checked_too(broken: Any, message: str) -> None:
    env = OneBuffer()
    step = env.step
    env.step = lambda actions: broken(step(actions))  # type: ignore[method-assign]
    task = GymTask(env, name="OneBuffer-v0")
    task.reset()
    with pytest.raises(EnvironmentContractError, match=message):
        task.step(np.zeros((2, 1), np.int64))


class Named(gym.Wrapper[Any, Any, Any, Any]):
    """A wrapper that brings names, and a table as a method."""

    head_names = ("x", "y")
    conditioning_head = "y"

    def causal_table(self) -> Any:
        return [[True, True], [False, True], [True, True]]


class NamedVector(VectorWrapper[Any, Any, Any, Any, Any]):
    head_names = ("left", "right")
    conditioning_head = "left"


def test_attributes_of_every_wrapper_are_found(toys: Any) -> None:
    task = toys.task(gym.wrappers.TimeLimit(Named(Alternating()), 3), Named(Alternating()))
    assert [head.name for head in task.heads] == ["x", "y"]
    assert task.causal_table.tolist() == [[True, True], [False, True], [True, True]]
    vector = SyncVectorEnv([lambda: Named(Alternating())] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    outer = GymTask(_without_table(NamedVector(VectorWrapper(vector))), name="wrapped")
    assert [head.name for head in outer.heads] == ["left", "right"]
    with pytest.raises(EnvironmentUnsupportedError, match="do not agree on head_names"):
        toys.task(Named(Alternating()), Other(Alternating()))


def _without_table(env: Any) -> Any:
    env.causal_table = [[True, True], [False, True]]
    return env


class Other(Named):
    head_names = ("y", "x")


def test_a_vector_environment_without_a_mode_is_refused() -> None:
    env = OneBuffer()
    env.metadata = {}
    with pytest.raises(EnvironmentUnsupportedError, match="does not state when it resets"):
        GymTask(env, name="OneBuffer-v0")


# --- environments in other processes that end -----------------------------------------------------------------------


class Ends(Alternating):
    def step(self, action: Any) -> Any:
        if self.steps == 2:
            raise SystemExit(3)
        return super().step(action)


class Wide(Alternating):
    def _out(self) -> Any:
        return np.zeros(1, np.float32), {"action_mask": np.ones(9, bool)}


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning", "ignore:.*(ERROR|WARN):UserWarning")
@pytest.mark.parametrize(
    ("kind", "message"),
    [(Ends, r"the process of an environment has ended .*exit code"), (Wide, r"environment 0: .* shape \(9,\)")],
)
def test_a_fault_in_another_process_is_told_as_one_here(kind: Any, message: str) -> None:
    makers = [lambda: gated(kind(), "Far-v0", 0)]
    task = GymTask(AsyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP), name="Far-v0")

    def play() -> None:
        task.reset()
        for _ in range(4):
            task.step(np.zeros((1, 2), np.int64))

    with pytest.raises(EnvironmentContractError, match=message) as caught:
        play()
    assert isinstance(caught.value.message, str)
    assert "Far-v0" in caught.value.message
    task.close()
