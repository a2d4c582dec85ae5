"""The environments of an evaluation: those of the training, as their plugin wants them where nothing is learned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from esper_core.config.environments import load_environment
from esper_core.envs.adapter import make_task

if TYPE_CHECKING:
    from esper_core.config.schema import EnvConfig
    from esper_core.ppo.task import Task

__all__ = ["evaluation_task"]


def evaluation_task(env: EnvConfig, *, episodes: int, seed: int) -> Task:
    """Build them: no more than there are episodes.

    Args:
        env: the table ``[env]`` of the training. A plugin declares what differs, for example whole episodes that all
            begin together.
        episodes: to be played.
        seed: of the environments.
    """
    plugin = load_environment(env.id)
    kwargs = {**env.kwargs, **(plugin.evaluation if plugin is not None else {})}
    n_envs = min(env.n_envs, episodes)
    return make_task(msgspec.structs.replace(env, n_envs=n_envs, kwargs=kwargs, seed_episodes=False), seed=seed)
