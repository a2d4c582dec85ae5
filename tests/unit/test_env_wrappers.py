"""``[env]`` wrappers by name, masks by method, worker processes, and the seeds of environments."""

from __future__ import annotations

import importlib
import itertools
import multiprocessing
import os
import threading
from multiprocessing import forkserver
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import pytest
from present import creator

from esper_core.config.schema import EnvConfig
from esper_core.envs.adapter import make_task
from esper_core.envs.seeds import environment_seeds, episode_seed
from esper_core.envs.wrappers import load_wrappers
from esper_core.errors import EnvironmentContractError, EnvironmentUnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SINGLE = EnvConfig(id="Masked-v0", n_envs=2)


class Masked(gym.Env[Any, Any]):
    """Tells its first observation; both masks allow one choice, ``info`` the second and the method the third."""

    observation_space = gym.spaces.Box(0, 1, (2, 2), np.float32)
    action_space = gym.spaces.Discrete(3)

    def __init__(self, *, tells: bool = True, fails: str = "") -> None:
        self.tells, self.fails = tells, fails

    def action_masks(self) -> list[bool]:
        return [False, False, True]

    def _info(self) -> dict[str, Any]:
        return {"action_mask": np.array([False, True, False])} if self.tells else {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return self.np_random.random((2, 2), dtype=np.float32), self._info()

    def step(self, action: Any) -> Any:
        if self.fails == "exit":
            raise SystemExit(3)
        if self.fails == "raise":
            raise Picky("odd", "words")
        if self.fails == "child":
            multiprocessing.Process().start()
        return self.np_random.random((2, 2), dtype=np.float32), 1.0, False, False, self._info()

    def close(self) -> None:
        if self.fails == "close":
            raise ValueError("stuck")


class Picky(Exception):  # noqa: N818  # a user's
    """Cannot be unpickled: it needs two arguments and keeps one."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} {two}")


class Maskless(gym.Wrapper[Any, Any, Any, Any]):
    """Hides its environment's method behind one of its own."""

    def action_masks(self) -> list[bool]:
        return [True, False, False]


def doubled(env: gym.Env[Any, Any], *, by: float = 2.0) -> gym.Env[Any, Any]:
    return gym.wrappers.TransformReward(env, lambda reward: by * float(reward))


def nothing(env: gym.Env[Any, Any]) -> None:
    return None


@pytest.fixture(autouse=True, scope="module")
def _registered() -> Iterator[None]:
    gym.register("Masked-v0", creator(Masked))
    yield
    del gym.registry["Masked-v0"]


def settings(**env: Any) -> EnvConfig:
    usual: dict[str, Any] = {"id": "Masked-v0", "n_envs": 2}
    return EnvConfig(**(usual | env))


# --- wrappers -------------------------------------------------------------------------------------


def test_wrappers_stand_around_each_environment_the_first_innermost() -> None:
    flat = make_task(settings(wrappers=("FlattenObservation", "FrameStackObservation?stack_size=3")), seed=0)
    square = make_task(settings(wrappers=("FrameStackObservation?stack_size=3", "FlattenObservation")), seed=0)
    assert (flat.spaces[0], square.spaces[0]) == ("Box(0..1, (3, 4), float32)", "Box(0..1, (12,), float32)")
    rewards = f"{__name__}:doubled?by=3.0"
    task = make_task(settings(wrappers=(rewards, f"{__name__}:doubled")), seed=0)
    task.reset()
    assert task.step(np.zeros((2, 1), np.int64)).reward.tolist() == [6.0, 6.0]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("", "names no wrapper"),
        (":X", "names no wrapper"),
        ("gymnasium.wrapper:ClipReward", 'no module named gymnasium.wrapper, did you mean "gymnasium.wrappers"'),
        ("gymnasum.wrappers:ClipReward", 'no module named gymnasum.wrappers, did you mean "gymnasium.wrappers"'),
        ("FrameStack", 'has no FrameStack, did you mean "'),
        ("ClipReward?min_rewrd=0", 'no argument "min_rewrd", did you mean "min_reward"'),
        ("ClipReward?min_reward", "is no key=value"),
        ("ClipReward?min_reward=0&min_reward=1", "gives min_reward twice"),
        ("FrameStackObservation", "needs stack_size"),
        ("gymnasium.wrappers.vector:ClipReward", 'wraps vector environments.*\n  use "ClipReward"'),
        ("vector:ClipReward", "wraps vector environments"),
        ("NormalizeObservation", "ppo.normalise_observations"),
        ("Autoreset", "begins the next episode itself"),
        ("math:pi", "pi cannot be called"),
        (f"{__name__}:SINGLE", "cannot be called"),
    ],
)
def test_a_wrong_wrapper_is_named_with_the_nearest_right_one(entry: str, message: str) -> None:
    with pytest.raises(EnvironmentUnsupportedError, match=message) as caught:
        load_wrappers(("ClipReward?max_reward=1.0", entry))
    assert f'env.wrappers[1] "{entry}"' in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("GrayscaleObservation", r'env.wrappers\[0\] "GrayscaleObservation" cannot wrap this environment: .*\n.*Box'),
        ("FrameStackObservation?stack_size=nine", "cannot wrap this environment: TypeError"),
        (f"{__name__}:nothing", "returned a NoneType, not an environment"),
    ],
)
def test_a_wrapper_that_does_not_fit_is_refused_before_a_run(entry: str, message: str) -> None:
    with pytest.raises(EnvironmentUnsupportedError, match=message):
        make_task(settings(wrappers=(entry,)), seed=0)


