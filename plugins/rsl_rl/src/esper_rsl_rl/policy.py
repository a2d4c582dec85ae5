"""An actor of rsl_rl as heads: one a dimension of its action, whose KL has a closed form."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
from rsl_rl.modules.distribution import BetaDistribution, GaussianDistribution
from torch.distributions import Beta, Distribution, Normal

from esper_core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from esper_core.events import HeadKind

__all__ = ["Parameters", "distribution", "head_kind", "head_names", "judge", "watchable"]

Parameters = tuple["Tensor", ...]
"""Of a distribution: (mean, deviation) or (alpha, beta), each (N, heads)."""


def watchable(actor: Any) -> None:
    """Refuse, in one sentence, an actor whose KL one pass over the rollout does not give."""
    if actor.is_recurrent:
        raise UsageError(
            "a recurrent actor is not supported: its distribution depends on hidden states that one pass over the "
            "flat rollout does not have, so the KL would not be the policy's",
            hint='algorithm.class_name = "PPO" trains it without Esper',
        )
    if not isinstance(actor.distribution, (GaussianDistribution, BetaDistribution)):
        raise UsageError(
            f"{type(actor.distribution).__name__} is not supported: no KL of it by dimension is known",
            hint="GaussianDistribution, HeteroscedasticGaussianDistribution, BetaDistribution or a subclass",
        )


def head_names(actor: Any) -> tuple[str, ...]:
    """A name for each dimension of the action."""
    return tuple(f"joint_{index}" for index in range(actor.distribution.output_dim))


def head_kind(actor: Any) -> HeadKind:
    """The distribution of every head."""
    return "beta" if isinstance(actor.distribution, BetaDistribution) else "gaussian"


def distribution(actor: Any, parameters: Parameters) -> Distribution:
    """A torch distribution of parameters as rsl_rl stores them, in double precision where the device has it."""
    first, second = (_precise(part) for part in parameters)
    kind = Beta if head_kind(actor) == "beta" else Normal
    return kind(first, second, validate_args=False)


@torch.no_grad()
def judge(actor: Any, observations: Any, chunk: int) -> Parameters:
    """The rollout under the policy as it is, ``chunk`` samples at once, in the mode that it is in.

    No generator and no state of the actor is changed by it.
    """
    parts = []
    with _unchanged(actor, observations.device):
        for at in range(0, len(observations), chunk):
            actor(observations[at : at + chunk], stochastic_output=True)
            parts.append(actor.output_distribution_params)
    return tuple(torch.cat(columns) for columns in zip(*parts, strict=True))


@contextlib.contextmanager
def _unchanged(actor: Any, device: Any) -> Iterator[None]:
    """A forward pass draws an action and leaves its distribution behind, which rsl_rl logs: undo both."""
    state = vars(actor.distribution)
    before = dict(state)
    cuda = [device] if device is not None and device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=cuda):
            yield
    finally:
        state.clear()
        state.update(before)


def _precise(values: Tensor) -> Tensor:
    return (values.cpu() if values.device.type == "mps" else values).double()
