"""``esper eval``: the checkpoint's policy plays, and the numbers are those of its episodes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch

from esper_core.cli.main import main
from esper_core.config.schema import EnvConfig, PPOConfig
from esper_core.envs.adapter import GymTask, make_task
from esper_core.ppo import HeadSpec, PPOAgent, save_checkpoint
from esper_core.runs.creation import create_run

if TYPE_CHECKING:
    from pathlib import Path

    from esper_core.runs.layout import RunDir

pytestmark = pytest.mark.numeric

ENV = EnvConfig(id="CartPole-v1", n_envs=2)


def make_run(base: Path, agent: PPOAgent) -> RunDir:
    run = create_run(base, name="eval")
    run.config_path.write_text('[env]\nid = "CartPole-v1"\nn_envs = 2\n', encoding="utf-8")
    save_checkpoint(run.checkpoint, agent)
    return run


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    task = make_task(ENV, seed=0)
    agent = PPOAgent(task.heads, task.obs_shape, PPOConfig(hidden=(8,)))
    task.close()
    return make_run(tmp_path, agent)


def test_reports_returns(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(run.path), "--episodes", "5", "--seed", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["environment"] == "CartPole-v1"
    assert len(found["returns"]) == found["episodes"] == 5
    assert found["return_mean"] == pytest.approx(sum(found["returns"]) / 5)
    assert found["return_min"] <= found["return_mean"] <= found["return_max"]

    assert main(["eval", str(run.path), "--episodes", "5", "--seed", "1"]) == 0
    text = capsys.readouterr().out
    assert f"return {found['return_mean']:.2f} ± " in text
    assert "over 5 sampled episodes" in text
    assert main(["eval", str(run.path), "--episodes", "1", "--deterministic"]) == 0
    assert "over 1 greedy episodes" in capsys.readouterr().out


def test_same_seed_same_returns(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    seen = []
    for seed in ("1", "1", "2"):
        main(["eval", str(run.path), "--episodes", "32", "--seed", seed, "--json"])
        seen.append(json.loads(capsys.readouterr().out)["returns"])
    assert seen[0] == seen[1]
    assert seen[0] != seen[2]


def test_environment_that_draws_nothing_says_so(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(run.path), "--show"]) == 64
    assert "CartPole-v1 has nothing to show" in capsys.readouterr().err


def test_checkpoint_of_another_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path, PPOAgent([HeadSpec("action", 3)], (4,)))
    assert main(["eval", str(run.path)]) == 64
    assert "the checkpoint does not fit CartPole-v1" in capsys.readouterr().err


def test_run_without_checkpoint(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    run.checkpoint.unlink()
    assert main(["eval", str(run.path)]) == 64
    assert "no checkpoint at" in capsys.readouterr().err


def test_an_error_in_closing_the_environment_is_only_told(
    run: RunDir, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stuck(_: GymTask) -> None:
        raise ValueError("stuck")

    monkeypatch.setattr(GymTask, "close", stuck)
    assert main(["eval", str(run.path), "--episodes", "1"]) == 0
    said = capsys.readouterr()
    assert "over 1 sampled episodes" in said.out
    assert "environment CartPole-v1: closing it failed: ValueError: stuck" in said.err


@pytest.mark.parametrize("episodes", ["0", "-3"])
def test_at_least_one_episode(run: RunDir, episodes: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(run.path), "--episodes", episodes]) == 64
    assert "at least 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "variable", "code"),
    [
        ((), "", 64),
        (("--set", "env.kwargs.render_mode=rgb_array"), "", 0),
        ((), "rgb_array", 0),
        (("--set", "ppo.seed=1"), "rgb_array", 64),
        (("--set", "env.kwargs.other=1"), "rgb_array", 64),
    ],
)
def test_a_masked_secret_is_asked_for_and_never_handed_to_the_environment(
    run: RunDir,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: tuple[str, ...],
    variable: str,
    code: int,
) -> None:
    text = '[env]\nid = "CartPole-v1"\nn_envs = 2\n[env.kwargs]\nrender_mode = "***"\n'
    run.config_path.write_text(text, encoding="utf-8")
    if variable:
        monkeypatch.setenv("ESPER_ENV__KWARGS__RENDER_MODE", variable)
    assert main(["eval", str(run.path), "--episodes", "1", *more]) == code
    said = capsys.readouterr().err
    assert ("env.kwargs.render_mode was a secret" in said) == (code == 64 and not variable)
    assert ("arguments of the environment alone" in said) == ("ppo.seed=1" in more)


def test_weights_that_are_not_finite_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = make_task(ENV, seed=0)
    agent = PPOAgent(task.heads, task.obs_shape, PPOConfig(hidden=(8,)))
    task.close()
    with torch.no_grad():
        next(agent.policy.parameters()).view(-1)[0] = float("nan")
    run = make_run(tmp_path, agent)
    assert main(["eval", str(run.path)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "1 of " in said.err
    assert "weights are NaN or infinite after update 0" in said.err
    assert "this policy cannot play" in said.err