def test_values_are_those_of_toml() -> None:
    (wrapper,) = load_wrappers(["ResizeObservation?shape=[8, 4]"])
    assert wrapper.arguments == {"shape": (8, 4)}  # what it declares; Gymnasium refuses a list
    (wrapper,) = load_wrappers([f'{__name__}:doubled?by="a&b"'])
    assert wrapper.arguments == {"by": "a&b"}


@pytest.mark.parametrize(
    "env", [{"wrappers": ("ClipReward",)}, {"vector": "async"}, {"masks": "method"}, {"seed_episodes": True}]
)
def test_a_vector_environment_without_single_ones_refuses_what_is_for_those(env: dict[str, Any]) -> None:
    gym.register("Whole-v0", vector_entry_point=creator(lambda num_envs: None))
    try:
        with pytest.raises(EnvironmentUnsupportedError, match=f"env.{next(iter(env))}.* is for single environments"):
            make_task(EnvConfig(id="Whole-v0", **env), seed=0)
    finally:
        del gym.registry["Whole-v0"]


# --- masks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("masks", "tells", "wrappers", "legal"),
    [
        ("auto", True, (), [0, 1, 0]),
        ("auto", False, (), [0, 0, 1]),
        ("info", True, (), [0, 1, 0]),
        ("info", False, (), None),
        ("method", True, (), [0, 0, 1]),
        ("method", False, (f"{__name__}:Maskless", "FlattenObservation"), [1, 0, 0]),
        ("off", True, (), None),
    ],
)
def test_masks_come_from_where_env_masks_says(masks: Any, tells: bool, wrappers: Any, legal: Any) -> None:
    task = make_task(settings(masks=masks, kwargs={"tells": tells}, wrappers=wrappers), seed=0)
    for shown in (task.reset(), task.step(np.zeros((2, 1), np.int64)).observation):
        mask = shown.action_mask
        assert (mask if mask is None else mask.astype(int).tolist()) == (legal if legal is None else [legal] * 2)


def test_masks_by_method_need_the_method() -> None:
    with pytest.raises(EnvironmentUnsupportedError, match=r"has no action_masks\(\)"):
        make_task(EnvConfig(id="CartPole-v1", n_envs=1, masks="method"), seed=0)


# --- seeds ----------------------------------------------------------------------------------------


def test_no_two_runs_share_an_environment_by_their_seeds() -> None:
    seeds = [environment_seeds(seed, 16) for seed in range(64)]
    assert len(set(itertools.chain(*seeds))) == 16 * 64
    assert all(0 <= seed < 2**31 for seed in itertools.chain(*seeds))
    assert environment_seeds(5, 2) == environment_seeds(5, 16)[:2]
    assert len({episode_seed(base, episode) for base in seeds[0] for episode in range(64)}) == 16 * 64
    first, second = (make_task(settings(), seed=seed).reset().values for seed in (0, 1))
    assert not (first[1] == second[0]).any()


def test_a_seeded_episode_is_the_same_whatever_came_before_it() -> None:
    task = make_task(settings(seed_episodes=True, kwargs={}, n_envs=1), seed=4)
    (base,) = environment_seeds(4, 1)
    shown = [task.reset().values, task.reset(9).values, task.reset(4).values]
    assert (shown[0] == shown[2]).all()
    alone = Masked()
    assert (shown[0][0] == alone.reset(seed=episode_seed(base, 0))[0].ravel()).all()


# --- worker processes -----------------------------------------------------------------------------


INTERRUPTED = """
import os, signal
if os.getpid() != TRAINER:
    os.kill(os.getpid(), signal.SIGINT)
from gymnasium.envs.classic_control import CartPoleEnv
class Imported(CartPoleEnv): pass
"""
"""Ctrl-C reaches a worker while it imports what it is to make."""


