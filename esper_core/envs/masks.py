"""Reads masks from an environment's ``info``, checks them, and makes them safe to sample with.

* ``info["action_mask"]``: bool (n, sum of head sizes), True for legal choices.
* ``info["conditional_action_mask"]``: bool (n, choices of the conditioning head, sum of head sizes).
* ``info["causal_mask"]``: bool (n, heads), which heads of the action just taken had an effect.
"""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from esper_core.envs.contract import array_of, conditional_without_head, described, mask_of, mask_without_choices
from esper_core.errors import ConfigError, EnvironmentContractError, EnvironmentUnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from esper_core.ppo.heads import HeadSpec
    from esper_core.ppo.task import BoolArray, FloatArray, IntArray

__all__ = ["CausalMask", "CausalTable", "MaskReader", "load_causal_mask"]


class CausalMask(Protocol):
    """Computes which heads of an action have an effect."""

    def __call__(self, actions: IntArray | FloatArray, /) -> BoolArray:
        """Map actions (n, heads), float64 where any head is Gaussian and else int64, to bool (n, heads)."""
        ...


class CausalTable:
    """A causal mask that depends only on the choice of one head.

    Args:
        table: bool (choices of that head, heads).
        column: its column in the action.
        heads: the heads, in the order of the action's columns.
        label: the environment's id, for messages.
    """

    def __init__(self, table: object, column: int, heads: Sequence[HeadSpec], label: str) -> None:
        shape = (heads[column].size, len(heads))
        rows = array_of(table)
        if rows is None or rows.shape != shape or rows.dtype.kind not in "biu":
            found = described(table if rows is None else rows)
            raise EnvironmentUnsupportedError(
                f"{label}: causal_table is {found}, expected bool of shape {shape}",
                hint=f"one row for each choice of {heads[column].name}, one column a head",
            )
        self.table = rows.astype(bool)
        self._column = column

    def __call__(self, actions: IntArray | FloatArray, /) -> BoolArray:
        """Rows of the table."""
        rows: BoolArray = self.table[actions[:, self._column].astype(np.int64, copy=False)]
        return rows


