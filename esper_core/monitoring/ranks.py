"""The ranks of a data-parallel loop: sums over all of them, and which one emits."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from esper_core.monitoring.misuse import MisuseError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Ranks", "Reduce", "ranks_of"]

Vector = NDArray[np.float64]
_MISUSED, _FAILED = 1.0, 2.0


class Reduce(Protocol):
    """Joins the ranks: every rank calls it with a vector of the same length, and gets the same result."""

    def __call__(self, values: Vector, how: Literal["sum", "max"], /) -> Vector:
        """The sum, or the largest, over all ranks."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """Which rank this is, and how it is joined with the others.

    Attributes:
        rank: of this process; rank 0 emits.
        world: how many there are.
        reduce: joins them; None asks ``torch.distributed``.
    """

    rank: int = 0
    world: int = 1
    reduce: Reduce | None = None

    @property
    def emits(self) -> bool:
        """Whether this rank has the run's sinks."""
        return self.rank == 0

    def total(self, parts: Mapping[str, Vector]) -> dict[str, Vector]:
        """Sums over all ranks, name by name, in one collective call."""
        if self.world == 1:
            return dict(parts)
        joined = self._reduced(np.concatenate(list(parts.values())), "sum")
        ends = np.cumsum([len(part) for part in parts.values()])[:-1]
        return dict(zip(parts, np.split(joined, ends), strict=True))

    def largest(self, value: float) -> float:
        """The largest over all ranks."""
        return value if self.world == 1 else float(self._reduced(np.array([value]), "max")[0])

    @contextmanager
    def together(self) -> Iterator[None]:
        """Read in the block what this rank gives: all ranks go on, or none, and nobody waits for one that failed.

        Raises:
            MisuseError: another rank's arguments were wrong.
            RuntimeError: another rank failed otherwise.
        """
        if self.world == 1:
            yield
            return
        try:
            yield
        except Exception as error:
            self.largest(_MISUSED if isinstance(error, MisuseError) else _FAILED)
            raise
        worst = self.largest(0.0)
        if worst == _MISUSED:
            raise MisuseError("another rank's arguments were wrong, as that rank says itself")
        if worst:
            raise RuntimeError("another rank failed, as that rank says itself")

    def _reduced(self, values: Vector, how: Literal["sum", "max"]) -> Vector:
        if self.reduce is not None:
            return np.asarray(self.reduce(values, how), dtype=np.float64)
        group = _distributed()
        if group is None:
            raise MisuseError(
                f"this is rank {self.rank} of {self.world}, but no torch.distributed group is initialised",
                hint="call init_process_group() first, or pass reduce= to monitor(); one rank's KL is not the run's",
            )
        return _all_reduce(group, values, how)


def ranks_of(rank: int | None, world: int | None, reduce: Reduce | None) -> Ranks:
    """The ranks in force: as given, else of ``torch.distributed``, else of ``RANK`` and ``WORLD_SIZE``."""
    if rank is not None or world is not None:
        found = Ranks(rank or 0, world if world is not None else 1, reduce)
    elif (group := _distributed()) is not None:
        found = Ranks(group.get_rank(), group.get_world_size(), reduce)
    else:
        found = Ranks(_number("RANK", 0), _number("WORLD_SIZE", 1), reduce)
    if not 0 <= found.rank < found.world:
        raise MisuseError(f"rank {found.rank} of {found.world} ranks", hint="ranks count from 0: rank=0, world=2")
    return found


def _distributed() -> Any:
    """``torch.distributed`` when a group is initialised; None else. Imports nothing."""
    torch = sys.modules.get("torch")
    group = getattr(torch, "distributed", None)
    ready = group is not None and group.is_available() and group.is_initialized()
    return group if ready else None


def _all_reduce(group: Any, values: Vector, how: str) -> Vector:
    torch = sys.modules["torch"]
    device = "cuda" if group.get_backend() == "nccl" else "cpu"
    tensor = torch.as_tensor(values, dtype=torch.float64).to(device)
    group.all_reduce(tensor, op=group.ReduceOp.SUM if how == "sum" else group.ReduceOp.MAX)
    found: Vector = tensor.cpu().numpy()
    return found


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else default
