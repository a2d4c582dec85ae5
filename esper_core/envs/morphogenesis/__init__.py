"""The default task: an agent that grows a network. ``docs/explanation/morphogenesis.md`` explains it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from esper_core.envs.morphogenesis.env import MorphogenesisEnv
from esper_core.errors import EnvironmentUnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from esper_core.config.schema import EnvConfig
    from esper_core.ppo.agent import PPOAgent

__all__ = ["EVALUATION", "MorphogenesisEnv", "make", "plot", "show"]

EVALUATION: Final[dict[str, Any]] = {"stagger": False}
"""Arguments that hold when a policy is evaluated, whatever it was trained with: whole episodes only."""


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


def show(agent: PPOAgent, env: EnvConfig, *, seed: int) -> Iterator[str]:
    """One episode of a trained agent as lines of text."""
    from esper_core.envs.morphogenesis.story import agent_policy, record, tell  # noqa: PLC0415 - only when asked

    return tell(record(agent_policy(agent, seed=seed), env.kwargs, seed=seed))


def plot(agent: PPOAgent, env: EnvConfig, *, seed: int, path: Path) -> None:
    """The same episode as a picture."""
    from esper_core.envs.morphogenesis.picture import draw  # noqa: PLC0415 - only when asked
    from esper_core.envs.morphogenesis.story import agent_policy, record  # noqa: PLC0415 - as above

    draw(record(agent_policy(agent, seed=seed), env.kwargs, seed=seed), path)
