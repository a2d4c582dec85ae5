"""The paper's inner loop (Schulman et al. 2017, arXiv:1707.06347, algorithm 1), and the step that it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from esper_core.ppo.measure import see_minibatch
from esper_core.ppo.minibatches import minibatches
from esper_core.ppo.surrogate import Weights, ppo_loss

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from esper_core.config.schema import PPOConfig
    from esper_core.ppo.adam import FlatAdam
    from esper_core.ppo.minibatches import Minibatch
    from esper_core.ppo.policy import MultiHeadPolicy
    from esper_core.ppo.reducer import Reducer
    from esper_core.ppo.rollout import Batch
    from esper_core.updates import MinibatchSeen, UpdateRecorder

__all__ = ["EagerStep", "MinibatchStep", "learn"]


class MinibatchStep(Protocol):
    """One optimizer step of one update, in two halves: the stop is between them."""

    def see(self, minibatch: Minibatch, *, asked: bool) -> tuple[MinibatchSeen, bool]:
        """Work out loss and gradient. No weight changes.

        Args:
            minibatch: of this rank.
            asked: whether this rank was asked to stop.

        Returns:
            What the minibatch showed on all ranks, and whether any was asked to stop.
        """
        ...

    def take(self) -> None:
        """Step against the gradient of the minibatch seen last."""
        ...

    def done(self) -> None:
        """The update ends: from now on policy and optimizer hold what was learned."""
        ...


class EagerStep:
    """Operation by operation, as it is written.

    Args:
        policy: learns.
        optimizer: of its parameters.
        config: the ``[ppo]`` table.
        clip_range: in force.
        entropy_coef: in force.
        reducer: joins the ranks.
    """

    def __init__(
        self,
        policy: MultiHeadPolicy,
        optimizer: FlatAdam,
        config: PPOConfig,
        *,
        clip_range: float,
        entropy_coef: float,
        reducer: Reducer,
    ) -> None:
        self._policy = policy
        self._optimizer = optimizer
        self._config = config
        self._clip_range = clip_range
        self._entropy_coef = entropy_coef
        self._reducer = reducer
        self._grad_norm = 0.0
        optimizer.hold()

    def see(self, minibatch: Minibatch, *, asked: bool) -> tuple[MinibatchSeen, bool]:
        """Loss and gradient."""
        optimizer = self._optimizer
        optimizer.zero_grad()
        weights = Weights.of(minibatch, self._config, entropy_coef=self._entropy_coef)
        loss = ppo_loss(self._policy, minibatch, self._config, weights)
        loss.total.backward()  # type: ignore[no-untyped-call]  # torch ships it without annotations
        optimizer.over_ranks(self._reducer)
        seen, interrupted = see_minibatch(
            loss,
            minibatch,
            optimizer.grad_norm(),
            interrupted=asked,
            clip_range=self._clip_range,
            reducer=self._reducer,
        )
        self._grad_norm = seen.shown["grad_norm"] or 0.0
        return seen, interrupted

    def take(self) -> None:
        """Adam's step against the clipped gradient."""
        self._optimizer.clip(self._grad_norm, self._config.max_grad_norm)
        self._optimizer.step()

    def done(self) -> None:
        """They hold it already."""


def learn(
    step: MinibatchStep,
    batch: Batch,
    *,
    epochs: int,
    parts: int,
    clip_range: float,
    order: torch.Generator,
    reducer: Reducer,
    recorder: UpdateRecorder,
    should_stop: Callable[[], bool] | None,
) -> None:
    """Epochs of minibatches, until done or until the policy has moved far enough.

    Args:
        step: of this update.
        batch: samples of this rank, with the advantages that the loss takes.
        epochs: passes over it.
        parts: minibatches of each.
        clip_range: of the joint ratio around 1.
        order: draws the order of the samples.
        reducer: joins the ranks.
        recorder: is told of every minibatch, and decides on the stop.
        should_stop: read before each optimizer step; True ends the update there.
    """
    try:
        for _ in range(epochs):
            recorder.begin_epoch()
            shuffled = batch.shuffled(order)
            for minibatch in minibatches(shuffled, parts, clip_range=clip_range, reducer=reducer):
                asked = should_stop is not None and should_stop()
                seen, interrupted = step.see(minibatch, asked=asked)
                non_finite = recorder.saw(seen)
                if interrupted:
                    recorder.interrupt("asked to stop")
                    return
                if non_finite:
                    recorder.interrupt("non-finite loss or gradient")
                    return
                if recorder.stop_before_step():
                    return
                step.take()
                recorder.stepped()
            if recorder.stop_after_epoch():
                return
    finally:
        step.done()
