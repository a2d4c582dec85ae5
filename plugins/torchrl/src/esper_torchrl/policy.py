"""A torchrl batch as flat samples, under the policy that collected it and under the policy as it is."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from tensordict import is_tensor_collection

from esper_core.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from esper_core.events import HeadKind

__all__ = ["Samples", "head_kinds", "head_names", "log_prob_keys", "samples_of"]

_SUFFIX = "_log_prob"
_MASK = ("collector", "mask")


@dataclass(slots=True)
class Samples:
    """One batch, flat, padding included.

    Attributes:
        old: float (N, heads), log-probabilities of the actions under the policy that took them.
        new: float (N, heads), under the policy as it is.
        mask: bool (N), False where the batch is padded; None without padding.
        entropy: float (N, 1), for a policy of one head that has one in closed form; else None.
        advantages: (N), or None.
        returns: (N), or None.
        values: (N), or None.
        frames: environment steps.
        episodes: (return, length, truncated) of each that ended, where the environment sums its rewards.
    """

    old: Tensor
    new: Tensor
    mask: Tensor | None
    entropy: Tensor | None
    advantages: Tensor | None
    returns: Tensor | None
    values: Tensor | None
    frames: int
    episodes: list[tuple[float, int, bool]]


def log_prob_keys(loss: Any) -> list[Any]:
    """Where the batch holds the log-probabilities: one key a head, or one for all heads together."""
    keys = loss.tensor_keys.sample_log_prob
    return list(keys) if isinstance(keys, list) else [keys]


def head_names(keys: list[Any]) -> tuple[str, ...]:
    """A name for each head, from its key: ``("action", "move_log_prob")`` is ``move``."""
    if len(keys) == 1:
        return ("action",)
    return tuple((key[-1] if isinstance(key, tuple) else key).removesuffix(_SUFFIX) for key in keys)


def head_kinds(loss: Any, keys: list[Any]) -> tuple[HeadKind, ...]:
    """What each head's distribution is, as the policy's last module names it; empty where it does not tell."""
    try:
        module = loss.actor_network[-1]
        kind = module.distribution_class
        if "distribution_map" in module.distribution_kwargs:
            parts = module.distribution_kwargs["distribution_map"]
            by_name = {(name[-1] if isinstance(name, tuple) else name): part for name, part in parts.items()}
            return tuple(_kind(by_name[name]) for name in head_names(keys))
    except (AttributeError, KeyError, TypeError):
        return ()
    return (_kind(kind),) * len(keys)


def _kind(distribution: Any) -> HeadKind:
    # torchrl's own, such as TanhNormal and IndependentNormal, are not derived from torch's.
    name = distribution.__name__
    known: tuple[tuple[str, HeadKind], ...] = (("Normal", "gaussian"), ("Beta", "beta"), ("Bernoulli", "bernoulli"))
    return next((kind for part, kind in known if part in name), "categorical")


@torch.no_grad()
def samples_of(loss: Any, batch: Any) -> Samples:
    """Read a batch and judge it under the policy as it is, in the mode that it is in."""
    keys = log_prob_keys(loss)
    if absent := [key for key in keys if batch.get(key, None) is None]:
        raise UsageError(
            f"the batch has no log-probabilities {absent[0]!r}",
            hint="the policy needs return_log_prob=True, and the loss module's key sample_log_prob their name",
        )
    flat = batch.reshape(-1)
    masked = flat.get(_MASK, None)
    mask = None if masked is None else masked.reshape(-1)
    new, entropy = _judged(loss, flat, keys)
    names = loss.tensor_keys
    return Samples(
        old=torch.stack([_column(flat.get(key), key) for key in keys], 1),
        new=new,
        mask=mask,
        entropy=entropy,
        advantages=_optional(flat, names.advantage),
        returns=_optional(flat, names.value_target),
        values=_optional(flat, names.value),
        frames=len(flat) if mask is None else int(mask.sum()),
        episodes=_episodes(flat, mask),
    )


def _judged(loss: Any, flat: Any, keys: list[Any]) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities (N, heads) of the batch's actions, and the entropy (N, 1) of a single head."""
    actor, params = loss.actor_network, loss.actor_network_params
    first = next(iter(loss.parameters()))
    seen = flat.copy().to(first.device)
    with params.to_module(actor, preserve_module_state=False) if params is not None else contextlib.nullcontext():
        distribution = actor.get_dist(seen)
    taken = loss.tensor_keys.action
    composite = hasattr(distribution, "dists")
    found = distribution.log_prob(seen if composite else seen.get(taken))
    columns = [found.get(key) for key in keys] if is_tensor_collection(found) else [found]
    log_prob = torch.stack([_column(column, key) for column, key in zip(columns, keys, strict=True)], 1)
    if composite or len(keys) > 1:
        return log_prob, None
    try:
        entropy = distribution.entropy()
    except NotImplementedError:
        return log_prob, None
    return log_prob, entropy.reshape(len(flat), 1) if entropy.numel() == len(flat) else None


def _column(values: Any, key: Any) -> Tensor:
    found: Tensor = values
    if found.ndim > 1 and found.numel() != len(found):
        raise UsageError(f"the log-probabilities {key!r} have shape {tuple(found.shape)}; needed is one a step")
    return found.reshape(-1)


def _optional(flat: Any, key: Any) -> Tensor | None:
    found = flat.get(key, None)
    return found.reshape(-1) if found is not None and found.numel() == len(flat) else None


def _episodes(flat: Any, mask: Tensor | None) -> list[tuple[float, int, bool]]:
    """Those that ended; needs the transform RewardSum, and StepCounter for their length."""
    done, total = flat.get(("next", "done"), None), flat.get(("next", "episode_reward"), None)
    if done is None or total is None or done.numel() != len(flat) or total.numel() != len(flat):
        return []
    ended = done.reshape(-1) if mask is None else done.reshape(-1) & mask
    steps, cut = flat.get(("next", "step_count"), None), flat.get(("next", "truncated"), None)
    count = int(ended.sum())
    lengths = [0] * count if steps is None else steps.reshape(-1)[ended].tolist()
    truncated = [False] * count if cut is None else cut.reshape(-1)[ended].tolist()
    return list(zip(total.reshape(-1)[ended].tolist(), lengths, truncated, strict=True))
