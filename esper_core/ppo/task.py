"""Task: what the agent trains on, as the trainer sees it. Anything with these members can be trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from esper_core.ppo.actions import ActionForm
    from esper_core.ppo.heads import HeadSpec
    from esper_core.ppo.preprocessing import ObservationForm

__all__ = ["BoolArray", "FloatArray", "IntArray", "Observation", "StepResult", "Task"]

BoolArray: TypeAlias = NDArray[np.bool_]
FloatArray: TypeAlias = NDArray[np.floating]
IntArray: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Observation:
    """What n environments show, and what may be done there.

    Attributes:
        values: float32 (n, inputs), as the task's preprocessing makes rows of them. May be reused by the next
            step: copy what must outlive it.
        action_mask: bool (n, sum of head sizes), True for legal choices; None when all are legal.
        conditional_mask: bool (n, choices of the conditioning head, sum of head sizes): the mask of every head
            given each choice of the conditioning head; None when no head conditions the others. Every head has
            at least one legal choice in every row of both masks.
    """

    values: FloatArray
    action_mask: BoolArray | None = None
    conditional_mask: BoolArray | None = None


@dataclass(frozen=True, slots=True)
class StepResult:
    """One step of n environments, already reset where an episode ended, but for ``resets``.

    Attributes:
        observation: to act on next; of the new episode where one ended.
        reward: float64 (n,).
        terminated: bool (n,), ended by the task.
        truncated: bool (n,), cut by a limit.
        final_values: float32 (n, inputs), the last observation of each episode that ended in this step (other rows
            are meaningless); None when no episode was truncated.
        causal_mask: bool (n, heads), which heads of the action that was taken had an effect; None for all.
        resets: bool (n,), where nothing was played: the step only began the episode after the one that ended in the
            step before, and the action was ignored; None for nowhere. Only tasks have such rows whose environments
            reset in the step after an episode's last one; an episode's last observation is then what that last step
            shows, and ``final_values`` is None.
    """

    observation: Observation
    reward: FloatArray
    terminated: BoolArray
    truncated: BoolArray
    final_values: FloatArray | None = None
    causal_mask: BoolArray | None = None
    resets: BoolArray | None = None

    @property
    def played(self) -> int:
        """In how many environments the step was one of an episode."""
        return len(self.terminated) - (0 if self.resets is None else int(np.count_nonzero(self.resets)))


class Task(Protocol):
    """n environments side by side with one action space."""

    @property
    def name(self) -> str:
        """The environment's id."""
        ...

    @property
    def heads(self) -> tuple[HeadSpec, ...]:
        """The action's columns."""
        ...

    @property
    def action_form(self) -> ActionForm | None:
        """How the heads' columns make the environment's action; None for the columns themselves."""
        ...

    @property
    def obs_shape(self) -> tuple[int, ...]:
        """Shape of one flattened observation."""
        ...

    @property
    def observation_form(self) -> ObservationForm:
        """What an observation of one environment consists of, and how it becomes a row of ``obs_shape``."""
        ...

    @property
    def spaces(self) -> tuple[str, str]:
        """Observation and action space of one environment, as text that differs when a space does."""
        ...

    @property
    def n_envs(self) -> int:
        """Environments stepped side by side."""
        ...

    @property
    def conditioning_head(self) -> str | None:
        """The head that is sampled first and chooses the row of ``conditional_mask``; None when there is none."""
        ...

    def read_as(self, form: ObservationForm | None) -> None:
        """Read observations as a checkpoint's agent did; None is one of 0.1. A form that does not fit is left alone."""
        ...

    def reset(self, seed: int | None = None) -> Observation:
        """Begin new episodes everywhere."""
        ...

    def step(self, actions: IntArray | FloatArray) -> StepResult:
        """Take one action (n, heads) in every environment and reset those that ended (same step).

        Choices are counted from 0. A Gaussian head makes the whole array float64; its values are within its bounds.
        """
        ...

    def close(self) -> None:
        """Free what the environments hold."""
        ...
