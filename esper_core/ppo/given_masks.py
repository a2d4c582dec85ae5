"""Masks that a caller of ``act`` gives, checked as strictly as those of an environment in training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from esper_core.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from esper_core.ppo.heads import HeadLayout

__all__ = ["conditional_choices", "legal_choices"]

_REMEDY: Final = "a mask is bool (or integers 0 and 1), True where a choice is legal"


def legal_choices(layout: HeadLayout, mask: Any, count: int) -> NDArray[np.bool_]:
    """The mask of ``act`` for n observations: bool (n, total).

    Args:
        layout: of the policy's heads.
        mask: bool or integers 0 and 1, (n, total), or (total,) for one observation.
        count: n.

    Raises:
        UsageError: it is no such mask, or leaves a head no legal choice.
    """
    sizes = ", ".join(f"{head.name} {head.size}" for head in layout.heads if head.size) or "no head has any"
    axes = f"the choices of all heads one after another: {sizes}"
    rows = _checked("mask", mask, count, (layout.total,), axes)
    start = 0
    for head in layout.heads:
        if head.size and not rows[:, start : start + head.size].any(axis=1).all():
            raise UsageError(f"act(): mask leaves head {head.name} no legal choice", hint=f"{_REMEDY}; {axes}")
        start += head.size
    return rows


def conditional_choices(layout: HeadLayout, mask: Any, count: int, conditioning: int | None) -> NDArray[np.bool_]:
    """The conditional mask of ``act`` for n observations: bool (n, choices of the conditioning head, total).

    Args:
        layout: of the policy's heads.
        mask: bool or integers 0 and 1; of one observation without the first axis, too.
        count: n.
        conditioning: column of the conditioning head; None where no head conditions the others.

    Raises:
        UsageError: it is no such mask, or no head conditions the others.
    """
    if conditioning is None:
        raise UsageError(
            "act(): conditional_mask is given, and no head of this policy conditions the others",
            hint="give mask alone; the environment's attribute conditioning_head names such a head before training",
        )
    head = layout.heads[conditioning]
    axes = f"the choices of {head.name}, then those of all heads one after another"
    return _checked("conditional_mask", mask, count, (head.size, layout.total), axes)


def _checked(name: str, mask: Any, count: int, shape: tuple[int, ...], axes: str) -> NDArray[np.bool_]:
    try:
        array = np.asarray(mask)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UsageError(f"act(): {name} is no array: {error}", hint=_REMEDY) from error
    if array.dtype.kind not in "biu" or (array.dtype.kind != "b" and not ((array == 0) | (array == 1)).all()):
        held = f" and values from {array.min()} to {array.max()}" if array.dtype.kind in "iu" else ""
        raise UsageError(f"act(): {name} has dtype {array.dtype}{held}, not bool", hint=_REMEDY)
    if array.shape != (count, *shape) and not (count == 1 and array.shape == shape):
        expected = shape if count == 1 else (count, *shape)
        raise UsageError(f"act(): {name} has shape {array.shape}, expected {expected}", hint=axes)
    return array.astype(bool, copy=False).reshape(count, *shape)
