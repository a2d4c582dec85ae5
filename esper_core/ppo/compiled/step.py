"""A minibatch's step as one call of compiled code."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from esper_core.ppo.adam import State, step_sizes
from esper_core.ppo.compiled.graph import STATE, samples_of
from esper_core.ppo.measure import seen_of
from esper_core.ppo.surrogate import Weights

if TYPE_CHECKING:
    from collections.abc import Callable

    from esper_core.config.schema import PPOConfig
    from esper_core.ppo.adam import FlatAdam
    from esper_core.ppo.minibatches import Minibatch
    from esper_core.updates import MinibatchSeen

__all__ = ["CompiledStep", "Run"]

Run: TypeAlias = "Callable[[list[Tensor]], list[Tensor]]"
"""Compiled code: the inputs and results of :func:`esper_core.ppo.compiled.graph.step_of`."""


class CompiledStep:
    """One update's steps. The code returns the weights after the step: a step that is not taken is forgotten.

    Args:
        run: the compiled step.
        optimizer: whose state comes back at the end of the update.
        state: of the optimizer, at its beginning.
        config: the ``[ppo]`` table.
        clip_range: in force.
        entropy_coef: in force.
    """

    def __init__(
        self,
        run: Run,
        optimizer: FlatAdam,
        state: State,
        config: PPOConfig,
        *,
        clip_range: float,
        entropy_coef: float,
    ) -> None:
        self._run = run
        self._optimizer = optimizer
        self._config = config
        self._clip_range = clip_range
        self._entropy_coef = entropy_coef
        self._rate = float(optimizer.param_groups[0]["lr"])
        self._now: list[Tensor] = list(state[:STATE])
        self._next = self._now
        self._steps = self._before = state.steps
        # One tensor, written anew for each minibatch; pinned, it goes to a GPU without a wait.
        self._numbers_shown = torch.empty(7, dtype=torch.float32, pin_memory=state.values.is_cuda)
        self._numbers = self._numbers_shown.numpy()

    def inputs(self, minibatch: Minibatch) -> list[Tensor]:
        """What the code takes for a minibatch."""
        weights = Weights.of(minibatch, self._config, entropy_coef=self._entropy_coef)
        sizes = step_sizes(self._rate, self._steps + 1)
        self._numbers[:] = (*weights, self._clip_range, self._config.max_grad_norm, *sizes)
        return [*self._now, self._numbers_shown, *samples_of(minibatch)]

    def see(self, minibatch: Minibatch, *, asked: bool) -> tuple[MinibatchSeen, bool]:
        """The whole step; its result waits."""
        *self._next, report = self._run(self.inputs(minibatch))
        *sums, norm = report.tolist()
        return seen_of(sums, norm, minibatch), asked

    def take(self) -> None:
        """Go on from the result."""
        self._now = self._next
        self._steps += 1

    def done(self) -> None:
        """Give the optimizer, and so the policy, what was learned."""
        if self._steps > self._before:
            values, mean, square = self._now
            self._optimizer.adopt(State(values, mean, square, self._steps))
