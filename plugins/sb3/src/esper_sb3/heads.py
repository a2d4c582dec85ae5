"""A policy of Stable-Baselines3 as heads: one a component of the action space, through its public distributions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from gymnasium import spaces
from torch.distributions import Categorical, Normal, kl_divergence

from esper_core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = ["Judged", "Rollout", "head_names", "judge", "rollout_of"]


def head_names(space: spaces.Space[Any]) -> tuple[str, ...]:
    """A name for each head of an action space. Raises UsageError for one that PPO of SB3 does not take either."""
    if isinstance(space, spaces.Discrete):
        count = 1
    elif isinstance(space, spaces.MultiDiscrete):
        count = len(space.nvec)
    elif isinstance(space, (spaces.MultiBinary, spaces.Box)):
        if len(space.shape) != 1:
            raise UsageError(f"action space {space} has {len(space.shape)} dimensions; one is supported")
        count = space.shape[0]
    else:
        raise UsageError(f"action space {space} is not supported", hint="Discrete, MultiDiscrete, MultiBinary or Box")
    return ("action",) if count == 1 else tuple(f"action_{index}" for index in range(count))


@dataclass(slots=True)
class Rollout:
    """One rollout's samples, flat, on the policy's device, by reference: the buffer allocates anew for the next.

    Attributes:
        observations: a tensor, or a dict of them.
        actions: (N, columns).
        masks: the legal choices of MaskablePPO, or None.
        stored: float (N), the joint log-probability that SB3 keeps.
        advantages: (N).
        returns: (N).
        values: (N).
    """

    observations: Any
    actions: Tensor
    masks: Tensor | None
    stored: Tensor
    advantages: Tensor
    returns: Tensor
    values: Tensor

    def __len__(self) -> int:
        return len(self.stored)


@dataclass(slots=True)
class Judged:
    """A rollout under one policy.

    Attributes:
        log_prob: float (N, heads), of the actions taken; for Box (N, 1), of all dimensions together, squashed where the
            policy squashes.
        entropy: float (N, heads); None where a squash leaves none in closed form.
        gaussians: (mean, deviation), each (N, heads), for Box; else None.
        choices: int (N, heads), legal options of each decision; None for Box.
    """

    log_prob: Tensor
    entropy: Tensor | None
    gaussians: tuple[Tensor, Tensor] | None
    choices: Tensor | None

    def exact_kl(self, other: Judged) -> Tensor | None:
        """KL(self || other) of each dimension, for Box; None else."""
        if self.gaussians is None or other.gaussians is None:
            return None
        return kl_divergence(Normal(*self.gaussians), Normal(*other.gaussians))


def rollout_of(buffer: Any, device: torch.device) -> Rollout:
    """The samples of a full rollout buffer."""

    def flat(values: Any) -> Tensor:
        return torch.as_tensor(values, device=device).flatten(0, 1)

    seen = buffer.observations
    masks = getattr(buffer, "action_masks", None)
    return Rollout(
        observations={name: flat(part) for name, part in seen.items()} if isinstance(seen, dict) else flat(seen),
        actions=flat(buffer.actions),
        masks=None if masks is None else flat(masks),
        stored=flat(buffer.log_probs).flatten(),
        advantages=flat(buffer.advantages).flatten(),
        returns=flat(buffer.returns).flatten(),
        values=flat(buffer.values).flatten(),
    )


@torch.no_grad()
def judge(policy: Any, rollout: Rollout, chunk: int) -> Judged:
    """The rollout under the policy as it is, ``chunk`` samples at once, in evaluation mode, as it acted."""
    training = policy.training
    policy.set_training_mode(False)
    try:
        parts = [_judge_part(policy, rollout, slice(at, at + chunk)) for at in range(0, len(rollout), chunk)]
    finally:
        policy.set_training_mode(training)
    gaussians = [part.gaussians for part in parts if part.gaussians is not None]
    entropies = [part.entropy for part in parts if part.entropy is not None]
    choices = [part.choices for part in parts if part.choices is not None]
    return Judged(
        log_prob=torch.cat([part.log_prob for part in parts]),
        entropy=torch.cat(entropies) if entropies else None,
        gaussians=(torch.cat([mean for mean, _ in gaussians]), torch.cat([std for _, std in gaussians]))
        if gaussians
        else None,
        choices=torch.cat(choices) if choices else None,
    )


def _judge_part(policy: Any, rollout: Rollout, part: slice) -> Judged:
    seen = rollout.observations
    observations = {name: value[part] for name, value in seen.items()} if isinstance(seen, dict) else seen[part]
    masks = rollout.masks[part] if rollout.masks is not None else None
    found = policy.get_distribution(observations) if masks is None else policy.get_distribution(observations, masks)
    inner = getattr(found, "distributions", None) or found.distribution
    heads = inner if isinstance(inner, (list, tuple)) else [inner]
    actions = rollout.actions[part]
    if isinstance(heads[0], Categorical):
        columns = actions.reshape(len(actions), -1).unbind(1)
        return Judged(
            log_prob=torch.stack([head.log_prob(taken) for head, taken in zip(heads, columns, strict=True)], 1),
            entropy=torch.stack([head.entropy() for head in heads], 1),
            gaussians=None,
            choices=_choices(heads, masks, len(actions)),
        )
    only: Any = heads[0]  # Normal or Bernoulli: one distribution over all dimensions
    entropy = only.entropy()
    if isinstance(only, Normal):
        density = None if policy.squash_output else entropy
        return Judged(found.log_prob(actions)[:, None], density, (only.mean, only.stddev), None)
    log_prob = only.log_prob(actions.float())  # MultiBinary's actions are int8
    return Judged(log_prob, entropy, None, torch.full_like(log_prob, 2, dtype=torch.long))


def _choices(heads: Sequence[Any], masks: Tensor | None, rows: int) -> Tensor:
    """Legal options of each decision."""
    widths = [head.logits.shape[-1] for head in heads]
    if masks is None:
        return torch.tensor(widths).expand(rows, -1)
    return torch.stack([part.sum(-1) for part in torch.split(masks.reshape(rows, -1) > 0, widths, dim=1)], 1).long()
