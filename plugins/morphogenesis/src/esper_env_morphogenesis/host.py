"""What a host is made of: the order of its parameters, its modules, its state, and what is measured of it.

A host reads a signal of 40 samples as 20 positions of 2, maps each to 8 channels, applies three pointwise blocks to the
feature map, and classifies the flattened map::

    h0 = relu(W patch(x) + b)
    h(s+1) = alive(s) * relu(U(s) h(s) + c(s)) + alpha(s) * module(s)(h(s))        s = 0, 1, 2
    logits = V flatten(h3) + d

No block of the host mixes positions: only a grafted module can use relations between neighbouring samples. The output
of a dead block is 0, so no layer before it learns and the layers after it get no signal until a module is grafted
beside it. Two engines compute this, ``stacked`` with torch and ``native`` with compiled C; Adam (Kingma and Ba 2015,
arXiv:1412.6980) is part of both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import torch

from esper_env_morphogenesis.blueprints import BLUEPRINTS, CHANNELS, POSITIONS, Layout, Parameter
from esper_env_morphogenesis.data import CLASSES, LENGTH

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from esper_env_morphogenesis.data import Dataset

__all__ = [
    "BETAS",
    "EPSILON",
    "HOST",
    "HOST_SIZE",
    "MODULE_SIZE",
    "PATCH",
    "SLOTS",
    "Engine",
    "Graft",
    "State",
    "Validation",
]

SLOTS: Final = 3
"""Places in a host where a module can be grafted: beside each block, in the order of the signal."""
PATCH: Final = LENGTH // POSITIONS
"""Samples of one position."""
BETAS: Final = (0.9, 0.99)
"""Adam's decay rates."""
EPSILON: Final = 1e-8
"""Adam's epsilon."""

HOST = Layout(
    parameters=(
        Parameter((CHANNELS, PATCH), scale=PATCH**-0.5),
        Parameter((CHANNELS,)),
        *(
            parameter
            for _ in range(SLOTS)
            for parameter in (Parameter((CHANNELS, CHANNELS), scale=(2 / CHANNELS) ** 0.5), Parameter((CHANNELS,)))
        ),
        Parameter((CLASSES, CHANNELS * POSITIONS), scale=(POSITIONS * CHANNELS) ** -0.5),
        Parameter((CLASSES,)),
    )
)
"""The parameters of a host without modules."""
HOST_SIZE: Final = HOST.size
"""Parameters of a host without modules."""
MODULE_SIZE: Final = max(blueprint.size for blueprint in BLUEPRINTS)
"""Room for the parameters of any module."""


@dataclass(frozen=True)
class Graft:
    """The module of a slot in the next host epoch.

    Attributes:
        host: row of the host.
        slot: 0 to SLOTS - 1.
        blueprint: index into ``BLUEPRINTS``.
        alpha: how much of the module's output is added, 0 to 1.
        detached: TRAINING: the module learns on detached input by a straight-through path that adds exactly 0.
        frozen: FOSSILIZED: the module does not learn any more.
    """

    host: int
    slot: int
    blueprint: int
    alpha: float
    detached: bool
    frozen: bool


@dataclass(frozen=True)
class Validation:
    """The results of one pass over the validation set. All float32 on the CPU, one row per host.

    Attributes:
        accuracy: (n,), share of correct classifications.
        loss: (n,), cross-entropy in nats.
        spread: (n, SLOTS), participation ratio of the channels after each slot, 1/CHANNELS (one channel has all the
            variance) to 1 (all have the same).
        response: (n, SLOTS), share of each block's channels whose output varies with noise input, 0 for a dead block.
    """

    accuracy: Tensor
    loss: Tensor
    spread: Tensor
    response: Tensor


class State:
    """The hosts of all environments. Every tensor on the CPU; ``n`` hosts.

    Attributes:
        x: float32, (signals, 40), to train on; its ``columns``, (40, signals); and ``y``, int64, (signals,).
        validation_x: float32, (v, 40); and ``validation_y``, int64, (v,).
        learning_rate: Adam's.
        order: int64, (n, 40), the order in which each host reads the samples of a signal.
        alive: float32, (n, SLOTS), the factor of each block's output, 0 or 1.
        probe: float32, (CHANNELS, 16), the noise that a block's response is measured with.
        host: float32, (3, n, HOST_SIZE): parameters, first and second moments.
        modules: float32, (3, n, SLOTS, MODULE_SIZE): the same of every slot's module.
        host_age: float32, (n,), steps of Adam; and ``module_age``, (n, SLOTS).

    Raises:
        ValueError: the data is not of 40 samples and 10 classes, or there is none.
    """

    def __init__(self, n: int, data: Dataset, *, learning_rate: float, validation_size: int) -> None:
        self.n = n
        self.learning_rate = learning_rate
        self.x, self.y = _checked(data.train_x, data.train_y)
        self.columns = self.x.T.contiguous()
        self.validation_x, self.validation_y = _checked(
            data.validation_x[:validation_size], data.validation_y[:validation_size]
        )
        self.order = torch.zeros(n, LENGTH, dtype=torch.int64)
        self.alive = torch.ones(n, SLOTS)
        self.probe = torch.rand(CHANNELS, 16, generator=torch.Generator().manual_seed(0))
        # Axis 0: parameters, first moment, second moment; so one gather and one scatter move all three.
        self.host = torch.zeros(3, n, HOST_SIZE)
        self.modules = torch.zeros(3, n, SLOTS, MODULE_SIZE)
        self.host_age = torch.zeros(n)
        self.module_age = torch.zeros(n, SLOTS)


def _checked(x: npt.NDArray[np.float32], y: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Signals and classes as compiled code may read them."""
    if x.shape != (len(y), LENGTH) or not len(y) or y.min() < 0 or y.max() >= CLASSES:
        raise ValueError(
            f"signals {x.shape} and classes {y.shape}: want (n, {LENGTH}) and (n,) of 0 to {CLASSES - 1}, n > 0"
        )
    return torch.from_numpy(x).to(torch.float32).contiguous(), torch.from_numpy(y).to(torch.int64).contiguous()


class Engine(Protocol):
    """Trains and measures the hosts of a state."""

    def train(self, state: State, grafts: Sequence[Graft], signals: Tensor) -> Tensor:
        """Train every host for one epoch, in place.

        Args:
            state: the hosts.
            grafts: every module in a slot.
            signals: int64, (batches, batch_size), the signals of each minibatch.

        Returns:
            float32, (n,): mean training loss of each host in nats.
        """
        ...

    def validate(self, state: State, grafts: Sequence[Graft], rows: Sequence[int]) -> Validation:
        """Measure some hosts on the validation set; the results of the others mean nothing."""
        ...
