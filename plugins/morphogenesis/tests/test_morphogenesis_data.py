"""MNIST-1D: generated once, cached, and never trusted when the cache is broken."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest

from esper_env_morphogenesis import data

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.numeric


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count generations, and make them cheap."""
    made: list[int] = []

    def generate() -> data.Dataset:
        made.append(1)
        noise = np.random.default_rng(3)
        return data.Dataset(
            noise.normal(size=(20, 40)).astype(np.float32),
            noise.integers(10, size=20),
            noise.normal(size=(5, 40)).astype(np.float32),
            noise.integers(10, size=5),
        )

    monkeypatch.setattr(data, "generate", generate)
    return made


def same(one: data.Dataset, other: data.Dataset) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in vars(one))


def test_the_real_data_and_untouched_global_generators(tmp_path: Path) -> None:
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002 - the global generator is the subject
    expected = (random.random(), np.random.rand())  # noqa: NPY002
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    made = data.load(tmp_path / "made.bin")
    assert (random.random(), np.random.rand()) == expected  # noqa: NPY002
    assert made.train_x.shape == (4000, 40)
    assert made.train_x.dtype == np.float32
    assert made.validation_x.shape == (1000, 40)
    assert set(np.unique(made.train_y)) == set(range(10))
    assert abs(made.train_x.std() - 1) < 0.05
    assert same(made, data.load(tmp_path / "made.bin"))


def test_generated_once(tmp_path: Path, small: list[int]) -> None:
    path = tmp_path / "deep" / "cache.bin"
    first = data.load(path)
    assert same(first, data.load(path))
    assert len(small) == 1
    assert [file.name for file in path.parent.iterdir()] == ["cache.bin"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: b"something else entirely\n" + content,
        lambda content: content.replace(b"esper-mnist1d-1", b"esper-mnist1d-0"),
    ],
    ids=["empty", "cut", "one bit", "foreign", "old version"],
)
def test_a_broken_cache_is_rebuilt(tmp_path: Path, small: list[int], damage: object) -> None:
    path = tmp_path / "cache.bin"
    whole = data.load(path)
    good = path.read_bytes()
    path.write_bytes(damage(good))  # type: ignore[operator]
    assert same(whole, data.load(path))
    assert len(small) == 2
    assert path.read_bytes() == good


def test_a_right_checksum_over_the_wrong_arrays_is_rebuilt(tmp_path: Path, small: list[int]) -> None:
    path = tmp_path / "cache.bin"
    data._write(path, data.Dataset(*(np.zeros((3, 7), dtype=np.float32) for _ in range(4))))  # type: ignore[arg-type]  # wrong on purpose
    assert data.load(path).train_x.shape == (20, 40)


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path: Path, small: list[int]) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("a file where the folder should be")
    assert data.load(blocked / "cache.bin").train_x.shape == (20, 40)


def test_many_at_once_leave_one_whole_file(tmp_path: Path, small: list[int]) -> None:
    path = tmp_path / "cache.bin"
    with ThreadPoolExecutor(8) as pool:
        loaded = list(pool.map(lambda _: data.load(path), range(16)))
    assert all(same(loaded[0], one) for one in loaded)
    assert [file.name for file in tmp_path.iterdir()] == ["cache.bin"]


def test_the_cache_lies_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert data.cache_file() == tmp_path / "esper" / "mnist1d.bin"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert data.cache_file() == tmp_path / "home" / ".cache" / "esper" / "mnist1d.bin"
