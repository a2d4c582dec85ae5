"""Runs of seconds: words that make ``esper ppo`` small, and the one run of a folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["CARTPOLE", "TINY", "only_run"]

TINY = ["--set", "ppo.rollout_steps=16", "--set", "env.n_envs=2", "--set", "ppo.minibatch_size=16", "--preset", "none"]
CARTPOLE = ["--env", "CartPole-v1"]


def only_run(folder: Path) -> Path:
    (found,) = (folder / "runs").iterdir()
    return found