def test_worker_processes_play_what_this_process_plays_and_end_the_run_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """One test, since the fork server takes seconds to start in each process that runs tests."""
    # One that another test started is none of ours: Ctrl-C reaches its workers.
    forkserver._forkserver._stop()  # type: ignore[attr-defined]  # for tests, says its comment
    wrappers = (f"{__name__}:doubled", "FlattenObservation")
    made = [settings(vector=vector, wrappers=wrappers, seed_episodes=True) for vector in ("sync", "async")]
    (here, here_next), (there, there_next) = (played(env) for env in made)
    assert (here == there).all()
    assert (here_next.observation.values == there_next.observation.values).all()
    assert there_next.reward.tolist() == [2.0, 2.0]
    assert there_next.observation.action_mask.tolist() == [[False, True, False]] * 2
    raised = r"Masked-v0, environment 0 raised Picky: odd words\n  in .*test_env_wrappers.py, line \d+, step\(\)"
    ended = r"Masked-v0: the process of an environment has ended in step\(\) \(environment [01]: exit code 3"
    child = (
        r"raised AssertionError: daemonic .*\n  in .*test_env_wrappers.py, line \d+, step\(\); env.vector = \"sync\""
    )
    for fails, message in (("raise", raised), ("exit", ended), ("child", child)):
        with pytest.raises(EnvironmentContractError, match=message):
            played(settings(vector="async", kwargs={"fails": fails}))
    played(settings(vector="async", kwargs={"fails": "close"}))
    said = capfd.readouterr().err.splitlines()  # among what the workers that were ended before may still print
    assert sorted(line for line in said if "closing it failed" in line) == [
        f"esper: Masked-v0, environment {index}: closing it failed: ValueError: stuck" for index in (0, 1)
    ]
    assert not [process for process in multiprocessing.active_children() if "Worker" in process.name]
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "interrupted.py").write_text(INTERRUPTED.replace("TRAINER", str(os.getpid())))
    gym.register("Interrupted-v0", importlib.import_module("interrupted").Imported)
    try:
        make_task(EnvConfig(id="Interrupted-v0", n_envs=1, vector="async"), seed=0).close()
    finally:
        del gym.registry["Interrupted-v0"]


def played(env: EnvConfig) -> tuple[Any, Any]:
    """The first observations, and one step."""
    task = make_task(env, seed=3)
    try:
        return task.reset().values.copy(), task.step(np.zeros((2, 1), np.int64))
    finally:
        task.close()


def test_an_environment_that_cannot_travel_is_refused() -> None:
    lock = threading.Lock()
    gym.register("Locked-v0", creator(lambda: [Masked(), lock][0]))
    try:
        with pytest.raises(EnvironmentUnsupportedError, match="Locked-v0 cannot be sent to a worker process"):
            make_task(EnvConfig(id="Locked-v0", n_envs=1, vector="async"), seed=0)
    finally:
        del gym.registry["Locked-v0"]


def test_an_id_of_an_older_version_is_told_the_newer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def moved() -> None:
        raise ImportError("moved to another project")

    for version, make in ((3, moved), (4, moved), (5, Masked)):
        spec = gym.envs.registration.EnvSpec(f"Old-v{version}", creator(make))
        monkeypatch.setitem(gym.registry, f"Old-v{version}", spec)
    with pytest.raises(EnvironmentUnsupportedError, match="Old-v3 cannot be built: ImportError") as caught:
        make_task(EnvConfig(id="Old-v3", n_envs=1), seed=0)
    assert str(caught.value.hint).endswith("its newest version is Old-v5")
    with pytest.raises(EnvironmentUnsupportedError, match='no environment "PongNoFrameskip-v4"') as caught:
        make_task(EnvConfig(id="PongNoFrameskip-v4", n_envs=1), seed=0)
    assert str(caught.value.hint).endswith("--env ale_py:ALE/Pong-v5")


def sized(env: gym.Env[Any, Any], shape: tuple[int, int], names: Any = None) -> gym.Env[Any, Any]:
    assert (shape, names) == ((2, 3), ["a"]), "a list where no tuple is declared"
    return env


def test_a_list_is_a_tuple_where_one_is_declared_and_a_function_is_refused() -> None:
    (wrapper,) = load_wrappers([f'{__name__}:sized?shape=[2, 3]&names=["a"]'])
    env = Masked()
    assert wrapper(env) is env
    with pytest.raises(EnvironmentUnsupportedError, match=r'TransformReward\?func=abs": func takes a function'):
        load_wrappers(["TransformReward?func=abs"])
