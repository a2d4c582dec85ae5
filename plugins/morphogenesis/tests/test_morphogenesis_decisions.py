"""Which decisions of the default task count, against a hand count from the environment's own masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from present import present

from esper_core.config.schema import EnvConfig, EsperConfig, PPOConfig, RunConfig
from esper_core.envs.adapter import make_task
from esper_core.ppo import PPOAgent
from esper_core.ppo.trainer import Trainer
from esper_env_morphogenesis.masks import HEAD_NAMES, HEAD_SIZES

READS = {0: (), 1: ("slot", "blueprint", "tempo", "tempo_offset"), 2: ("slot",), 3: ("slot",)}
"""What WAIT, GERMINATE, PRUNE and FOSSILIZE read beside themselves, as the page about the task says."""


def test_the_reported_decisions_are_those_with_an_effect_and_a_choice() -> None:
    """An operation counts where another one was legal; a head that it reads where it left more than one choice."""
    torch.set_num_threads(1)
    ppo = PPOConfig(rollout_steps=32, minibatch_size=64, epochs=1, hidden=(16,))
    task = make_task(EnvConfig(id="morphogenesis", n_envs=8), seed=2)
    agent = PPOAgent(task.heads, task.obs_shape, ppo, seed=2, conditioning_head=task.conditioning_head)
    shown: list[np.ndarray] = []
    counts = dict.fromkeys(HEAD_NAMES, 0)
    read = dict.fromkeys(HEAD_NAMES, 0)
    steps = 0
    starts = dict(zip(HEAD_NAMES, np.cumsum((0, *HEAD_SIZES)), strict=False))
    sizes = dict(zip(HEAD_NAMES, HEAD_SIZES, strict=True))
    reset, step = task.reset, task.step

    def resetting(seed: int | None) -> Any:
        observation = reset(seed)
        shown.append(present(observation.conditional_mask).copy())
        return observation

    def stepping(actions: np.ndarray) -> Any:
        nonlocal steps
        for row, masks in zip(actions, shown[-1], strict=True):
            operation = int(row[HEAD_NAMES.index("operations")])
            legal = {name: int(masks[operation, starts[name] : starts[name] + sizes[name]].sum()) for name in sizes}
            real = [name for name in ("operations", *READS[operation]) if legal[name] > 1]
            for name in READS[operation]:
                read[name] += 1
            for name in real:
                counts[name] += 1
            steps += bool(real)
        result = step(actions)
        shown.append(present(result.observation.conditional_mask).copy())
        return result

    task.reset, task.step = resetting, stepping  # type: ignore[method-assign,assignment]  # a witness between the two
    Trainer(agent, task, EsperConfig(ppo=ppo, run=RunConfig(updates=1))).run()
    task.close()
    payload = agent.last
    assert payload is not None
    assert {head.name: head.decisions for head in payload.heads} == counts
    assert (payload.steps, payload.steps_forced) == (steps, 8 * 32 - steps)
    assert 0 < counts["slot"] < read["slot"], "some slots were read with only one legal: no choice, no decision"
    assert counts["blueprint"] == read["blueprint"]
