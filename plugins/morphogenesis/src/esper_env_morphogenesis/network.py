"""The hosts of all environments, trained together as stacked tensors.

A host reads a signal of 40 samples as 20 positions of 2, maps each to 8 channels, applies three pointwise blocks to the
feature map, and classifies the flattened map::

    h0 = relu(W patch(x) + b)
    h(s+1) = alive(s) * relu(U(s) h(s) + c(s)) + alpha(s) * module(s)(h(s))        s = 0, 1, 2
    logits = V flatten(h3) + d

No block of the host mixes positions: only a grafted module can use relations between neighbouring samples. The output
of a dead block is 0, so no layer before it learns and the layers after it get no signal until a module is grafted
beside it.

Every host has its own parameters, optimiser state and world; one batched matrix product computes all hosts. Modules of
the same blueprint in the same slot are computed in one call, over all hosts. Adam (Kingma and Ba 2015,
arXiv:1412.6980) updates one flat vector of all parameters that learn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor
from torch.nn import functional

from esper_env_morphogenesis.blueprints import BLUEPRINTS, CHANNELS, POSITIONS, Layout, Parameter
from esper_env_morphogenesis.data import CLASSES, LENGTH

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from esper_env_morphogenesis.blueprints import Blueprint
    from esper_env_morphogenesis.data import Dataset

__all__ = ["HOST_SIZE", "SLOTS", "Graft", "HostNetworks", "Validation"]

SLOTS: Final = 3
"""Places in a host where a module can be grafted: beside each block, in the order of the signal."""
_PATCH: Final = LENGTH // POSITIONS
_BETA1, _BETA2, _EPSILON = 0.9, 0.99, 1e-8

_HOST = Layout(
    parameters=(
        Parameter((CHANNELS, _PATCH), scale=_PATCH**-0.5),
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
HOST_SIZE: Final = _HOST.size
"""Parameters of a host without modules."""
_MODULE_SIZE: Final = max(blueprint.size for blueprint in BLUEPRINTS)


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


@dataclass(frozen=True)
class _Group:
    """Modules of one blueprint in one slot: rows of hosts, their parameters, and how their output is added."""

    rows: Tensor
    blueprint: Blueprint
    leaf: Tensor
    alpha: Tensor
    detached: bool


class HostNetworks:
    """``n`` hosts with their modules, data order and optimiser state. One thread; seeded through ``generator``."""

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
    ) -> None:
        self.n = n
        self.batch_size = batch_size
        self.batches = batches
        self.learning_rate = learning_rate
        self._generator = generator
        self._x = torch.from_numpy(data.train_x)
        self._x_columns = self._x.T.contiguous()
        self._y = torch.from_numpy(data.train_y)
        self._validation_x = torch.from_numpy(data.validation_x[:validation_size])
        self._validation_y = torch.from_numpy(data.validation_y[:validation_size])
        self._order = torch.zeros(n, _PATCH, POSITIONS, dtype=torch.int64)
        self._smoothness = torch.zeros(n)
        self._correlation = _correlation(self._x)
        self._validation_views = torch.zeros(n, _PATCH, POSITIONS, len(self._validation_y))
        self._alive = torch.ones(n, SLOTS)
        self._probe = torch.rand(CHANNELS, 16, generator=torch.Generator().manual_seed(0)).expand(n, -1, -1)
        # Axis 0: parameters, first moment, second moment; so one gather and one scatter move all three.
        self._host = torch.zeros(3, n, HOST_SIZE)
        self._modules = torch.zeros(3, n, SLOTS, _MODULE_SIZE)
        self._host_age = torch.zeros(n)
        self._module_age = torch.zeros(n, SLOTS)

    def reset(self, row: int, *, order: Tensor, alive: Tensor) -> None:
        """Put a new host into one row.

        Args:
            row: 0 to n - 1.
            order: int64, (40,), the order in which this host reads the samples of a signal.
            alive: float32, (SLOTS,), the factor of each block's output, 0 or 1.
        """
        self._host[:, row] = 0.0
        self._host[0, row] = _HOST.start(self._generator)
        self._host_age[row] = 0
        self._order[row] = order.view(POSITIONS, _PATCH).T
        self._smoothness[row] = self._correlation[order[:-1], order[1:]].mean()
        self._alive[row] = alive
        self._validation_views[row] = self._validation_x.T[self._order[row]]

    def injure(self, row: int, alive: Tensor) -> None:
        """Set the factors of one host's block outputs: float32, (SLOTS,), 0 or 1."""
        self._alive[row] = alive

    @property
    def smoothness(self) -> Tensor:
        """Correlation of neighbouring samples in each host's order: float32, (n,)."""
        return self._smoothness

    def plant(self, row: int, slot: int, blueprint: int) -> None:
        """Draw a new module for one slot; it replaces the parameters of an earlier one."""
        self._modules[:, row, slot] = 0.0
        self._modules[0, row, slot, : BLUEPRINTS[blueprint].size] = BLUEPRINTS[blueprint].start(self._generator)
        self._module_age[row, slot] = 0

    def train(self, grafts: Sequence[Graft]) -> Tensor:
        """Train every host for one epoch of ``batches`` minibatches.

        Args:
            grafts: every module in a slot.

        Returns:
            float32, (n,): mean training loss of each host in nats.
        """
        groups = _grouped(grafts)
        # One flat vector: the hosts' parameters, then each group's. The leaves are views of it; so are the gradients.
        pieces = [self._host.reshape(3, -1)]
        age = [self._host_age]
        learns = [torch.ones(self.n)]
        sizes = [torch.full((self.n,), HOST_SIZE)]
        for (slot, kind, _), members in groups:
            rows = [graft.host for graft in members]
            size = BLUEPRINTS[kind].size
            pieces.append(self._modules[:, rows, slot, :size].reshape(3, -1))
            age.append(self._module_age[rows, slot])
            learns.append(torch.tensor([0.0 if graft.frozen else 1.0 for graft in members]))
            sizes.append(torch.full((len(rows),), size))
        state = torch.cat(pieces, 1)
        theta, first, second = state[0], state[1], state[2]
        gradient = torch.zeros_like(theta)
        ages, rate = torch.cat(age), torch.cat(learns) * self.learning_rate
        owner = torch.repeat_interleave(torch.arange(len(ages)), torch.cat(sizes))

        host_leaf = _leaf(theta, gradient, 0, (self.n, HOST_SIZE))
        sites: list[list[_Group]] = [[] for _ in range(SLOTS)]
        start = self.n * HOST_SIZE
        for (slot, kind, _), members in groups:
            shape = (len(members), BLUEPRINTS[kind].size)
            sites[slot].append(_group(members, _leaf(theta, gradient, start, shape)))
            start += shape[0] * shape[1]

        order = torch.randint(len(self._y), (self.batches, self.batch_size), generator=self._generator)
        total = torch.zeros(self.n)
        for indices in order:
            views = self._x_columns[:, indices][self._order]
            logits, _ = self._forward(_HOST.split(host_leaf), sites, views)
            labels = self._y[indices].expand(self.n, -1)
            losses = functional.cross_entropy(logits, labels, reduction="none").mean(1)
            gradient.zero_()
            losses.sum().backward()  # type: ignore[no-untyped-call]  # torch leaves backward untyped
            with torch.no_grad():
                ages += 1
                step = rate * (1 - _BETA2**ages).sqrt() / (1 - _BETA1**ages)
                first.lerp_(gradient, 1 - _BETA1)
                second.mul_(_BETA2).addcmul_(gradient, gradient, value=1 - _BETA2)
                theta.sub_(step[owner] * first / (second.sqrt() + _EPSILON))
                total += losses.detach()

        self._host = state[:, : self.n * HOST_SIZE].reshape(3, self.n, HOST_SIZE)
        self._host_age = ages[: self.n]
        start, seen = self.n * HOST_SIZE, self.n
        for (slot, kind, _), members in groups:
            rows, size = [graft.host for graft in members], BLUEPRINTS[kind].size
            end = start + len(rows) * size
            self._modules[:, rows, slot, :size] = state[:, start:end].reshape(3, len(rows), size)
            self._module_age[rows, slot] = ages[seen : seen + len(rows)]
            start, seen = end, seen + len(rows)
        return total / self.batches

    @torch.no_grad()
    def validate(self, grafts: Sequence[Graft]) -> Validation:
        """Measure every host on the validation set, with modules added at their alpha, without TRAINING modules."""
        sites: list[list[_Group]] = [[] for _ in range(SLOTS)]
        for (slot, kind, _), members in _grouped(graft for graft in grafts if graft.alpha > 0.0):
            leaf = self._modules[0, [graft.host for graft in members], slot, : BLUEPRINTS[kind].size]
            sites[slot].append(_group(members, leaf))
        logits, spread = self._forward(_HOST.split(self._host[0]), sites, self._validation_views, measure=True)
        labels = self._validation_y.expand(self.n, -1)
        loss = functional.cross_entropy(logits, labels, reduction="none")
        right = (logits.argmax(1) == labels).float()
        return Validation(
            accuracy=right.mean(1), loss=loss.mean(1), spread=torch.stack(spread, 1), response=self._response()
        )

    def _response(self) -> Tensor:
        """Apply each block alone to noise; the share of channels whose output varies: float32, (n, SLOTS)."""
        host, shares = _HOST.split(self._host[0]), []
        for slot in range(SLOTS):
            answer = torch.relu(torch.baddbmm(host[3 + 2 * slot][:, :, None], host[2 + 2 * slot], self._probe))
            shares.append((answer.var(2) > 1e-6).float().mean(1))
        return torch.stack(shares, 1) * self._alive

    def _forward(
        self, host: tuple[Tensor, ...], sites: list[list[_Group]], x: Tensor, *, measure: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """Logits (n, CLASSES, batch) of views (n, _PATCH, POSITIONS, batch), and each site's spread (n,) on demand."""
        n, batch = x.shape[0], x.shape[3]
        features = torch.relu(torch.baddbmm(host[1][:, :, None], host[0], x.flatten(2)))
        spreads = []
        for slot, groups in enumerate(sites):
            # alive multiplies the weights: relu(a * x) = a * relu(x) for a >= 0, and they are far smaller than outputs.
            alive = self._alive[:, slot, None, None]
            weight, bias = host[2 + 2 * slot] * alive, host[3 + 2 * slot][:, :, None] * alive
            output = torch.relu(torch.baddbmm(bias, weight, features))
            if groups:
                source = features.view(n, CHANNELS, POSITIONS, batch)
                added = torch.cat([_contribution(group, source) for group in groups])
                places = torch.cat([group.rows for group in groups])
                output = output.index_add(0, places, added.flatten(2))
            features = output
            if measure:
                spreads.append(_spread(features))
        logits = torch.baddbmm(host[-1][:, :, None], host[-2], features.view(n, -1, batch))
        return logits, spreads


def _spread(features: Tensor) -> Tensor:
    """Participation ratio of the channels' variances over features (n, CHANNELS, columns): float32, (n,)."""
    variance = features.square().mean(2) - features.mean(2).square()
    return variance.sum(1) ** 2 / (CHANNELS * variance.square().sum(1) + 1e-12)


def _correlation(x: Tensor) -> Tensor:
    """Correlation of every two samples of a signal, without centring, over signals (n, LENGTH)."""
    products = x.T @ x
    scale = products.diagonal().sqrt()
    return products / scale.outer(scale)


def _contribution(group: _Group, source: Tensor) -> Tensor:
    """The output that a group's modules add to their hosts: (k, CHANNELS, POSITIONS, batch)."""
    x = source.index_select(0, group.rows)
    if group.detached:
        y = group.blueprint.forward(x.detach(), *group.blueprint.split(group.leaf))
        # Exactly 0, with the gradient of y: the host's output is unchanged bit for bit.
        return y - y.detach()
    return group.blueprint.forward(x, *group.blueprint.split(group.leaf)) * group.alpha


def _grouped(grafts: Iterable[Graft]) -> list[tuple[tuple[int, int, bool], list[Graft]]]:
    """Grafts by (slot, blueprint, detached), sorted: each group is one call."""
    groups: dict[tuple[int, int, bool], list[Graft]] = {}
    for graft in grafts:
        groups.setdefault((graft.slot, graft.blueprint, graft.detached), []).append(graft)
    return sorted(groups.items())


def _leaf(theta: Tensor, gradient: Tensor, start: int, shape: tuple[int, int]) -> Tensor:
    """A view of ``theta`` that collects its gradient in the same place of ``gradient``."""
    end = start + shape[0] * shape[1]
    leaf = theta[start:end].view(shape).detach().requires_grad_()
    leaf.grad = gradient[start:end].view(shape)
    return leaf


def _group(members: Sequence[Graft], leaf: Tensor) -> _Group:
    return _Group(
        rows=torch.tensor([graft.host for graft in members]),
        blueprint=BLUEPRINTS[members[0].blueprint],
        leaf=leaf,
        alpha=torch.tensor([graft.alpha for graft in members])[:, None, None, None],
        detached=members[0].detached,
    )
