"""A third party's environment: selected by name, with presets and pictures of its own, and nothing in the core."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from esper_core.cli.main import main
from esper_core.config import environments
from esper_core.config.environments import DEFAULT_ENVIRONMENT, load_environment
from esper_core.config.layers import load_config
from esper_core.config.schema import EnvConfig, PPOConfig
from esper_core.envs.adapter import make_task
from esper_core.errors import ConfigError, EnvironmentUnsupportedError
from esper_core.ppo import PPOAgent, save_checkpoint
from esper_core.runs import RunDir, create_run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Install = Callable[..., None]

POLE = """
from esper_core.hooks import EnvironmentPlugin

def make(*, num_envs, seed, max_episode_steps):
    import gymnasium
    from gymnasium.vector import AutoresetMode
    return gymnasium.make_vec(
        "CartPole-v1", num_envs=num_envs, vectorization_mode="sync", max_episode_steps=max_episode_steps,
        vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
    )

def show(policy, kwargs, *, seed):
    env = make(num_envs=1, seed=seed, **kwargs)
    obs, _ = env.reset(seed=seed)
    yield "".join("lr"[int(policy.act(obs)[0])] for _ in range(12))

def plot(policy, kwargs, *, seed, path):
    path.write_text(next(show(policy, kwargs, seed=seed)))

