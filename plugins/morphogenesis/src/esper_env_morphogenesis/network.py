"""The hosts of all environments: begun, injured, planted, trained and measured; one row a host.

Every host has its own parameters, optimiser state and world. ``host`` says what a host is; an engine computes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from esper_env_morphogenesis.blueprints import BLUEPRINTS
from esper_env_morphogenesis.host import HOST, State
from esper_env_morphogenesis.native import engine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from esper_env_morphogenesis.data import Dataset
    from esper_env_morphogenesis.host import Graft, Validation
    from esper_env_morphogenesis.native import Choice

__all__ = ["HostNetworks"]


class HostNetworks:
    """``n`` hosts with their modules, data order and optimiser state. One thread; seeded through ``generator``.

    Args:
        n: the number of hosts.
        data: what they learn.
        generator: draws parameters and minibatches.
        batch_size: signals of a minibatch.
        batches: minibatches of an epoch.
        learning_rate: Adam's.
        validation_size: signals of the validation set.
        compute: the engine: ``native``, ``torch``, or ``auto``, the first of these that this machine has.
    """

    def __init__(
        self,
        n: int,
        data: Dataset,
        generator: torch.Generator,
        *,
        batch_size: int = 128,
        batches: int = 8,
        learning_rate: float = 1e-2,
        validation_size: int = 1000,
        compute: Choice = "auto",
    ) -> None:
        self.n = n
        self.batch_size = batch_size
        self.batches = batches
        self.state = State(n, data, learning_rate=learning_rate, validation_size=validation_size)
        self._engine = engine(compute)
        self._generator = generator
        self._smoothness = torch.zeros(n)
        self._correlation = _correlation(self.state.x)

    def reset(self, row: int, *, order: Tensor, alive: Tensor) -> None:
        """Put a new host into one row.

        Args:
            row: 0 to n - 1.
            order: int64, (40,), the order in which this host reads the samples of a signal.
            alive: float32, (SLOTS,), the factor of each block's output, 0 or 1.
        """
        self.state.host[:, row] = 0.0
        self.state.host[0, row] = HOST.start(self._generator)
        self.state.host_age[row] = 0
        self.state.order[row] = order
        self._smoothness[row] = self._correlation[order[:-1], order[1:]].mean()
        self.state.alive[row] = alive

    def injure(self, row: int, alive: Tensor) -> None:
        """Set the factors of one host's block outputs: float32, (SLOTS,), 0 or 1."""
        self.state.alive[row] = alive

    @property
    def smoothness(self) -> Tensor:
        """Correlation of neighbouring samples in each host's order: float32, (n,)."""
        return self._smoothness

    def plant(self, row: int, slot: int, blueprint: int) -> None:
        """Draw a new module for one slot; it replaces the parameters of an earlier one."""
        module = BLUEPRINTS[blueprint]
        self.state.modules[:, row, slot] = 0.0
        self.state.modules[0, row, slot, : module.size] = module.start(self._generator)
        self.state.module_age[row, slot] = 0

    def train(self, grafts: Sequence[Graft]) -> Tensor:
        """Train every host for one epoch of ``batches`` minibatches.

        Args:
            grafts: every module in a slot.

        Returns:
            float32, (n,): mean training loss of each host in nats.
        """
        size = (self.batches, self.batch_size)
        return self._engine.train(self.state, grafts, torch.randint(len(self.state.y), size, generator=self._generator))

    def validate(self, grafts: Sequence[Graft], rows: Sequence[int] | None = None) -> Validation:
        """Measure hosts on the validation set, with modules added at their alpha, without TRAINING modules.

        Args:
            grafts: every module in a slot.
            rows: the hosts to measure, by default all; the results of the others mean nothing.
        """
        return self._engine.validate(self.state, grafts, range(self.n) if rows is None else rows)


def _correlation(x: Tensor) -> Tensor:
    """Correlation of every two samples of a signal, without centring, over signals (n, LENGTH)."""
    products = x.T @ x
    scale = products.diagonal().sqrt()
    return products / scale.outer(scale)
