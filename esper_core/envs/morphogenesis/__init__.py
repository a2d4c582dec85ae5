"""The default task: an agent that grows a network. ``docs/explanation/morphogenesis.md`` explains it."""

from __future__ import annotations

from typing import Any

from esper_core.envs.morphogenesis.env import MorphogenesisEnv
from esper_core.errors import EnvironmentUnsupportedError

__all__ = ["MorphogenesisEnv", "make"]


def make(*, num_envs: int, seed: int = 0, **kwargs: Any) -> MorphogenesisEnv:
    """Build the environment for ``env.id = "morphogenesis"``; the seed comes with the first reset.

    Raises:
        EnvironmentUnsupportedError: an argument that the environment does not take.
    """
    del seed
    try:
        return MorphogenesisEnv(num_envs, **kwargs)
    except TypeError as error:
        raise EnvironmentUnsupportedError(f"morphogenesis: {error}", hint="check [env.kwargs]") from error