def _refuse_signature(spec: str, function: Any) -> None:
    """Raise when the function does not take the one argument that it gets; one without a signature is tried."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(None)
    except TypeError as error:
        raise ConfigError(
            f'env.causal_mask "{spec}" takes {signature}, not one argument: {error}',
            hint="it is called with the actions, an int array (n, heads), and returns a bool array (n, heads)",
        ) from None


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
    _refuse_signature(spec, found)
    return found


class MaskReader:
    """Reads the masks of a batch of environments from ``info``, under Gymnasium's vector contract.

    A row of ``info[key]`` counts only where ``info["_key"]`` is True: the others hold zeros that mean nothing. Where an
    environment gives no mask every choice is legal and every head has an effect, however many others give one. A
    vector environment without flags speaks for all its rows. The arrays returned are held by nobody else.

    Args:
        name: the environment's id, for messages.
        heads: the heads, in the order of the action's columns.
        n_envs: the number of environments.
        conditioning: column of the conditioning head, or None; it has choices.
    """

    def __init__(self, name: str, heads: Sequence[HeadSpec], n_envs: int, conditioning: int | None) -> None:
        self._name = name
        self._count = len(heads)
        self._n_envs = n_envs
        # Masks of legal choices are of the heads that have any.
        self._heads = tuple(head for head in heads if head.size)
        self._conditioning = None if conditioning is None else self._heads.index(heads[conditioning])
        sizes = [head.size for head in self._heads]
        self._total = sum(sizes)
        self._starts = np.concatenate(([0], np.cumsum(sizes)[:-1])).astype(np.int64)

    def legal(
        self, info: Mapping[str, Any], ended: BoolArray | None = None
    ) -> tuple[BoolArray | None, BoolArray | None]:
        """The masks of legal choices: bool (n, total), and (n, choices of the conditioning head, total).

        None where no environment gives one.

        Args:
            info: of a step or a reset.
            ended: bool (n,), where an episode has ended and nothing is decided: what is given there is not looked at.
        """
        if not info:
            return None, None
        if not self._heads:
            self._refuse_any(info)
            return None, None
        choices = self._heads[self._conditioning].size if self._conditioning is not None else 0
        flat = self._rows(info, "action_mask", (self._total,), "the choices of all heads one after another", ended)
        if info.get("conditional_action_mask") is None:
            return self._flat(flat), None
        if self._conditioning is None:
            raise conditional_without_head(self._name)
        axes = f"the choices of {self._heads[self._conditioning].name}, then those of all heads one after another"
        rows = self._rows(info, "conditional_action_mask", (choices, self._total), axes, ended)
        if rows is None:
            return self._flat(flat), None
        own = self._own(rows.mask)
        some: BoolArray = np.logical_or.reduce(own, axis=1)
        if flat is not None:
            # Where only a conditional mask is given, the conditioning head may choose what its own rows allow.
            alone = rows.given & ~flat.given
            start = self._starts[self._conditioning]
            flat.mask[alone, start : start + choices] = own[alone]
            some |= flat.given
        self._refuse_none(some[:, None], "conditional_action_mask", [self._conditioning])
        return self._flat(flat), self._with_one_choice(rows.mask)

    def _refuse_any(self, info: Mapping[str, Any]) -> None:
        """Raise for masks of choices where no head has any."""
        for key in ("action_mask", "conditional_action_mask"):
            if info.get(key) is not None:
                raise mask_without_choices(self._name, key)

    def causal(self, info: Mapping[str, Any], done: BoolArray, default: BoolArray | None) -> BoolArray | None:
        """The mask of heads that had an effect: bool (n, heads).

        Args:
            info: of the step. Where an episode ended its rows are those of the reset that followed, when
                ``final_info`` holds the step's own.
            done: bool (n,), where an episode ended.
            default: bool (n, heads) for rows without a mask; None for heads that all have an effect.
        """
        if not info:
            return default
        shape, axes = (self._count,), "one value a head"
        rows = self._rows(info, "causal_mask", shape, axes)
        final = info.get("final_info") if done.any() else None
        last = None
        if final is not None:
            final = final if isinstance(final, dict) else _gathered(final)
            last = self._rows(final, "causal_mask", shape, axes)
            if rows is not None and "_causal_mask" in info:
                rows.given &= ~(done & self._given(info, "final_info"))
        if rows is None and last is None:
            return default
        mask = np.ones((self._n_envs, self._count), dtype=bool) if default is None else default.copy()
        if rows is not None:
            mask[rows.given] = rows.mask[rows.given]
        if last is not None:
            ended = last.given & done
            mask[ended] = last.mask[ended]
        return mask

    def _flat(self, rows: _Rows | None) -> BoolArray | None:
        if rows is None:
            return None
        some = np.logical_or.reduceat(rows.mask, self._starts, axis=-1)
        self._refuse_none(some, "action_mask", range(len(self._heads)))
        return rows.mask

    def _refuse_none(self, some: BoolArray, what: str, columns: Sequence[int]) -> None:
        """Raise where a head (a column of ``some``) has no legal choice."""
        if some.all():
            return
        env, column = (int(index) for index in np.argwhere(~some)[0])
        head = self._heads[columns[column]].name
        source = f'info["{what}"]{" or action_masks()" if what == "action_mask" else ""}'
        raise EnvironmentContractError(
            f"{self._name}, environment {env}: {source} leaves head {head} no legal choice",
            hint="a head without effect needs one legal choice too, for example its first; an environment that allows"
            " every choice need not give a mask",
        )

    def _own(self, conditional: BoolArray) -> BoolArray:
        """The choices of the conditioning head that their own rows allow: bool (n, choices)."""
        start = self._starts[self._conditioning]
        found: BoolArray = conditional[:, :, start : start + conditional.shape[1]].diagonal(axis1=1, axis2=2)
        return found

    def _with_one_choice(self, mask: BoolArray) -> BoolArray:
        """The conditional mask; a head without effect under a choice may have an empty row: its first is made legal."""
        empty = ~np.logical_or.reduceat(mask, self._starts, axis=-1)
        if empty.any():
            for head in np.flatnonzero(empty.any(axis=(0, 1))):
                if head != self._conditioning:
                    mask[..., self._starts[head]] |= empty[..., head]
        return mask

    def _given(self, info: Mapping[str, Any], key: str) -> BoolArray:
        """Which environments gave an entry: bool (n,)."""
        flags = info.get(f"_{key}")
        if flags is None:
            return np.ones(self._n_envs, dtype=bool)
        return mask_of(f'info["_{key}"]', flags, (self._n_envs,), "one value an environment", self._name)

    def _rows(
        self, info: Mapping[str, Any], key: str, shape: tuple[int, ...], axes: str, ended: BoolArray | None = None
    ) -> _Rows | None:
        """One mask of every environment, True where none is given; None when none is given at all."""
        value = info.get(key)
        if value is None:
            return None
        given = self._given(info, key)
        if ended is not None:
            given &= ~ended
        whole = (self._n_envs, *shape)
        if isinstance(value, np.ndarray) and value.dtype == object and value.shape == whole[:1]:
            # Gymnasium keeps what it knows no array for (a list, None) as it is.
            given &= np.array([item is not None for item in value])
            mask = np.ones(whole, dtype=bool)
            for index in np.flatnonzero(given):
                place = f"{self._name}, environment {index}"
                mask[index] = mask_of(f'info["{key}"]', value[index], shape, axes, place)
        else:
            axes = f"environments first, then {axes}"
            mask = mask_of(f'info["{key}"]', value, whole, axes, self._name)
            if not given.all():
                mask[~given] = True
        return _Rows(mask, given) if given.any() else None


@dataclass(slots=True)
class _Rows:
    """Masks of n environments, and which of them were given: bool (n, ...) and (n,)."""

    mask: BoolArray
    given: BoolArray


def _gathered(final: Any) -> dict[str, Any]:
    """``final_info`` of a vector environment that gives one dict an environment, as one dict of rows."""
    masks = [item.get("causal_mask") if isinstance(item, dict) else None for item in final]
    rows = np.full(len(masks), None, dtype=object)
    for index, mask in enumerate(masks):
        rows[index] = mask
    return {"causal_mask": rows}
