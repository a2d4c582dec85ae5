"""The environment: what holds whatever is played, and that the same seed is the same run."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper_env_morphogenesis.baselines import AlwaysWait, FixedSchedules, Graft, Random, neighbours, play, search
from esper_env_morphogenesis.blueprints import BLUEPRINTS
from esper_env_morphogenesis.data import Dataset
from esper_env_morphogenesis.env import MorphogenesisEnv
from esper_env_morphogenesis.host import HOST_SIZE
from esper_env_morphogenesis.lifecycle import MAX_GRAFTS, OFFSETS, TEMPOS, Operation, Stage
from esper_env_morphogenesis.reward import ACCURACY_SCALE, COSTS, FOSSIL_WEIGHT

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.numeric

EPOCHS = 12


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def signals() -> Dataset:
    """Two classes that a position tells apart: learned in a moment, and nothing is generated."""
    noise = np.random.default_rng(0)

    def draw(n: int) -> tuple[Any, Any]:
        y = noise.integers(10, size=n)
        x = 0.3 * noise.normal(size=(n, 40)).cumsum(1) / 3
        x[np.arange(n), 4 * y] += 3
        return x.astype(np.float32), y

    return Dataset(*draw(400), *draw(100))


def make(signals: Dataset, n: int = 4, **options: Any) -> MorphogenesisEnv:
    sizes = {"epochs": EPOCHS, "batches": 2, "batch_size": 16, "validation_size": 50}
    return MorphogenesisEnv(n, data=signals, **{**sizes, **options})


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**31 - 1), stagger=st.booleans())
def test_invariants_hold_whatever_is_played(signals: Dataset, seed: int, stagger: bool) -> None:
    env = make(signals, stagger=stagger)
    policy = Random(seed)
    observations, info = env.reset(seed=seed)
    for _ in range(EPOCHS + 3):
        assert observations in env.observation_space
        before, accuracy, worlds = env.slots, info["accuracy"], env.worlds
        actions = policy(env, observations, info)
        for row, action in enumerate(actions):
            legal = info["conditional_action_mask"][row, action[-1]]
            starts = np.cumsum((0, 3, 5, 3, 3))
            assert all(legal[starts + action])
            assert all(info["action_mask"][row][starts + action])
        observations, rewards, terminated, truncated, info = env.step(actions)
        assert not truncated.any()
        assert (info["causal_mask"] == env.causal_table[actions[:, -1]]).all()
        for row, slots in enumerate(env.slots):
            assert all(0.0 <= slot.alpha <= 1.0 for slot in slots)
            assert all(slot.living == (slot.stage not in {Stage.DORMANT, Stage.PRUNED}) for slot in slots)
            assert sum(slot.living for slot in slots) <= MAX_GRAFTS
            for slot in slots:
                expected = {Stage.DORMANT: 0.0, Stage.PRUNED: 0.0, Stage.TRAINING: 0.0, Stage.FOSSILIZED: 1.0}
                assert slot.alpha == expected.get(slot.stage, slot.alpha)
            if terminated[row]:
                assert all(slot.stage is Stage.DORMANT for slot in slots)
                assert info["final_obs"][row] in env.single_observation_space
                continue
            # Rent is charged for the parameters that stood during the epoch: living before, but the one pruned now,
            # and the one germinated now.
            operation, place = Operation(actions[row, -1]), actions[row, 0]
            charged = 0.0
            for index, slot in enumerate(before[row]):
                here = index == place
                if slot.living and not (operation is Operation.PRUNE and here):
                    fossil = slot.stage is Stage.FOSSILIZED or (operation is Operation.FOSSILIZE and here)
                    charged += BLUEPRINTS[slot.blueprint].size * (FOSSIL_WEIGHT if fossil else 1.0)
                elif operation is Operation.GERMINATE and here:
                    charged += BLUEPRINTS[actions[row, 1]].size
            assert info["rent"][row] == pytest.approx(worlds[row].rent * charged / HOST_SIZE)
            gain = float(info["accuracy"][row] - accuracy[row])
            assert rewards[row] == pytest.approx(ACCURACY_SCALE * gain - info["rent"][row] - COSTS[operation], abs=1e-5)


def test_a_module_in_training_changes_nothing_of_its_host_and_learns(signals: Dataset) -> None:
    """Two runs of the same host, one with a module in training: the hosts stay equal bit for bit."""
    trained = []
    for germinate in (False, True):
        env = make(signals, n=2)
        env.reset(seed=4)
        hosts = env.hosts
        for row in range(2):
            hosts.injure(row, torch.ones(3))  # nothing learns behind or before a dead block
        started = torch.zeros(0)
        if germinate:
            state = env._generator.get_state()
            env._operate(np.array([[0, 2, 0, 2, Operation.GERMINATE], [1, 4, 0, 2, Operation.GERMINATE]]))
            env._generator.set_state(state)  # the draw of the module's start must not shift the minibatches
            started = hosts.state.modules[0].clone()
        for _ in range(OFFSETS[2] - 1):
            hosts.train(env.grafts())
        trained.append((hosts.state.host.clone(), hosts.validate(env.grafts())))
        if germinate:
            assert not torch.equal(started[0, 0], hosts.state.modules[0, 0, 0])
            assert not torch.equal(started[1, 1], hosts.state.modules[0, 1, 1])
    (alone, plain), (accompanied, grafted) = trained
    assert torch.equal(alone, accompanied)
    assert torch.equal(plain.accuracy, grafted.accuracy)
    assert torch.equal(plain.loss, grafted.loss)


def test_a_fossil_does_not_learn(signals: Dataset) -> None:
    env = make(signals, n=1)
    observations, info = env.reset(seed=1)
    policy = FixedSchedules([(Graft(0, 2, 0, fossil=3),)])
    weights = []
    for _ in range(EPOCHS - 1):
        env.hosts.injure(0, torch.ones(3))
        observations, _, _, _, info = env.step(policy(env, observations, info))
        weights.append((env.slots[0][0].stage, env.hosts.state.modules[0, 0, 0].clone()))
    learning = [w for stage, w in weights if stage in {Stage.TRAINING, Stage.BLENDING, Stage.HOLDING}]
    fossil = [w for stage, w in weights if stage is Stage.FOSSILIZED]
    assert all(not torch.equal(a, b) for a, b in pairwise(learning))
    assert len(fossil) > 3
    assert all(torch.equal(learning[-1], w) for w in fossil)


@pytest.mark.parametrize("blueprint", BLUEPRINTS, ids=lambda blueprint: blueprint.name)
def test_stacked_modules_are_the_same_as_each_alone(blueprint: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    flat = torch.stack([blueprint.start(generator) for _ in range(3)])
    assert flat.shape == (3, blueprint.size)
    x = torch.randn(3, 8, 20, 6, generator=generator)
    together = blueprint.forward(x, *blueprint.split(flat))
    assert together.shape == x.shape
    for index in range(3):
        alone = blueprint.forward(x[index : index + 1], *blueprint.split(flat[index : index + 1]))
        torch.testing.assert_close(together[index : index + 1], alone)


def test_same_seed_same_run_bit_for_bit(signals: Dataset) -> None:
    def run(seed: int) -> list[bytes]:
        env, policy = make(signals, stagger=True), Random(1)
        observations, info = env.reset(seed=seed)
        seen = [observations.tobytes()]
        for _ in range(EPOCHS + 4):
            observations, rewards, _, _, info = env.step(policy(env, observations, info))
            seen += [observations.tobytes(), rewards.tobytes(), info["action_mask"].tobytes()]
        return seen

    assert run(3) == run(3)
    assert run(3) != run(4)


def test_worlds_do_not_depend_on_what_is_played(signals: Dataset) -> None:
    worlds = []
    for policy in (AlwaysWait(), Random(0)):
        env = make(signals, n=3)
        play(env, policy, seed=9, episodes=2)
        worlds.append([(w.shuffled, w.lesions, w.rent) for w in env.worlds])
    assert worlds[0] == worlds[1]


def test_global_generators_are_left_alone(signals: Dataset) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    play(make(signals), Random(0), seed=0, episodes=1)
    assert torch.equal(before, torch.get_rng_state())


def test_all_episodes_end_together_unless_staggered(signals: Dataset) -> None:
    def ends(*, stagger: bool) -> list[list[int]]:
        env = make(signals, stagger=stagger)
        observations, info = env.reset(seed=0)
        found: list[list[int]] = [[] for _ in range(4)]
        for step in range(1, 2 * EPOCHS + 1):
            observations, _, terminated, _, info = env.step(AlwaysWait()(env, observations, info))
            for row in np.flatnonzero(terminated):
                found[row].append(step)
        return found

    assert make(signals).metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert ends(stagger=False) == [[12, 24]] * 4
    assert ends(stagger=True) == [[12, 24], [9, 21], [6, 18], [3, 15]]


def test_the_last_step_gives_the_next_episode_and_keeps_the_last_observation(signals: Dataset) -> None:
    env = make(signals, n=2)
    observations, info = env.reset(seed=0)
    for _ in range(EPOCHS):
        observations, _, terminated, _, info = env.step(AlwaysWait()(env, observations, info))
    assert terminated.all()
    assert observations[:, 0].tolist() == [0.0, 0.0]
    assert [final[0] for final in info["final_obs"]] == [1.0, 1.0]
    assert info["_final_obs"].all()
    assert info["final_info"]["accuracy"].shape == (2,)


def test_illegal_actions_are_refused(signals: Dataset) -> None:
    env = make(signals, n=2)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="PRUNE in slot 1 of environment 1 is not legal; see action_mask"):
        env.step(np.array([[0, 0, 0, 0, Operation.WAIT], [1, 0, 0, 0, Operation.PRUNE]]))


def test_a_dead_block_is_bridged_by_a_module_beside_it_and_by_no_other(signals: Dataset) -> None:
    """The reason to look before grafting."""
    env = make(signals, n=2, epochs=64, batches=6)
    env.reset(seed=0)
    first, second = (world.lesions[0][1] for world in env.worlds)
    schedules = [(Graft(first, 3, 0, 1, 0),), (Graft((second + 1) % 3, 3, 0, 1, 0),)]
    policy = FixedSchedules(schedules)
    observations, info = env.reset(seed=0)
    for _ in range(7):  # before the second lesion, at epoch 8 or later
        observations, _, _, _, info = env.step(policy(env, observations, info))
    right, wrong = info["accuracy"]
    assert right > 0.5
    assert wrong < 0.25


def test_search_finds_the_schedule_that_germinates(signals: Dataset) -> None:
    schedules = [(), (Graft(0, 1, 0, 1, 0), Graft(1, 1, 2, 1, 0))]
    options: dict[str, Any] = {"data": signals, "epochs": EPOCHS, "batches": 4, "batch_size": 16, "validation_size": 50}
    ranked = search(schedules, rounds=[(8, 2), (16, 2)], n=8, **options)
    assert {schedule for _, _, schedule in ranked} == set(schedules)
    assert ranked[0][0] >= ranked[1][0]
    assert str(schedules[1][0]) == f"gated in slot 0 at epoch 0 tempo {TEMPOS[1]} offset {OFFSETS[0]}"


def test_neighbours_differ_in_one_choice_of_one_graft_or_in_where_all_stand() -> None:
    schedule = (Graft(0, 1, 0), Graft(1, 2, 6, fossil=12))
    found = neighbours(schedule, 24)
    assert schedule not in found
    for first, second in found:
        changed = [name for name in vars(first) if getattr(first, name) != getattr(schedule[0], name)]
        changed += [name for name in vars(second) if getattr(second, name) != getattr(schedule[1], name)]
        assert len(changed) == 1 or changed == ["slot", "slot"]
