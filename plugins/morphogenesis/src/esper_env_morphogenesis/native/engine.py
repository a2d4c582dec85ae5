"""Calls the compiled library with a state's tensors."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import torch

from esper_core.errors import EnvironmentUnsupportedError
from esper_env_morphogenesis.host import HOST_SIZE, MODULE_SIZE, SLOTS, Validation
from esper_env_morphogenesis.native.build import library
from esper_env_morphogenesis.stacked import Stacked

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from torch import Tensor

    from esper_env_morphogenesis.host import Engine, Graft, State

__all__ = ["Choice", "Native", "engine"]

Choice = Literal["auto", "native", "torch"]
_GRAFT: Final = np.dtype([("kind", "i4"), ("flags", "i4"), ("alpha", "f4")])
_DETACHED, _FROZEN = 1, 2


def engine(choice: Choice) -> Engine:
    """The engine of that name; ``auto`` takes the compiled one where the machine can build it.

    Raises:
        EnvironmentUnsupportedError: there is no such engine, or no compiled one here.
    """
    if choice not in {"auto", "native", "torch"}:
        raise EnvironmentUnsupportedError(
            f'env.kwargs.compute = "{choice}" is no engine of morphogenesis', hint='choose "auto", "native" or "torch"'
        )
    compiled = None if choice == "torch" else library()
    if compiled is not None:
        return Native(compiled)
    if choice == "native":
        raise EnvironmentUnsupportedError(
            'env.kwargs.compute = "native", and the hosts cannot be compiled here',
            hint='install a C compiler (cc, or name one in CC), or choose "auto", which does without',
        )
    return Stacked()


class Native:
    """An ``Engine`` of compiled code; one host after the other, in the calling thread, without Python's lock.

    Raises:
        ValueError: the library has other sizes than this package.
    """

    def __init__(self, compiled: ctypes.CDLL) -> None:
        sizes = compiled.esper_host_size(), compiled.esper_module_size()
        if sizes != (HOST_SIZE, MODULE_SIZE):
            raise ValueError(f"hosts.c has sizes {sizes}, blueprints {(HOST_SIZE, MODULE_SIZE)}")
        self._library = compiled

    def train(self, state: State, grafts: Sequence[Graft], signals: Tensor) -> Tensor:
        """See ``Engine.train``."""
        loss = torch.empty(state.n)
        placed = _placed(grafts, state.n)
        batches, batch_size = signals.shape
        _done(
            self._library.esper_train(
                state.n,
                batches,
                batch_size,
                ctypes.c_float(state.learning_rate),
                *map(_at, (state.x, state.y, signals, state.order, state.alive)),
                placed.ctypes.data_as(ctypes.c_void_p),
                *map(_at, (state.host, state.modules, state.host_age, state.module_age, loss)),
            )
        )
        return loss

    def validate(self, state: State, grafts: Sequence[Graft], rows: Sequence[int]) -> Validation:
        """See ``Engine.validate``."""
        n, chosen, placed = state.n, torch.tensor(list(rows), dtype=torch.int64), _placed(grafts, state.n)
        accuracy, loss = torch.zeros(n), torch.zeros(n)
        spread, response = torch.zeros(n, SLOTS), torch.zeros(n, SLOTS)
        _done(
            self._library.esper_validate(
                len(chosen),
                _at(chosen),
                n,
                len(state.validation_y),
                *map(_at, (state.validation_x, state.validation_y, state.order, state.alive)),
                placed.ctypes.data_as(ctypes.c_void_p),
                *map(_at, (state.host, state.modules, state.probe, accuracy, loss, spread, response)),
            )
        )
        return Validation(accuracy=accuracy, loss=loss, spread=spread, response=response)


def _placed(grafts: Sequence[Graft], n: int) -> npt.NDArray[np.void]:
    """Grafts as the library takes them: (n, SLOTS), kind -1 where there is none."""
    placed = np.zeros((n, SLOTS), dtype=_GRAFT)
    placed["kind"] = -1
    for graft in grafts:
        flags = _DETACHED * graft.detached | _FROZEN * graft.frozen
        placed[graft.host, graft.slot] = (graft.blueprint, flags, graft.alpha)
    return placed


def _at(tensor: Tensor) -> ctypes.c_void_p:
    """The address of a contiguous tensor."""
    return ctypes.c_void_p(tensor.data_ptr())


def _done(failed: int) -> None:
    if failed:
        raise MemoryError("the hosts' working memory")
