"""The compiled step (``ppo.compile``) against the eager one: same weights, same report, same stop."""

from __future__ import annotations

import copy
import os
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from update_cases import CASES, MIXED, NOTICES, Case, agent_of, assert_same, rollout_of, told, vector

from esper_core.ppo import HeadSpec, load_checkpoint, save_checkpoint
from esper_core.ppo.checkpoint_fit import restore
from esper_core.ppo.compiled.graph import step_of
from esper_core.ppo.compiled.key import compiler
from esper_core.ppo.compiled.steps import CompiledSteps
from esper_core.ppo.threads import torch_threads

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from esper_core.ppo.compiled.plan import Plan

pytestmark = [pytest.mark.numeric, pytest.mark.timeout(900)]  # a build takes 15 s of CPU, and a busy machine has little


@pytest.fixture(autouse=True)
def _heard() -> Iterator[None]:
    NOTICES.clear()
    with torch_threads(1):
        yield


class Uncompiled:
    """The function that is traced, as the code that is made of it."""

    def __init__(self, plan: Plan) -> None:
        self._step = step_of(plan.policy(), plan.config)

    def run(self, inputs: list[Tensor]) -> tuple[Tensor, ...]:
        return self._step(*inputs)


@pytest.mark.parametrize("name", CASES)
def test_the_step_that_is_compiled_is_the_eager_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything but the compiler: the function that is traced, its inputs, the discarded step, the way back."""
    monkeypatch.setattr(CompiledSteps, "_obtain", lambda _, plan, *__: Uncompiled(plan))
    case = CASES[name]
    eager, compiled = agent_of(case), agent_of(case, compile=True)
    start = vector(eager)
    for update in range(2):
        for agent in (eager, compiled):
            agent.update(rollout_of(agent, case, update))
            agent.anneal(0.3)
        assert_same(compiled, eager)
    assert not NOTICES
    assert (vector(eager) - start).abs().max() > 0.005
    assert (told(eager).early_stop is not None) == case.stops


def test_tensors_of_another_dtype_are_refused_in_a_later_update_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled code looks at no dtype: it would read their bytes as float32."""
    monkeypatch.setattr(CompiledSteps, "_obtain", lambda _, plan, *__: Uncompiled(plan))
    case = CASES["one head"]
    agent = agent_of(case, compile=True)
    agent.update(rollout_of(agent, case))
    assert not NOTICES
    rollout = rollout_of(agent, case)
    agent.update(replace(rollout, batch=replace(rollout.batch, values=rollout.batch.values.double())))
    (said,) = NOTICES
    assert "the update is not compiled, and runs as without it: the rollout holds a torch.float64 tensor" in said
    assert told(agent).outcome == "completed"


# --- really compiled --------------------------------------------------------------------------


EVERY = Case((*MIXED, HeadSpec("mode", 5), HeadSpec("gate", 2)), causal=True, legal=True, ppo={"value_clip_range": 0.3})
"""Five heads of every kind, both masks, values clipped: all of it in one step, which is built once for this file."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache that holds the step of ``EVERY``, and what was told of building it."""
    if compiler() is None:
        pytest.skip("no C++ compiler: nothing can be compiled here")
    # pytest's workers share one: the second finds what the first has built.
    own = tmp_path_factory.getbasetemp()
    base = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "compiled"
    base.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch, torch_threads(1):
        patch.setenv("XDG_CACHE_HOME", str(base))
        NOTICES.clear()
        agent = agent_of(EVERY, compile=True)
        agent.update(rollout_of(agent, EVERY))
        if NOTICES:
            begun, ended = NOTICES
            assert "compiles the update's step" in begun
            assert "compiled in" in ended
            assert str(base / "esper" / "compiled") in ended
        yield base / "esper" / "compiled"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "stops"),
    [
        ({}, False),
        ({"clip_range": 0.05, "max_grad_norm": 0.05, "learning_rate": 1e-3, "value_coef": 2.0}, False),
        ({"target_kl": 0.00075, "stop_rule": "minibatch"}, True),
        ({"target_kl": 0.002, "stop_rule": "pooled", "stop_on": "joint"}, True),
    ],
    ids=["as usual", "other settings", "stops in an epoch", "pooled, joint"],
)
def test_one_compiled_step_learns_as_the_eager_one(cache: Path, settings: dict[str, Any], stops: bool) -> None:
    """Learning rate, clip range, limits and coefficients are inputs: they differ and change, the code is the same."""
    eager, compiled = agent_of(EVERY, **settings), agent_of(EVERY, compile=True, **settings)
    stopped = []
    for update in range(3):
        for agent in (eager, compiled):
            agent.learning_rate *= 0.8
            agent.clip_range *= 0.9
            agent.update(rollout_of(agent, EVERY, update))
        assert_same(compiled, eager)
        if (stop := told(eager).early_stop) is not None:
            assert stop.value is not None
            assert stop.value > 1.02 * stop.threshold, "no close call"
            stopped.append(stop.minibatch)
    assert any(minibatch < 6 for minibatch in stopped) == stops, "in the middle of an epoch"
    assert not NOTICES, "found, not built"


