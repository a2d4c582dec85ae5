"""One episode to read and to look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from esper_core.config.schema import EnvConfig, PPOConfig
from esper_core.envs import morphogenesis
from esper_core.envs.adapter import make_task
from esper_core.envs.morphogenesis.baselines import FixedSchedules, Graft
from esper_core.envs.morphogenesis.picture import draw
from esper_core.envs.morphogenesis.story import record, tell
from esper_core.errors import EnvironmentUnsupportedError, UsageError
from esper_core.ppo import PPOAgent

if TYPE_CHECKING:
    from pathlib import Path

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


def test_story_and_picture_of_an_agent_are_of_the_same_episode(tmp_path: Path) -> None:
    config = EnvConfig(id="morphogenesis", n_envs=2, kwargs=dict(SMALL))
    task = make_task(config, seed=0)
    assert task.conditioning_head == "operations"
    assert [head.size for head in task.heads] == [3, 5, 3, 3, 4]
    agent = PPOAgent(task.heads, task.obs_shape, PPOConfig(), conditioning_head=task.conditioning_head)
    first = list(morphogenesis.show(agent, config, seed=3))
    morphogenesis.plot(agent, config, seed=3, path=tmp_path / "a.png")
    assert list(morphogenesis.show(agent, config, seed=3)) == first
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_an_argument_that_the_environment_does_not_take_is_one_clear_error() -> None:
    with pytest.raises(EnvironmentUnsupportedError, match="colour"):
        make_task(EnvConfig(id="morphogenesis", kwargs={"colour": 1}), seed=0)
