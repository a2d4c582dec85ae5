"""The rule that reads the observation: what it does in which world."""

from __future__ import annotations

from typing import Any

import numpy as np

from esper_env_morphogenesis.blueprints import BLUEPRINTS
from esper_env_morphogenesis.data import Dataset
from esper_env_morphogenesis.env import MorphogenesisEnv
from esper_env_morphogenesis.lifecycle import Operation
from esper_env_morphogenesis.reactive import PATIENT, REPAIR, TUNED, TUNED_BY_BLOCK, Choice, Reactive, variants
from esper_env_morphogenesis.world import RENT_RANGE, World


def signals() -> Dataset:
    noise = np.random.default_rng(0)
    walk = noise.normal(size=(60, 44)).cumsum(1)
    x: Any = (walk[:, 4:] - walk[:, :-4]).astype(np.float32)  # neighbours are alike, as in MNIST-1D
    return Dataset(x, noise.integers(10, size=60), x[:20], noise.integers(10, size=20))


def deeds(rule: Reactive) -> list[tuple[World, list[tuple[str, int, str]]]]:
    """What a rule does in one episode of each of 24 worlds: operation, slot, blueprint."""
    env = MorphogenesisEnv(24, data=signals(), batches=1, batch_size=8, validation_size=20)
    observations, info = env.reset(seed=3)
    done: list[list[tuple[str, int, str]]] = [[] for _ in range(24)]
    worlds = env.worlds
    for _ in range(env.epochs):
        actions = rule(env, observations, info)
        for row, (slot, blueprint, tempo, offset, operation) in enumerate(actions.tolist()):
            if operation == Operation.GERMINATE:
                assert (tempo, offset) == (rule.tempo, rule.offset)
            if operation != Operation.WAIT:
                done[row].append((Operation(operation).name, slot, BLUEPRINTS[blueprint].name))
        observations, _, _, _, info = env.step(actions)
    return list(zip(worlds, done, strict=True))


def log_rent(world: World) -> float:
    low, high = np.log(RENT_RANGE)
    return float(2 * (np.log(world.rent) - low) / (high - low) - 1)


def test_it_repairs_each_dead_block_once_with_what_the_rent_allows() -> None:
    for world, done in deeds(REPAIR):
        kind = "linear" if log_rent(world) < 0 else "gated"
        assert done == [("GERMINATE", block, kind) for _, block in world.lesions]


def test_the_tuned_rule_reads_the_order_of_the_signals_too() -> None:
    seen = set()
    for world, done in deeds(TUNED):
        choices = TUNED.shuffled if world.shuffled else TUNED.ordered
        choice = next((choice for choice in choices[:-1] if log_rent(world) < choice.below), choices[-1])
        kinds = (choice.first, choice.second)
        assert done == [("GERMINATE", block, kind) for (_, block), kind in zip(world.lesions, kinds, strict=True)]
        seen.add((world.shuffled, choice.below))
    assert len(seen) == len(TUNED.shuffled) + len(TUNED.ordered)


def test_the_patient_rule_repairs_nothing_before_the_second_death_and_then_the_lower_block_first() -> None:
    for world, done in deeds(PATIENT):
        kinds = ("linear", "gated") if world.shuffled else ("conv", "linear")
        blocks = sorted(block for _, block in world.lesions)
        assert done == [("GERMINATE", block, kind) for block, kind in zip(blocks, kinds, strict=True)]


def test_a_rule_can_have_exceptions_by_block() -> None:
    seen = set()
    for (world, tuned), (_, done) in zip(deeds(TUNED), deeds(TUNED_BY_BLOCK), strict=True):
        (_, first), (_, second) = world.lesions
        expected = [kind for _, _, kind in tuned]
        if first == 2 and expected[0] == "linear":
            expected[0] = "gated"
        if second < 2:
            expected[1] = "gated"
        assert [kind for _, _, kind in done] == expected
        seen.add([kind for _, _, kind in tuned] == expected)
    assert seen == {True, False}


def test_a_rule_can_fossilise_from_a_point_of_the_episode_on() -> None:
    choice = Choice(below=1.0, first="norm", second="conv", fossil=0.75)
    for world, done in deeds(Reactive(ordered=(choice,), shuffled=(choice,))):
        assert [deed[0] for deed in done] == ["GERMINATE", "GERMINATE", "FOSSILIZE", "FOSSILIZE"]
        assert {slot for _, slot, _ in done[2:]} == {block for _, block in world.lesions}


def test_variants_differ_in_one_choice() -> None:
    fields = ("ordered", "shuffled", "tempo", "offset")
    for variant in variants(REPAIR):
        changed = [name for name in fields if getattr(variant, name) != getattr(REPAIR, name)]
        assert len(changed) <= 2 if "tempo" in changed else len(changed) <= 1
