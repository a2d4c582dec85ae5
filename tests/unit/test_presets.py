"""The core's presets: which environment takes which, and that every value is one that the configuration knows."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from esper_core.cli.main import main
from esper_core.config.environments import DEFAULT_ENVIRONMENT
from esper_core.config.layers import load_config
from esper_core.config.presets import PRESETS, preset_for
from esper_core.config.tuned import TUNED, Tuned
from esper_core.envs.adapter import make_task

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("env_id", "name"),
    [
        ("Acrobot-v1", "acrobot"),
        ("MountainCar-v0", "mountain-car"),
        ("MountainCarContinuous-v0", "mountain-car-continuous"),
        ("Pendulum-v1", "pendulum"),
        ("LunarLander-v3", "lunar-lander"),
        ("gymnasium.envs.box2d:LunarLander-v3", "lunar-lander"),
        ("BipedalWalker-v3", "bipedal-walker"),
        ("InvertedPendulum-v5", "inverted-pendulum"),
        ("HalfCheetah-v5", "mujoco"),
        ("MinAtar/Breakout-v1", "minatar"),
        ("ale_py:ALE/Pong-v5", "atari"),
        ("BipedalWalkerHardcore-v3", ""),
        ("Blackjack-v1", ""),
    ],
)
def test_an_environment_takes_the_preset_made_for_it(env_id: str, name: str) -> None:
    assert preset_for(env_id) == name


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_in_force_to_its_last_value_and_each_can_be_overridden(name: str, tmp_path: Path) -> None:
    resolved = load_config(cwd=tmp_path, flags={"preset": name, "env.id": "Blackjack-v1"})
    assert resolved.config.run.steps == PRESETS[name]["run"]["steps"]
    set_ = {path for path, origin in resolved.origins.items() if origin == f"preset {name}"}
    assert {f"ppo.{key}" for key in PRESETS[name]["ppo"]} <= set_
    sets = ["ppo.gamma=0.5", "env.n_envs=3", "env.wrappers=[]"]
    config = load_config(cwd=tmp_path, flags={"preset": name}, sets=sets).config
    assert (config.ppo.gamma, config.env.n_envs, config.env.wrappers) == (0.5, 3, ())


@pytest.mark.parametrize("preset", TUNED, ids=lambda preset: preset.name)
def test_the_minibatches_of_a_preset_fit_its_rollouts(preset: Tuned, tmp_path: Path) -> None:
    """Otherwise its values say something that does not happen."""
    config = load_config(cwd=tmp_path, flags={"preset": preset.name}).config
    samples = config.env.n_envs * config.ppo.rollout_steps
    assert samples % config.ppo.minibatch_size == 0
    assert config.run.steps >= 50 * samples


@pytest.mark.parametrize("preset", TUNED, ids=lambda preset: preset.name)
def test_a_preset_alone_trains_the_environment_it_was_made_for(preset: Tuned, tmp_path: Path) -> None:
    """It trained the default task, with values for another one; a family's preset does so still."""
    resolved = load_config(cwd=tmp_path, flags={"preset": preset.name})
    if "id" in preset.tables["env"]:
        assert preset_for(resolved.config.env.id) == preset.name
    else:
        assert resolved.config.env.id == DEFAULT_ENVIRONMENT
    named = load_config(cwd=tmp_path, flags={"preset": preset.name, "env.id": "Taxi-v3"})
    assert named.config.env.id == "Taxi-v3"


def test_no_two_presets_have_a_name_in_common() -> None:
    assert len(PRESETS) == len(TUNED)


def test_training_says_which_preset_it_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["ppo", "--env", "Acrobot-v1", "--updates", "1", "--set", "ppo.rollout_steps=4"]) == 0
    assert "training Acrobot-v1 in 16 environments (preset acrobot, seed 0)" in capsys.readouterr().err


def test_the_package_that_owns_a_namespace_registers_its_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As MinAtar does: an entry point named like the namespace, which Gymnasium no longer calls."""
    info = tmp_path / "tiny_games-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-games\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[gymnasium.envs]\nTinyGames = tiny_games:register\n")
    (tmp_path / "tiny_games.py").write_text(
        "import gymnasium as gym\n"
        "def register():\n"
        "    gym.register('TinyGames/Pole-v0', 'gymnasium.envs.classic_control:CartPoleEnv', max_episode_steps=9)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = load_config(cwd=tmp_path, flags={"env.id": "TinyGames/Pole-v0", "env.n_envs": 2}).config
    task = make_task(config.env, seed=0)
    assert task.n_envs == 2
    task.close()
    sys.modules.pop("tiny_games", None)
