"""The default task: an agent that grows a network. ``docs/explanation/morphogenesis.md`` explains it.

This module imports nothing heavy: Esper also loads it when it needs only the presets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from esper_core.hooks import EnvironmentPlugin
from esper_env_morphogenesis.presets import PRESETS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from esper_core.hooks import TrainedPolicy
    from esper_env_morphogenesis.env import MorphogenesisEnv

__all__ = ["environment", "make", "plot", "show"]


def make(*, num_envs: int, seed: int = 0, **kwargs: Any) -> MorphogenesisEnv:
    """Build the environment for ``env.id = "morphogenesis"``; the seed comes with the first reset.

    Raises:
        TypeError: an argument that the environment does not take.
    """
    from esper_env_morphogenesis.env import MorphogenesisEnv  # noqa: PLC0415 - loads torch

    del seed
    return MorphogenesisEnv(num_envs, **kwargs)


def show(policy: TrainedPolicy, kwargs: Mapping[str, Any], *, seed: int) -> Iterator[str]:
    """Play one episode of a trained policy and return it as lines of text."""
    from esper_env_morphogenesis.story import record, tell, trained  # noqa: PLC0415 - loads torch

    return tell(record(trained(policy), kwargs, seed=seed))


def plot(policy: TrainedPolicy, kwargs: Mapping[str, Any], *, seed: int, path: Path) -> None:
    """Play the same episode and draw it as a picture."""
    from esper_env_morphogenesis.picture import draw  # noqa: PLC0415 - loads torch
    from esper_env_morphogenesis.story import record, trained  # noqa: PLC0415 - as above

    draw(record(trained(policy), kwargs, seed=seed), path)


environment = EnvironmentPlugin(
    make=make,
    presets=PRESETS,
    default_preset="morphogenesis",
    evaluation={"stagger": False},  # whole episodes only
    show=show,
    plot=plot,
)
"""The object of the entry point in the group ``esper.environments``."""
