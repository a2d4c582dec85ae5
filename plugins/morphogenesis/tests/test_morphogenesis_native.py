"""The compiled engine: the same numbers as torch's, and what happens where nothing can be compiled."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from esper_core.errors import EnvironmentUnsupportedError
from esper_env_morphogenesis.blueprints import BLUEPRINTS
from esper_env_morphogenesis.data import Dataset
from esper_env_morphogenesis.env import MorphogenesisEnv
from esper_env_morphogenesis.host import SLOTS, Graft
from esper_env_morphogenesis.native import Native, build
from esper_env_morphogenesis.network import HostNetworks
from esper_env_morphogenesis.stacked import Stacked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.numeric


@pytest.fixture
def _fresh() -> Iterator[None]:
    build.library.cache_clear()
    yield
    build.library.cache_clear()


@pytest.fixture
def compiled() -> Native:
    library = build.library()
    if library is None:
        pytest.skip("no C compiler")
    return Native(library)


def signals() -> Dataset:
    noise = np.random.default_rng(0)
    x: Any = noise.normal(size=(200, 40)).astype(np.float32)
    return Dataset(x, noise.integers(10, size=200), x[:100], noise.integers(10, size=100))


def test_signals_that_compiled_code_cannot_read_are_refused() -> None:
    whole = signals()
    for wrong in (whole.train_y + 1, whole.train_y[1:], whole.train_y[:0]):
        with pytest.raises(ValueError, match="0 to 9"):
            MorphogenesisEnv(1, data=Dataset(whole.train_x, wrong, whole.validation_x, whole.validation_y))


def worlds(n: int) -> HostNetworks:
    """Hosts with 0 to 2 dead blocks and signals in different orders."""
    generator = torch.Generator().manual_seed(1)
    hosts = HostNetworks(n, signals(), generator, learning_rate=0.01, validation_size=50, compute="torch")
    for row in range(n):
        alive = torch.ones(SLOTS)
        alive[[row % SLOTS, (row // SLOTS) % SLOTS]] = float(row % 2)
        hosts.reset(row, order=torch.randperm(40, generator=generator), alive=alive)
    return hosts


def grafts(hosts: HostNetworks, *, detached: bool, frozen: bool) -> list[Graft]:
    """One host for each kind in each slot, and one with two modules for each kind."""
    found = []
    for row in range(hosts.n):
        slot, kind = row % SLOTS, (row // SLOTS) % len(BLUEPRINTS)
        for place in (slot,) if row < hosts.n // 2 else (slot, (slot + 1) % SLOTS):
            hosts.plant(row, place, kind)
            alpha = 0.0 if detached else 1.0 if frozen else 1 / 3
            found.append(Graft(row, place, kind, alpha, detached=detached, frozen=frozen))
    return found


@pytest.mark.parametrize(
    ("detached", "frozen"), [(False, False), (True, False), (False, True)], ids=["blending", "training", "fossil"]
)
def test_both_engines_train_and_measure_alike(compiled: Native, detached: bool, frozen: bool) -> None:
    """Every blueprint in every slot beside living and dead blocks; minibatches that do not fill the lanes."""
    hosts = worlds(2 * SLOTS * len(BLUEPRINTS))
    modules = grafts(hosts, detached=detached, frozen=frozen)
    chosen = torch.randint(200, (3, 24), generator=torch.Generator().manual_seed(2))
    theirs, ours = hosts.state, copy.deepcopy(hosts.state)
    started = ours.modules[0].clone()
    losses = compiled.train(ours, modules, chosen)
    torch.testing.assert_close(losses, Stacked().train(theirs, modules, chosen), rtol=1e-4, atol=1e-5)
    # Adam divides by the gradient's size: where a gradient is 0 but for rounding, it moves by up to the learning rate.
    for mine, reference in ((ours.host[0], theirs.host[0]), (ours.modules[0], theirs.modules[0])):
        difference = (mine - reference).abs()
        assert float((difference > 1e-4).float().mean()) < 1e-3
    assert torch.equal(ours.host_age, theirs.host_age)
    assert torch.equal(started, ours.modules[0]) == frozen
    ours.host[:], ours.modules[:] = theirs.host, theirs.modules
    found, expected = compiled.validate(ours, modules, range(hosts.n)), Stacked().validate(theirs, modules, ())
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.spread, expected.spread, rtol=1e-3, atol=1e-4)
    assert torch.equal(found.response, expected.response)
    assert float((found.accuracy - expected.accuracy).abs().max()) <= 1 / 50  # a tie that rounding decides


def test_only_the_rows_that_were_asked_for_are_measured(compiled: Native) -> None:
    hosts = worlds(4)
    everyone = compiled.validate(hosts.state, (), range(4))
    some = compiled.validate(hosts.state, (), [1, 3])
    assert torch.equal(some.loss, everyone.loss * torch.tensor([0.0, 1.0, 0.0, 1.0]))


@pytest.mark.usefixtures("_fresh")
def test_without_a_compiler_torch_does_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", "no-such-compiler")
    env = MorphogenesisEnv(1, data=signals(), batches=1, batch_size=8, validation_size=20)
    env.reset(seed=0)
    env.step(np.zeros((1, 5), dtype=np.int64))
    with pytest.raises(EnvironmentUnsupportedError, match="cannot be compiled here"):
        MorphogenesisEnv(1, data=signals(), compute="native")
    with pytest.raises(EnvironmentUnsupportedError, match='compute = "gpu" is no engine'):
        MorphogenesisEnv(1, data=signals(), compute="gpu")  # type: ignore[arg-type]  # what a file can say


@pytest.mark.usefixtures("_fresh")
def test_a_compiler_that_fails_and_a_cache_that_cannot_be_written_are_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", "false")
    assert build.library() is None
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("CC", "cc")
    build.library.cache_clear()
    assert build.library() is None


@pytest.mark.usefixtures("_fresh", "compiled")
def test_a_damaged_library_is_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build.library.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert build.library() is not None
    (kept,) = tmp_path.glob("esper/hosts/*.so")
    whole = kept.read_bytes()
    kept.unlink()  # the loaded file stays as it is
    kept.write_bytes(whole[:1000])
    build.library.cache_clear()
    assert build.library() is not None
    assert kept.read_bytes() == whole


@pytest.mark.usefixtures("_fresh", "compiled")
def test_a_cache_that_others_may_write_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build.library.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "esper" / "hosts").mkdir(parents=True)
    (tmp_path / "esper" / "hosts").chmod(0o777)
    assert build.library() is None
    assert not list((tmp_path / "esper" / "hosts").iterdir())
