"""``--video N``: what is recorded, where it lies, and that training does not notice it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import imageio_ffmpeg  # type: ignore[import-untyped]  # ships no types
import numpy as np
import pytest
from present import creator, present

import esper_core
from esper_core.envs import video
from esper_core.errors import EnvironmentUnsupportedError, UsageError
from esper_core.ppo import load_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from esper_core.config.keywords import EnvTable

LENGTH = 6


class Filmed(gym.Env[Any, Any]):
    """Six steps an episode; ``breaks``: the second recording's renderer does."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012  # Gymnasium's form

    def __init__(self, render_mode: str | None = None, *, breaks: bool = False, shows: Any = None) -> None:
        self.observation_space, self.action_space = gym.spaces.Box(-1, 9, (1,)), gym.spaces.Discrete(2)
        self.render_mode, self.breaks, self.shows = render_mode, breaks, shows
        self.at = self.frames = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.at = 0
        return self.np_random.random(1, dtype=np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.at += 1
        return self.np_random.random(1, dtype=np.float32), float(action), self.at == LENGTH, False, {}

    def render(self) -> Any:
        self.frames += 1
        if self.breaks and self.frames > 2 * LENGTH + 2:
            raise OSError("the renderer is gone")
        return np.full((16, 16, 3), 20 * self.at, np.uint8) if self.shows is None else self.shows


class Blind(Filmed):
    """Knows of no rendering."""

    metadata = {"render_modes": []}  # noqa: RUF012  # as above

    def __init__(self) -> None:
        super().__init__()


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    gym.register("Filmed-v0", creator(Filmed), max_episode_steps=100)
    gym.register("Blind-v0", creator(Blind))
    yield
    del gym.registry["Filmed-v0"], gym.registry["Blind-v0"]


def train(path: Path, every: int, *, env: EnvTable | None = None) -> esper_core.Run:
    return esper_core.train(
        env={"id": "Filmed-v0", "n_envs": 2, **(env or {})},
        updates=4,
        run={"dir": str(path), "video_every": every},
        ppo={"rollout_steps": 8, "epochs": 1, "hidden": (4,)},
        sinks=[],
        no_config=True,
    )


def test_an_episode_is_recorded_after_every_nth_update_and_training_does_not_notice(tmp_path: Path) -> None:
    run, plain = train(tmp_path, 2), train(tmp_path, 0)
    found = sorted((run.path / "videos").iterdir())
    assert [path.name for path in found] == ["update-000002.mp4", "update-000004.mp4"]
    assert [imageio_ffmpeg.count_frames_and_secs(str(path))[0] for path in found] == [LENGTH + 1] * 2
    assert not (plain.path / "videos").exists()
    weights, same = (load_checkpoint(each.directory.checkpoint).state["policy"] for each in (run, plain))
    assert all((weights[name] == same[name]).all() for name in weights)


def test_a_renderer_that_fails_is_told_and_training_goes_on(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="video after update 2 failed.*OSError: the renderer is gone") as told:
        run = train(tmp_path, 1, env={"kwargs": {"breaks": True}})
    assert len(told) == 1
    assert present(run.summary)["updates"] == 4
    names = sorted(path.name for path in (run.path / "videos").iterdir())
    assert names == ["update-000001.mp4", "update-000003.mp4", "update-000004.mp4"]


def test_a_long_episode_is_cut_where_its_frames_take_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "MOST_BYTES", 3 * 16 * 16 * 3)
    run = train(tmp_path, 4)
    (found,) = (run.path / "videos").iterdir()
    assert imageio_ffmpeg.count_frames_and_secs(str(found))[0] == 4


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"kwargs": {"shows": "text"}}, r"Filmed-v0 cannot be recorded: render\(\) returned str, not bytes"),
        ({"id": "Blind-v0"}, "Blind-v0 cannot be recorded: .*unexpected keyword argument 'render_mode'"),
        ({"id": "morphogenesis"}, "morphogenesis has no single environments"),
    ],
)
def test_what_cannot_be_recorded_is_refused_before_training(tmp_path: Path, env: Any, message: str) -> None:
    if env.get("id") == "morphogenesis":
        pytest.importorskip("esper_env_morphogenesis", reason="the default task is a plugin's")
    with pytest.raises(EnvironmentUnsupportedError, match=message):
        train(tmp_path, 1, env=env)
    assert not list(tmp_path.iterdir())


def test_without_moviepy_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "moviepy", None)
    with pytest.raises(UsageError, match=r"needs moviepy(.|\n)*esper-core\[video\]"):
        train(tmp_path, 1)
