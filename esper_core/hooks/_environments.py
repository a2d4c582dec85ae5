"""The declaration of an environment plugin: how to make the environment, its presets, and how to show an episode."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    import numpy as np
    from gymnasium.vector import VectorEnv
    from numpy.typing import NDArray

__all__ = ["EnvironmentPlugin", "PlotEpisode", "ShowEpisode", "TrainedPolicy"]


class TrainedPolicy(Protocol):
    """A trained policy, as passed to an environment plugin; ``esper_core.ppo.PPOAgent`` is one."""

    def act(
        self,
        obs: NDArray[Any],
        mask: NDArray[np.bool_] | None = None,
        *,
        conditional_mask: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> NDArray[np.int64]:
        """Choose actions.

        Args:
            obs: (n, inputs), observations of the kind that the policy was trained on.
            mask: bool (n, sum of head sizes), the legal choices; None when all are.
            conditional_mask: bool (n, choices of the conditioning head, sum of head sizes).
            deterministic: take the likeliest choice of each head instead of a sample.

        Returns:
            int64 (n, heads), or (n,) for one head.
        """


class ShowEpisode(Protocol):
    """Plays one episode and describes it as text."""

    def __call__(self, policy: TrainedPolicy, kwargs: Mapping[str, Any], *, seed: int) -> Iterable[str]:
        """Lines of text.

        Args:
            policy: chooses the actions. Its sampling was seeded before the call.
            kwargs: ``[env.kwargs]`` of the run.
            seed: the environment's seed. ``plot`` is called with the same seed and plays the same episode.
        """


class PlotEpisode(Protocol):
    """Plays one episode and draws it."""

    def __call__(self, policy: TrainedPolicy, kwargs: Mapping[str, Any], *, seed: int, path: Path) -> None:
        """Write the picture, in the format of the suffix of ``path``. The other arguments are those of ``show``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvironmentPlugin:
    """An environment that ``[env] id = NAME`` selects: the object behind an entry point of ``esper.environments``.

    Only the selected plugin is imported, and also when only its presets are needed: so its module must import neither
    torch nor Gymnasium before ``make`` is called.

    Attributes:
        make: called as ``make(num_envs=n, seed=s, **kwargs)`` with ``[env.kwargs]``; returns a
            ``gymnasium.vector.VectorEnv`` that resets in the same step. A TypeError means a wrong argument.
        presets: name -> tables ``ppo``, ``env`` and ``run``, beneath the configuration file, for ``--preset NAME``.
        default_preset: the preset in force when none is named; empty for none.
        evaluation: arguments that replace those of the training when a policy is evaluated.
        show: ``esper eval --show``; None when there is nothing to show.
        plot: ``esper eval --plot``; None when there is nothing to plot.
    """

    make: Callable[..., VectorEnv[Any, Any, Any]]
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({}))
    default_preset: str = ""
    evaluation: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    show: ShowEpisode | None = None
    plot: PlotEpisode | None = None