@pytest.mark.slow
def test_a_checkpoint_does_not_say_which_step_wrote_it(cache: Path, tmp_path: Path) -> None:
    """Two updates eagerly, two compiled, or one of each, through a file: the same agent."""
    ends = []
    for order in ((False, False), (True, True), (False, True), (True, False)):
        first, second = (agent_of(EVERY, compile=compiled) for compiled in order)
        first.update(rollout_of(first, EVERY))
        save_checkpoint(tmp_path / "checkpoint.pt", first)
        restore(second, load_checkpoint(tmp_path / "checkpoint.pt"))
        second.update(rollout_of(second, EVERY, 2))
        ends.append(second)
    for other in ends[1:]:
        assert_same(other, ends[0])
    assert not NOTICES


@pytest.mark.slow
def test_a_copy_of_an_agent_learns_by_itself(cache: Path) -> None:
    agent = agent_of(EVERY, compile=True)
    agent.update(rollout_of(agent, EVERY))
    twin, before = copy.deepcopy(agent), vector(agent)
    twin.update(rollout_of(twin, EVERY, 2))
    assert torch.equal(vector(agent), before)
    agent.update(rollout_of(agent, EVERY, 2))
    assert torch.equal(vector(agent), vector(twin))


@pytest.mark.slow
def test_damaged_code_is_not_loaded_and_built_again(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One byte that differs is enough, and so is another version's key."""
    good = next(cache.glob("*.pt2"))
    folder = tmp_path / "esper" / "compiled"
    folder.mkdir(parents=True, mode=0o700)
    content = bytearray(good.read_bytes())
    content[len(content) // 2] ^= 1
    (folder / good.name).write_bytes(content)
    (folder / f"{'0' * 64}-{good.name[65:]}").write_bytes(good.read_bytes())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("esper_core.ppo.compiled.packaged.build_apart", lambda _, folder, __: built_in(folder, good))
    agent = agent_of(EVERY, compile=True)
    agent.update(rollout_of(agent, EVERY))
    assert "compiled in" in NOTICES[-1]
    assert {file.name for file in folder.iterdir()} == {good.name, f"{'0' * 64}-{good.name[65:]}"}
    assert (folder / good.name).read_bytes() == good.read_bytes()


@pytest.mark.slow
def test_wrong_code_under_the_right_name_is_found_out_on_the_first_minibatch(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code of one set of clipping rules, given out as that of another."""
    other = Case(EVERY.heads, causal=True, legal=True, ppo={"value_clip_range": 1e-3})
    good = next(cache.glob("*.pt2"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("esper_core.ppo.compiled.packaged.build_apart", lambda _, folder, __: built_in(folder, good))
    eager, compiled = agent_of(other), agent_of(other, compile=True)
    for agent in (eager, compiled):
        agent.update(rollout_of(agent, other))
        agent.update(rollout_of(agent, other, 2))
    assert "other numbers on the first minibatch" in NOTICES[-1]
    assert torch.equal(vector(eager), vector(compiled))


def built_in(folder: Path, code: Path) -> Path:
    copy = folder / "step.pt2"
    shutil.copy(code, copy)
    return copy
