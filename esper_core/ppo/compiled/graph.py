"""The step of a minibatch as one function of tensors: the eager loss, its gradient, clipping, Adam and the report.

Nothing of the algorithm is written a second time: the loss is :func:`esper_core.ppo.surrogate.ppo_loss`, the gradient
autograd's, and the trace of both is what is compiled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn

from esper_core.ppo.adam import adam_step
from esper_core.ppo.measure import minibatch_sums
from esper_core.ppo.minibatches import Minibatch
from esper_core.ppo.surrogate import Loss, Weights, ppo_loss

if TYPE_CHECKING:
    from collections.abc import Callable

    from esper_core.config.schema import PPOConfig
    from esper_core.ppo.policy import MultiHeadPolicy

__all__ = ["STATE", "samples_of", "step_of"]

STATE: Final = 3
"""Inputs, and results, that are the optimizer's state: values, mean and square."""


def samples_of(minibatch: Minibatch) -> list[Tensor]:
    """What of a minibatch goes into the step, in the order of its inputs. The code reads rows without gaps."""
    found = [
        minibatch.observations,
        minibatch.actions,
        minibatch.log_prob,
        minibatch.active,
        minibatch.advantages,
        minibatch.ratio_least,
        minibatch.ratio_most,
        minibatch.returns,
        minibatch.values,
    ]
    if minibatch.legal is not None:
        found.append(minibatch.legal)
    return found


def step_of(policy: MultiHeadPolicy, config: PPOConfig) -> Callable[..., tuple[Tensor, ...]]:
    """The step of a policy, whatever its weights are.

    Returns:
        A function of values, mean and square float32 (n) of :meth:`FlatAdam.state`; of seven numbers float32 (7): the
        loss's three weights, clip range, gradient limit, and both of :func:`esper_core.ppo.adam.step_sizes`; and of
        what :func:`samples_of` lists. It returns the first three after the step, and the minibatch's sums float64 (see
        :func:`esper_core.ppo.measure.minibatch_sums`) with the norm of the gradient.
    """
    learned = policy.learned()
    names = {id(parameter): name for name, parameter in policy.named_parameters()}
    places = [(f"policy.{names[id(parameter)]}", parameter.shape) for parameter in learned]
    sizes = [parameter.numel() for parameter in learned]
    judge = _Judge(policy, config)

    def step(values: Tensor, mean: Tensor, square: Tensor, numbers: Tensor, *samples: Tensor) -> tuple[Tensor, ...]:
        *weights, clip_range, limit, size, root = numbers.unbind(0)
        with torch.enable_grad():
            flat = values.detach().requires_grad_()
            parts = zip(places, flat.split_with_sizes(sizes), strict=True)
            views = {name: part.view(shape) for (name, shape), part in parts}
            loss: Loss = torch.func.functional_call(judge, views, (_minibatch(samples), Weights(*weights)))
            (gradient,) = torch.autograd.grad(loss.total, flat)
        with torch.no_grad():
            norm = torch.linalg.vector_norm(gradient)
            clipped = gradient * (limit / (norm + 1e-6)).clamp(max=1.0)
            sums = minibatch_sums(Loss(*(part.detach() for part in loss)), clip_range, norm)
            return *adam_step(values, clipped, mean, square, size=size, root=root), sums

    return step


class _Judge(nn.Module):
    """The loss as a module's ``forward``, whose parameters can be replaced by views of one vector."""

    def __init__(self, policy: MultiHeadPolicy, config: PPOConfig) -> None:
        super().__init__()
        self.policy = policy
        self._config = config

    def forward(self, minibatch: Minibatch, weights: Weights) -> Loss:
        return ppo_loss(self.policy, minibatch, self._config, weights)


def _minibatch(samples: tuple[Tensor, ...]) -> Minibatch:
    observations, actions, log_prob, active, advantages, least, most, returns, values, *legal = samples
    return Minibatch(
        observations=observations,
        actions=actions,
        log_prob=log_prob,
        legal=legal[0] if legal else None,
        active=active,
        advantages=advantages,
        ratio_least=least,
        ratio_most=most,
        returns=returns,
        values=values,
        decisions=(),
        steps=0.0,  # they are in the weights
        samples=0.0,
    )
