"""The rule that reads the observation: what it does in which world."""

from __future__ import annotations

from typing import Any

import numpy as np

from esper_env_morphogenesis.blueprints import BLUEPRINTS
from esper_env_morphogenesis.data import Dataset
from esper_env_morphogenesis.env import MorphogenesisEnv
from esper_env_morphogenesis.lifecycle import Operation
from esper_env_morphogenesis.reactive import REPAIR
from esper_env_morphogenesis.world import RENT_RANGE


def signals() -> Dataset:
    noise = np.random.default_rng(0)
    x: Any = noise.normal(size=(60, 40)).astype(np.float32)
    return Dataset(x, noise.integers(10, size=60), x[:20], noise.integers(10, size=20))


def test_it_repairs_each_dead_block_once_with_what_the_rent_allows() -> None:
    env = MorphogenesisEnv(8, data=signals(), batches=1, batch_size=8, validation_size=20)
    observations, info = env.reset(seed=3)
    done: list[list[tuple[str, int, str]]] = [[] for _ in range(8)]
    worlds = env.worlds
    for _ in range(env.epochs):
        actions = REPAIR(env, observations, info)
        for row, (slot, blueprint, tempo, offset, operation) in enumerate(actions.tolist()):
            if operation != Operation.WAIT:
                done[row].append((Operation(operation).name, slot, BLUEPRINTS[blueprint].name))
                assert (tempo, offset) == (0, 0)
        observations, _, _, _, info = env.step(actions)
    middle = float(np.sqrt(RENT_RANGE[0] * RENT_RANGE[1]))
    assert {world.rent < middle for world in worlds} == {True, False}
    for world, deeds in zip(worlds, done, strict=True):
        kind = "linear" if world.rent < middle else "gated"
        assert deeds == [("GERMINATE", block, kind) for _, block in world.lesions]
