"""The boundary between two updates: what a run goes on from so that an interruption changes nothing.

Only a task whose environments can be brought back has one (``env.seed_episodes``): then what is kept is the run as it
was before the rollout that was not completed, with the place in every environment, and what came of the interrupted
rollout or update is played again. Other tasks keep the agent as it is; their environments begin new episodes.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from esper_core.ppo.episodes import EpisodeTracker
    from esper_core.ppo.task import Task

__all__ = ["Boundary", "ResumableTask", "go_back"]


@runtime_checkable
class ResumableTask(Protocol):
    """A task whose environments may be brought back to where they were."""

    @property
    def resumable(self) -> bool:
        """Whether these can."""
        ...

    def mark(self) -> None:
        """Remember where every environment is."""
        ...

    def marked(self) -> list[dict[str, Any]]:
        """Where every environment was at the last mark: plain values, and arrays under ``actions``."""
        ...

    def go_back(self, places: Sequence[Mapping[str, Any]]) -> list[str]:
        """Bring every environment back; the next reset begins nothing new.

        Returns:
            Of each environment, why it begins a new episode instead; empty where it is back.
        """
        ...


class Boundary:
    """Keeps the last one.

    Args:
        task: of the run.
        content: makes what a checkpoint holds of this moment.
        episodes: the statistics of the episodes that are played.
    """

    def __init__(self, task: Task, content: Callable[[], dict[str, Any]], episodes: EpisodeTracker) -> None:
        self._task = task if isinstance(task, ResumableTask) and task.resumable else None
        self._content = content
        self._episodes = episodes
        self._kept: dict[str, Any] | None = None

    @property
    def exact(self) -> bool:
        """Whether a run goes on from it as if it had not been interrupted."""
        return self._task is not None

    def reached(self) -> None:
        """A rollout is about to begin: this is the moment to go on from."""
        if self._task is not None:
            self._task.mark()
            self._kept = copy.deepcopy(self._content()) | {"running": self._episodes.running}

    def content(self) -> dict[str, Any]:
        """What a checkpoint written now is to hold."""
        if self._task is None or self._kept is None:
            return self._content()
        return self._kept | {"places": [_kept(place) for place in self._task.marked()]}


def go_back(
    task: Task, episodes: EpisodeTracker, places: Sequence[Mapping[str, Any]], running: Sequence[Sequence[float]] | None
) -> list[str]:
    """Bring a task's environments, and the statistics of their episodes, back to where a checkpoint was written.

    Args:
        task: of the resumed run.
        episodes: its statistics; changed.
        places: of the checkpoint; empty for none.
        running: of the checkpoint, see :attr:`~esper_core.ppo.episodes.EpisodeTracker.running`.

    Returns:
        Lines on what begins anew instead.
    """
    if not places or running is None or not isinstance(task, ResumableTask) or not task.resumable:
        return []
    if len(places) != task.n_envs:
        return [f"{task.name}: {len(places)} environments were played, {task.n_envs} are now: all begin new episodes"]
    reasons = task.go_back([_read(place) for place in places])
    episodes.go_on(running, [not reason for reason in reasons])
    return [
        f"{task.name}, environment {index} begins a new episode: {reason}"
        for index, reason in enumerate(reasons)
        if reason
    ]


def _kept(place: Mapping[str, Any]) -> dict[str, Any]:
    """A place as a checkpoint holds it, which is plain values and tensors."""
    actions = place["actions"]
    return {**place, "actions": None if actions is None else torch.from_numpy(np.ascontiguousarray(actions))}


def _read(place: Mapping[str, Any]) -> dict[str, Any]:
    actions = place["actions"]
    return {**place, "actions": None if actions is None else actions.numpy()}
