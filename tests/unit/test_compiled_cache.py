"""Where compiled steps are kept, how they are built, and what happens where they cannot be."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import torch

from esper_core.code_cache import ABANDONED_S, KEPT, CodeCache, UnusableFolderError, cache_folder
from esper_core.config.schema import PPOConfig
from esper_core.ppo import HeadSpec, PPOAgent
from esper_core.ppo.compiled.key import key_of
from esper_core.ppo.compiled.plan import Plan
from esper_core.ppo.compiled.worker import BuildFailedError, BuildInterruptedError, build_apart
from esper_core.ppo.reducer import Identity

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PLAN = Plan(
    inputs=3,
    heads=((2, "categorical"),),
    masked=False,
    samples=64,
    hidden=(8,),
    activation="tanh",
    shared_trunk=False,
    squash=False,
    entropy=True,
    value_clip_range=0.0,
    value_clip_rule="larger",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "esper" / "compiled"


def put(cache: CodeCache, key: str, content: bytes) -> Path:
    with cache.building() as place:
        (place / "step.pt2").write_bytes(content)
        return cache.keep(key, place / "step.pt2")


# --- kept -------------------------------------------------------------------------------------


def test_the_folder_is_the_users_cache(tmp_path: Path) -> None:
    assert cache_folder({"XDG_CACHE_HOME": str(tmp_path)}, "compiled") == tmp_path / "esper" / "compiled"
    for unset in ({}, {"XDG_CACHE_HOME": ""}, {"XDG_CACHE_HOME": "relative"}):
        assert cache_folder(unset, "compiled").parts[-3:] == (".cache", "esper", "compiled")


def test_what_was_kept_is_found_under_its_key_alone(folder: Path) -> None:
    kept = put(CodeCache(folder, ".pt2"), "a" * 64, b"code")
    assert CodeCache(folder, ".pt2").find("a" * 64) == kept
    assert CodeCache(folder, ".pt2").find("b" * 64) is None
    assert (folder.stat().st_mode & 0o777, kept.stat().st_mode & 0o777) == (0o700, 0o600)
    assert list(folder.iterdir()) == [kept], "nothing is left of the build"


@pytest.mark.parametrize("content", [b"", b"cod", b"codf", b"code "])
def test_a_damaged_file_is_removed(folder: Path, content: bytes) -> None:
    cache = CodeCache(folder, ".pt2")
    put(cache, "a" * 64, b"code").write_bytes(content)
    assert cache.find("a" * 64) is None
    assert not list(folder.iterdir())


def test_two_builds_at_once_leave_whole_files(folder: Path) -> None:
    one, two = CodeCache(folder, ".pt2"), CodeCache(folder, ".pt2")
    with one.building() as first, two.building() as second:
        for place, content in ((first, b"this"), (second, b"that")):
            (place / "step.pt2").write_bytes(content)
        one.keep("a" * 64, first / "step.pt2")
        assert two.find("a" * 64) is not None
        two.keep("a" * 64, second / "step.pt2")
    found = one.find("a" * 64)
    assert found is not None
    assert found.read_bytes() in {b"this", b"that"}
    assert len(list(folder.iterdir())) == 2


def test_the_least_used_go(folder: Path) -> None:
    cache = CodeCache(folder, ".pt2")
    for index in range(KEPT + 3):
        os.utime(put(cache, f"{index:064}", b"code"), (index, index))
    put(cache, "a" * 64, b"code")
    left = sorted(file.name[:64] for file in folder.iterdir())
    assert left == [f"{index:064}" for index in range(4, KEPT + 3)] + ["a" * 64]


def test_folders_of_killed_builds_are_cleared_away(folder: Path) -> None:
    cache = CodeCache(folder, ".pt2")
    for name, age in (("building-old", ABANDONED_S + 60), ("building-new", 60.0)):
        (folder / name).mkdir()
        os.utime(folder / name, (time.time() - age,) * 2)
    put(cache, "a" * 64, b"code")
    assert not (folder / "building-old").exists()
    assert (folder / "building-new").exists()


def test_a_folder_that_others_may_write_is_refused(folder: Path) -> None:
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    with pytest.raises(UnusableFolderError, match="may be written by others"):
        CodeCache(folder, ".pt2")


def test_a_folder_of_another_user_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(parents=True, mode=0o700)
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    with pytest.raises(UnusableFolderError, match="belongs to another user"):
        CodeCache(folder, ".pt2")


def test_a_link_or_a_file_in_its_place_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.parent.mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnusableFolderError, match="symbolic link"):
        CodeCache(folder, ".pt2")
    folder.unlink()
    folder.write_text("")
    with pytest.raises(UnusableFolderError, match="is no folder"):
        CodeCache(folder, ".pt2")


def test_every_fact_changes_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the code follows from: any other value is another key."""
    compiler = sys.executable  # anything that tells a version
    keys = [key_of(PLAN, compiler)]
    for name, value in (("inputs", 4), ("heads", ((3, "categorical"),)), ("masked", True), ("value_clip_range", 0.5)):
        keys.append(key_of(msgspec.structs.replace(PLAN, **{name: value}), compiler))
    keys.append(key_of(PLAN, "/usr/bin/env"))
    for name in ("torch.__version__", "esper_core.ppo.compiled.key.__version__"):
        with monkeypatch.context() as patch:
            patch.setattr(name, "9.9")
            keys.append(key_of(PLAN, compiler))
    with monkeypatch.context() as patch:
        patch.setattr("esper_core.ppo.compiled.key.processor", lambda: "another")
        keys.append(key_of(PLAN, compiler))
    with monkeypatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CPP_MARCH", "x86-64")
        keys.append(key_of(PLAN, compiler))
    assert len(set(keys)) == len(keys)
    assert key_of(PLAN, compiler) == keys[0]


