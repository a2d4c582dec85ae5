"""Reads masks from an environment's ``info``, checks them, and makes them safe to sample with.

* ``info["action_mask"]``: bool (n, sum of head sizes), True for legal choices.
* ``info["conditional_action_mask"]``: bool (n, choices of the conditioning head, sum of head sizes).
* ``info["causal_mask"]``: bool (n, heads), which heads of the action just taken had an effect.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from esper_core.errors import ConfigError, EnvironmentUnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from esper_core.ppo.heads import HeadSpec
    from esper_core.ppo.task import BoolArray, IntArray

__all__ = ["CausalMask", "CausalTable", "MaskReader", "load_causal_mask"]


class CausalMask(Protocol):
    """Computes which heads of an action have an effect."""

    def __call__(self, actions: IntArray, /) -> BoolArray:
        """Map actions int64 (n, heads) to bool (n, heads)."""
        ...


class CausalTable:
    """A causal mask that depends only on the choice of one head.

    Args:
        table: bool (choices of that head, heads).
        head: its column in the action.
    """

    def __init__(self, table: Sequence[Sequence[bool]] | BoolArray, head: int) -> None:
        self._table = np.asarray(table, dtype=bool)
        self._head = head

    def __call__(self, actions: IntArray, /) -> BoolArray:
        """Rows of the table."""
        return self._table[actions[:, self._head]]


def load_causal_mask(spec: str) -> CausalMask:
    """Import ``module:function``."""
    module_name, _, attribute = spec.partition(":")
    if not module_name or not attribute:
        raise ConfigError(f'env.causal_mask "{spec}" is not of the form module:function')
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module_name), attribute)
    except ImportError as error:
        raise ConfigError(
            f'env.causal_mask "{spec}": {error}', hint="is the module on PYTHONPATH or installed?"
        ) from error
    except AttributeError as error:
        raise ConfigError(f'env.causal_mask "{spec}": {module_name} has no {attribute}') from error
    if not callable(found):
        raise ConfigError(f'env.causal_mask "{spec}" cannot be called')
    return found


class MaskReader:
    """Reads one environment's masks from ``info`` and checks their shapes.

    Args:
        name: the environment's id, for messages.
        heads: the heads, in the order of the action's columns.
        n_envs: the number of environments.
        conditioning: column of the conditioning head, or None.
    """

    def __init__(self, name: str, heads: Sequence[HeadSpec], n_envs: int, conditioning: int | None) -> None:
        self._name = name
        self._heads = tuple(heads)
        self._n_envs = n_envs
        self._conditioning = conditioning
        sizes = [head.size for head in heads]
        self._total = sum(sizes)
        self._starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))

    def action_mask(self, info: Mapping[str, Any]) -> BoolArray | None:
        """The mask of legal choices, or None when the environment provides none."""
        found = info.get("action_mask")
        if found is None:
            return None
        mask = self._checked("action_mask", found, (self._n_envs, self._total))
        some = self._some_legal(mask)
        if some.all():
            return mask
        env, head = (int(index) for index in np.argwhere(~some)[0])
        raise EnvironmentUnsupportedError(
            f"{self._name}: action_mask of environment {env} leaves head {self._heads[head].name} no legal choice",
            hint="a head without effect needs one legal choice too, for example its first",
        )

    def conditional_mask(self, info: Mapping[str, Any]) -> BoolArray | None:
        """The mask of legal choices for each choice of the conditioning head, or None."""
        found = info.get("conditional_action_mask")
        if found is None or self._conditioning is None:
            return None
        choices = self._heads[self._conditioning].size
        mask = self._checked("conditional_action_mask", found, (self._n_envs, choices, self._total))
        empty = ~self._some_legal(mask)
        if empty.any():
            # A head without effect under a choice may have an empty mask: make one choice legal for sampling.
            mask = mask.copy()
            for head in np.flatnonzero(empty.any(axis=(0, 1))):
                if head != self._conditioning:
                    mask[..., self._starts[head]] |= empty[..., head]
        return mask

    def causal_mask(self, info: Mapping[str, Any], done: BoolArray) -> BoolArray | None:
        """The mask of heads that had an effect; for an ended episode, from the ``info`` of its last step."""
        found = info.get("causal_mask")
        final = info.get("final_info")
        last = final.get("causal_mask") if isinstance(final, dict) else None
        shape = (self._n_envs, len(self._heads))
        if found is None and last is None:
            return None
        mask = self._checked("causal_mask", found, shape) if found is not None else np.ones(shape, dtype=bool)
        if last is not None and done.any():
            mask = np.where(done[:, None], self._checked("causal_mask", last, shape), mask)
        return mask

    def _some_legal(self, mask: BoolArray) -> BoolArray:
        """Bool (..., heads): whether a head has any legal choice."""
        return np.logical_or.reduceat(mask, self._starts, axis=-1)

    def _checked(self, what: str, found: Any, shape: tuple[int, ...]) -> BoolArray:
        mask = np.asarray(found)
        if mask.shape != shape:
            raise EnvironmentUnsupportedError(
                f'{self._name}: info["{what}"] has shape {mask.shape}, expected {shape}',
                hint="environments first, then the choices of all heads one after another",
            )
        return mask if mask.dtype == bool else mask.astype(bool)