pole = EnvironmentPlugin(
    make=make,
    presets={
        "short-pole": {"run": {"updates": 3}, "env": {"kwargs": {"max_episode_steps": 9}}, "ppo": {"gamma": 0.5}},
        "long-pole": {"env": {"id": "pole", "kwargs": {"max_episode_steps": 500}}},
    },
    default_preset="short-pole",
    evaluation={"max_episode_steps": 7},
    show=show,
    plot=plot,
)
"""


@pytest.fixture
def pole(install: Install) -> None:
    install("esper-env-pole", POLE, group="esper.environments", pole="esper_env_pole:pole")


@pytest.mark.usefixtures("pole")
def test_its_presets_hold_when_it_is_selected(tmp_path: Path) -> None:
    chosen = load_config(cwd=tmp_path, flags={"env.id": "pole"})
    assert (chosen.config.preset, chosen.config.ppo.gamma, chosen.config.run.updates) == ("short-pole", 0.5, 3)
    assert (chosen.origin("preset"), chosen.origin("ppo.gamma")) == ("for pole", "preset short-pole")
    assert chosen.config.env.kwargs == {"max_episode_steps": 9}
    named = load_config(cwd=tmp_path, flags={"env.id": "pole", "preset": "long-pole"})
    assert named.config.env.kwargs == {"max_episode_steps": 500}
    with pytest.raises(ConfigError, match='unknown preset "short-pol", did you mean "short-pole"'):
        load_config(cwd=tmp_path, flags={"env.id": "pole", "preset": "short-pol"})


def test_only_the_selected_environment_is_imported(install: Install, tmp_path: Path) -> None:
    install("esper-env-loud", "raise RuntimeError('imported')", group="esper.environments", loud="esper_env_loud:x")
    load_config(cwd=tmp_path, flags={"env.id": "CartPole-v1"})
    make_task(EnvConfig(id="CartPole-v1"), seed=0).close()
    assert "esper_env_loud" not in sys.modules


@pytest.fixture
def run(pole: None, tmp_path: Path) -> RunDir:
    task = make_task(EnvConfig(id="pole", n_envs=2, kwargs={"max_episode_steps": 9}), seed=0)
    agent = PPOAgent(task.heads, task.obs_shape, PPOConfig(hidden=(4,)))
    task.close()
    run = create_run(tmp_path, name="pole")
    run.config_path.write_text('[env]\nid = "pole"\nkwargs = {max_episode_steps = 9}\n', encoding="utf-8")
    save_checkpoint(run.checkpoint, agent)
    return run


def test_its_evaluation_settings_beat_those_of_the_training(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(run.path), "--episodes", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["episode_length_mean"] == 7


def test_story_and_picture_are_of_the_same_episode(
    run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "a.txt"
    assert main(["eval", str(run.path), "--show", "--plot", str(picture)]) == 0
    story, wrote = capsys.readouterr().out.splitlines()
    assert picture.read_text() == story
    assert set(story) == {"l", "r"}, "the policy samples"
    assert wrote == f"wrote {picture}"


@pytest.mark.usefixtures("pole")
def test_a_wrong_argument_is_one_clear_error() -> None:
    with pytest.raises(EnvironmentUnsupportedError, match=r"pole: .*colour.*\n  check \[env.kwargs\]"):
        make_task(EnvConfig(id="pole", kwargs={"colour": 1}), seed=0)
    with pytest.raises(EnvironmentUnsupportedError, match='no environment "pol", did you mean "pole"'):
        make_task(EnvConfig(id="pol"), seed=0)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise RuntimeError('no licence')", r'"odd" \(esper-env-odd 1.0\) cannot be imported .* no licence'),
        ("raise SystemExit(3)", "cannot be imported .* SystemExit: 3"),
        ("odd = len", "is a builtin_function_or_method, not an esper_core.hooks.EnvironmentPlugin"),
        (
            "from esper_core.hooks import EnvironmentPlugin\nodd = EnvironmentPlugin(make=len, default_preset='x')",
            'default_preset "x" is none of its presets\n  its presets: none',
        ),
    ],
)
def test_a_broken_plugin_is_one_error_when_it_trains_and_none_before(
    install: Install, tmp_path: Path, code: str, message: str
) -> None:
    install("esper-env-odd", code, group="esper.environments", odd="esper_env_odd:odd")
    assert load_config(cwd=tmp_path, flags={"env.id": "odd"}).config.preset == ""
    with pytest.raises(EnvironmentUnsupportedError, match=message) as caught:
        make_task(EnvConfig(id="odd"), seed=0)
    assert caught.value.exit_code == 64
    with pytest.raises(EnvironmentUnsupportedError, match=message):
        load_config(cwd=tmp_path, flags={"env.id": "odd", "preset": "mine"})


def test_a_wrong_key_of_a_preset_names_the_preset(install: Install, tmp_path: Path) -> None:
    code = POLE.replace('"gamma"', '"gama"')
    install("esper-env-pole", code, group="esper.environments", pole="esper_env_pole:pole")
    with pytest.raises(ConfigError, match=r'preset short-pole: \[ppo\] unknown key "gama", did you mean "gamma"'):
        load_config(cwd=tmp_path, flags={"env.id": "pole"})


def test_a_name_that_two_distributions_claim_is_refused(install: Install) -> None:
    for name in ("a", "b"):
        install(f"esper-env-{name}", POLE, group="esper.environments", twice=f"esper_env_{name}:pole")
    with pytest.raises(EnvironmentUnsupportedError, match=r'"twice" is claimed by 2 distributions: esper-env-a'):
        load_environment("twice")


def test_without_the_default_environment_only_training_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(environments, "installed", lambda _: {})
    monkeypatch.chdir(tmp_path)
    assert load_config(cwd=tmp_path).config.preset == ""
    with pytest.raises(
        ConfigError, match=f"presets: cartpole, .*, none; .* `pip install esper-env-{DEFAULT_ENVIRONMENT}`"
    ):
        load_config(cwd=tmp_path, flags={"preset": "full"})
    assert main(["ppo", "--sinks", ""]) == 64
    said = capsys.readouterr().err
    assert f"esper-env-{DEFAULT_ENVIRONMENT}, which is not installed" in said
    assert f"`pip install esper-env-{DEFAULT_ENVIRONMENT}`, or train another environment: --env CartPole-v1" in said
    assert not (tmp_path / "runs").exists()