# --- built ------------------------------------------------------------------------------------


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """Another program in the place of the builder's Python, and the folder that it is to build in."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo warm-up; echo 'step.cpp:3:1: error: no such thing' >&2; echo later; exit 1", "step.cpp:3:1: error: no"),
        ("echo 'No space left on device' >&2; exit 1", "No space left on device"),
        (
            'echo "$PWD/a/b.cpp:3:1: fatal error: error writing to $PWD/c.s: full"; exit 1',
            "^a/b.cpp:.* writing to c.s: full",
        ),
        ("exit 3", "exit code 3"),
        ("kill -9 $$", "exit code -9"),
        ("exit 0", "exit code 0"),
    ],
)
def test_a_build_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str) -> None:
    with pytest.raises(BuildFailedError, match=reason):
        build_apart(PLAN, stand_in(tmp_path, monkeypatch, script), lambda: False)


def test_a_build_ends_with_everything_it_started_when_the_run_is_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., Any]
) -> None:
    place = stand_in(tmp_path, monkeypatch, "sleep 250 & echo $! > started; wait")
    with pytest.raises(BuildInterruptedError):
        build_apart(PLAN, place, (place / "started").is_file)

    def ended() -> bool:
        state = subprocess.run(["ps", "-o", "stat=", "-p", pid], capture_output=True, text=True, check=False).stdout
        return state.strip() == "" or state.startswith("Z")

    pid = eventually((place / "started").read_text).strip()
    eventually(ended)


# --- not compiled -----------------------------------------------------------------------------


def learned(bandit: Any, agent: PPOAgent, **changes: Any) -> tuple[torch.Tensor, list[str]]:
    """The weights after two updates, and what was told meanwhile."""
    lines: list[str] = []
    agent.on_notice = lines.append
    for _ in range(2):
        rollout = bandit.rollout(agent, 64)
        agent.update(replace(rollout, batch=replace(rollout.batch, **changes)))
    return torch.nn.utils.parameters_to_vector(agent.policy.parameters()).detach(), lines


def test_without_a_compiler_one_notice_says_so_and_the_update_is_eager(
    bandit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    eager, _ = learned(bandit, bandit.agent(minibatch_size=32))
    weights, lines = learned(bandit, bandit.agent(minibatch_size=32, compile=True))
    assert torch.equal(weights, eager)
    (line,) = lines
    assert "not compiled, and runs as without it: there is no C++ compiler (no-such-compiler is not on PATH)" in line


def test_a_failing_build_is_one_notice_and_leaves_nothing(
    bandit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", "true")
    stand_in(tmp_path, monkeypatch, "echo 'g++: error: unrecognized option' >&2; exit 1")
    eager, _ = learned(bandit, bandit.agent(minibatch_size=32))
    weights, lines = learned(bandit, bandit.agent(minibatch_size=32, compile=True))
    assert torch.equal(weights, eager)
    begun, failed = lines
    assert "compiles the update's step" in begun
    assert failed.endswith("runs as without it: g++: error: unrecognized option")
    assert not list((tmp_path / "cache" / "esper" / "compiled").iterdir())


def test_where_nothing_can_be_kept_it_is_built_for_this_run(
    bandit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("CXX", "true")
    stand_in(tmp_path, monkeypatch, "exit 1")
    _, lines = learned(bandit, bandit.agent(minibatch_size=32, compile=True))
    assert len(lines) == 3, "not kept; compiles; failed"
    assert "not kept for the next run" in lines[0]
    assert str(tmp_path / "file") in lines[0]


def test_without_any_folder_to_build_in_the_update_is_eager(
    bandit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container with a read-only file system."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    monkeypatch.setenv("CXX", "true")
    eager, _ = learned(bandit, bandit.agent(minibatch_size=32))
    weights, lines = learned(bandit, bandit.agent(minibatch_size=32, compile=True))
    assert torch.equal(weights, eager)
    assert len(lines) == 2, "not kept; no folder"
    assert "runs as without it: there is no temporary folder either: " in lines[1]


def test_a_run_that_is_to_stop_while_its_step_is_built_stops_in_order(
    bandit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The update is told as one that could not begin; the next one builds."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", "true")
    place = tmp_path / "begun"
    stand_in(tmp_path, monkeypatch, f"touch {place}; sleep 250")
    agent = bandit.agent(minibatch_size=32, compile=True)
    lines: list[str] = []
    agent.on_notice = lines.append
    before = torch.nn.utils.parameters_to_vector(agent.policy.parameters()).detach().clone()
    agent.update(bandit.rollout(agent, 64), should_stop=place.is_file)
    assert agent.last is not None
    assert (agent.last.outcome, agent.last.minibatches) == ("skipped", 0)
    assert "asked to stop" in agent.last.reason
    assert torch.equal(torch.nn.utils.parameters_to_vector(agent.policy.parameters()), before)
    assert len(lines) == 1
    assert not list((tmp_path / "cache" / "esper" / "compiled").iterdir())


def test_what_is_not_made_for_it_is_said_before_anything_is_built(
    bandit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    class Two(Identity):
        world_size = 2

    heads = [HeadSpec("action", 2)]
    config = PPOConfig(compile=True, minibatch_size=32)
    cases: dict[str, tuple[PPOAgent, dict[str, Any]]] = {
        "several ranks": (PPOAgent(heads, (3,), config, reducer=Two()), {}),
        "torch.float64": (bandit.agent(compile=True, minibatch_size=32), {"returns": torch.zeros(64).double()}),
    }
    for words, (agent, changes) in cases.items():
        _, (line,) = learned(bandit, agent, **changes)
        assert words in line
        assert agent.last is not None
        assert agent.last.minibatches
    assert not (tmp_path / "cache").exists()


def test_minibatches_of_one_sample_are_eager(bandit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    _, lines = learned(bandit, bandit.agent(compile=True, minibatch_size=1, epochs=1))
    assert not lines
    assert not (tmp_path / "cache").exists()
