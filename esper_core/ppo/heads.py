"""Action heads: what a policy decides, and how ragged heads lie in one rectangular tensor."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from esper_core.errors import EnvironmentUnsupportedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from esper_core.events import HeadKind

__all__ = ["HeadLayout", "HeadSpec"]

_CHOICES: Final[dict[HeadKind, tuple[float, float]]] = {
    "categorical": (1, math.inf),
    "bernoulli": (2, 2),
    "gaussian": (0, 0),
}
"""The kinds of head there are, with the fewest and the most choices that one can have."""


@dataclass(frozen=True, slots=True)
class HeadSpec:
    """One decision of the policy: one column of an action.

    Attributes:
        name: unique within the policy.
        size: number of choices: at least 1 of a categorical head, 2 of a Bernoulli, 0 of a Gaussian, which has none.
        kind: what it draws from: ``categorical``, ``bernoulli`` or ``gaussian``.
        low: least value that the environment takes, of a Gaussian head; -inf for none.
        high: likewise the largest; inf for none.
    """

    name: str
    size: int
    kind: HeadKind = "categorical"
    low: float = -math.inf
    high: float = math.inf

    def __post_init__(self) -> None:
        if self.kind not in _CHOICES:
            raise EnvironmentUnsupportedError(
                f"head {self.name} is of kind {self.kind}", hint=f"the kinds are {', '.join(_CHOICES)}"
            )
        fewest, most = _CHOICES[self.kind]
        if not fewest <= self.size <= most:
            hint = "a head needs at least one choice" if self.kind == "categorical" else f"it has {fewest} by its kind"
            raise EnvironmentUnsupportedError(f"head {self.name} ({self.kind}) has {self.size} choices", hint=hint)
        if not self.low <= self.high:
            raise EnvironmentUnsupportedError(f"head {self.name} has bounds {self.low} to {self.high}")

    @property
    def dense(self) -> bool:
        """Whether it draws from a density, and not from choices."""
        return self.kind == "gaussian"

    @property
    def choices(self) -> int | str:
        """For people: how many choices there are, or the kind where they are not counted."""
        return self.kind if self.dense and self.decides else max(self.size, 1)

    @property
    def decides(self) -> bool:
        """Whether there is anything to decide: more than one choice, or bounds that differ."""
        return self.low < self.high if self.dense else self.size > 1


class HeadLayout:
    """Where each head's choices lie: flat (masks of environments) and padded (everything inside the policy).

    Flat is one row of ``total = sum(sizes)`` choices, head after head. Padded is ``(heads, width)`` with
    ``width = max(sizes)``, at least 1; the columns beyond a head's size are never legal. All heads are computed at once
    on the padded view, so no loop over heads runs while training. A Gaussian head has no choice: nothing of it is flat,
    none of its row is legal, and its mean lies in the row's first column.

    Args:
        heads: at least one, with unique names, in the order of the action's columns.
    """

    def __init__(self, heads: Sequence[HeadSpec]) -> None:
        if not heads:
            raise EnvironmentUnsupportedError("a policy needs at least one head")
        self.heads = tuple(heads)
        self.names = tuple(head.name for head in heads)
        if len(set(self.names)) != len(self.names):
            raise EnvironmentUnsupportedError(
                f"head names repeat: {', '.join(self.names)}",
                hint="head_names, an attribute of the environment, names them; keys of a Dict are joined by dots",
            )
        self.sizes = tuple(head.size for head in heads)
        self.kinds = tuple(head.kind for head in heads)
        self.count = len(self.heads)
        self.width = max(1, *self.sizes)
        self.total = sum(self.sizes)
        self.valid = torch.arange(self.width) < torch.tensor(self.sizes).unsqueeze(1)
        """bool (heads, width): True where a head has a choice."""
        self.padded = self.total != self.count * self.width
        """Whether any head is narrower than the widest."""
        self._columns = self.valid.flatten().nonzero().squeeze(1)
        dense = torch.tensor([head.dense for head in heads])
        self.dense = dense.nonzero().squeeze(1)
        """int64: the columns that draw from a density, in order."""
        self.choosing = (~dense).nonzero().squeeze(1)
        """int64: the columns that draw from choices, in order."""
        self.order = torch.cat([self.choosing, self.dense]).argsort()
        """int64 (heads): where a column is when those that choose come first and the dense ones after them."""
        self._undecided = torch.tensor([head.dense and not head.decides for head in heads])
        self._dense_columns = self.dense.numpy()
        self._bounds = np.array([(head.low, head.high) for head in heads if head.dense]).T

    @property
    def action_dtype(self) -> torch.dtype:
        """Of sampled actions: int64, or float32 where any head draws from a density."""
        return torch.float32 if len(self.dense) else torch.int64

    @property
    def draws(self) -> int:
        """Random numbers that one action takes."""
        return len(self.choosing) * self.width + len(self.dense)

    def index(self, name: str) -> int:
        """Position of a head by name."""
        if name not in self.names:
            raise EnvironmentUnsupportedError(f"no head named {name}", hint=f"heads: {', '.join(self.names)}")
        return self.names.index(name)

    def pad(self, flat: Tensor, fill: float = 0.0) -> Tensor:
        """Flat ``(..., total)`` to padded ``(..., heads, width)``; the padding holds ``fill`` (False for bool)."""
        padded = flat.new_full((*flat.shape[:-1], self.count * self.width), fill)
        padded[..., self._columns] = flat
        return padded.view(*flat.shape[:-1], self.count, self.width)

    def padded_mask(self, flat: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """A mask on the host as :meth:`pad` has it; of the same memory where no head is narrower than the widest."""
        whole = (*flat.shape[:-1], self.count, self.width)
        if not self.padded:
            return flat.reshape(whole)
        padded = np.zeros((*flat.shape[:-1], self.count * self.width), dtype=bool)
        padded[..., self._columns.numpy()] = flat
        return padded.reshape(whole)

    def flat(self, padded: Tensor) -> Tensor:
        """Padded ``(..., heads, width)`` to flat ``(..., total)``."""
        return padded.flatten(-2)[..., self._columns]

    def open(self, legal: Tensor | None, device: torch.device) -> Tensor:
        """Where there is something to decide: bool (N or 1, heads).

        Args:
            legal: bool (N, heads, width), or None when every choice is legal.
            device: of the result.
        """
        choices = self.valid.unsqueeze(0) if legal is None else legal
        several = choices.to(device).sum(-1) > 1
        if len(self.dense):
            several[:, self.dense] = ~self._undecided[self.dense].to(device)
        return several

    def bounded(self, actions: NDArray[Any], *, squash: bool = False) -> NDArray[np.int64] | NDArray[np.float64]:
        """Sampled actions as the environment takes them: within its bounds.

        Args:
            actions: (n, heads) as they were sampled.
            squash: the bounds are reached through ``tanh``; otherwise values beyond them are clipped.

        Returns:
            (n, heads): int64, or float64 where any head draws from a density.
        """
        if not len(self._dense_columns):
            return actions
        values: NDArray[np.float64] = actions.astype(np.float64)
        columns = self._dense_columns
        low, high = self._bounds
        drawn = values[:, columns]
        if squash:
            share = (np.tanh(drawn) + 1.0) / 2.0
            drawn = low * (1.0 - share) + high * share  # not high - low, which may overflow
        values[:, columns] = np.clip(drawn, low, high)
        return values
