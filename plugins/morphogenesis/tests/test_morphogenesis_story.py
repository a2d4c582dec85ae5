"""One episode to read and to look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from esper_core.cli.main import main
from esper_core.config.layers import Resolved
from esper_core.config.schema import EnvConfig, EsperConfig, PPOConfig
from esper_core.config.show import config_toml
from esper_core.envs.adapter import make_task
from esper_core.errors import EnvironmentUnsupportedError, UsageError
from esper_core.ppo import PPOAgent, save_checkpoint
from esper_core.runs import create_run
from esper_env_morphogenesis.baselines import FixedSchedules, Graft
from esper_env_morphogenesis.picture import draw
from esper_env_morphogenesis.story import record, tell

if TYPE_CHECKING:
    from pathlib import Path

    from esper_env_morphogenesis.story import Episode

pytestmark = pytest.mark.numeric

SMALL = {"epochs": 16, "batches": 1, "batch_size": 8, "validation_size": 20, "stagger": True}


def test_a_story_tells_what_was_done_and_what_came_of_it(tmp_path: Path) -> None:
    policy = FixedSchedules([(Graft(0, 2, 0, fossil=5), Graft(1, 0, 3, tempo=1, prune=9))])
    episode = record(policy, SMALL, seed=2)
    lines = list(tell(episode))
    story = "\n".join(lines)
    assert lines[0].startswith("world: signals ")
    first, second = episode.world.lesions
    assert f"block {first[1]} dies at epoch 0 and block {second[1]} dies at epoch {second[0]}" in lines[0]
    for part in (
        "    0  GERMINATE conv in 0, tempo 1, offset 1",
        "    3  GERMINATE norm in 1, tempo 3, offset 1",
        "blending norm 0.33",
        "    5  FOSSILIZE slot 0",
        "fossil conv",
        "    9  PRUNE slot 1",
        "resting",
        f"{second[0]:>5}  block {second[1]} DIES",
        "more epoch",
    ):
        assert part in story
    total = sum(moment.reward for moment in episode.moments)
    assert lines[-1] == f"accuracy {episode.start:.1%} -> {episode.moments[-1].accuracy:.1%}, return {total:+.2f}"
    draw(episode, tmp_path / "episode.png")
    assert (tmp_path / "episode.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="cannot write"):
        draw(episode, tmp_path / "no" / "folder.png")


def test_story_and_picture_of_an_agent_are_of_the_same_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = EnvConfig(id="morphogenesis", n_envs=2, kwargs=dict(SMALL))
    task = make_task(config, seed=0)
    assert task.conditioning_head == "operations"
    assert [head.size for head in task.heads] == [3, 5, 3, 3, 4]
    agent = PPOAgent(task.heads, task.obs_shape, PPOConfig(), conditioning_head=task.conditioning_head)
    task.close()
    run = create_run(tmp_path, name="story")
    run.config_path.write_text(config_toml(Resolved(EsperConfig(env=config)), {}), encoding="utf-8")
    save_checkpoint(run.checkpoint, agent)
    seen: list[Episode] = []
    monkeypatch.setattr("esper_env_morphogenesis.picture.draw", lambda episode, path: seen.append(episode))
    words = ["eval", str(run.path), "--seed", "3"]
    assert main([*words, "--show"]) == 0
    first = capsys.readouterr().out
    assert main([*words, "--show", "--plot", str(tmp_path / "a.png")]) == 0
    assert capsys.readouterr().out.startswith(first)
    assert "\n".join(tell(seen[0])) + "\n" == first


def test_an_argument_that_the_environment_does_not_take_is_one_clear_error() -> None:
    with pytest.raises(EnvironmentUnsupportedError, match="colour"):
        make_task(EnvConfig(id="morphogenesis", kwargs={"colour": 1}), seed=0)
