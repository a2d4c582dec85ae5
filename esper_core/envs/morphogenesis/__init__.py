"""The default task: an agent that grows a network. ``docs/explanation/morphogenesis.md`` explains it."""

from __future__ import annotations

from typing import Any

from esper_core.envs.morphogenesis.env import MorphogenesisEnv

__all__ = ["MorphogenesisEnv", "make"]


def make(*, num_envs: int, seed: int = 0, **kwargs: Any) -> MorphogenesisEnv:
    """Build the environment for ``env.id = "morphogenesis"``; the seed comes with the first reset."""
    del seed
    return MorphogenesisEnv(num_envs, **kwargs)
