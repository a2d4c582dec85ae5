"""The engine of torch: all hosts trained together as stacked tensors.

One batched matrix product computes all hosts. Modules of the same blueprint in the same slot are computed in one call,
over all hosts. Adam updates one flat vector of all parameters that learn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from esper_env_morphogenesis.blueprints import BLUEPRINTS, CHANNELS, POSITIONS
from esper_env_morphogenesis.host import BETAS, EPSILON, HOST, HOST_SIZE, PATCH, SLOTS, Validation

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from esper_env_morphogenesis.blueprints import Blueprint
    from esper_env_morphogenesis.host import Graft, State

__all__ = ["Stacked"]


@dataclass(frozen=True)
class _Group:
    """Modules of one blueprint in one slot: rows of hosts, their parameters, and how their output is added."""

    rows: Tensor
    blueprint: Blueprint
    leaf: Tensor
    alpha: Tensor
    detached: bool


class Stacked:
    """An ``Engine`` of torch operations: needs nothing but torch."""

    def __init__(self) -> None:
        self._order = torch.zeros(0)
        self._validation = torch.zeros(0)

    def _views(self, state: State) -> Tensor:
        """The validation signals in each host's order: float32, (n, PATCH, POSITIONS, v)."""
        if not torch.equal(self._order, state.order):
            self._order = state.order.clone()
            self._validation = state.validation_x.T[_places(state.order)]
        return self._validation

    def train(self, state: State, grafts: Sequence[Graft], signals: Tensor) -> Tensor:
        """See ``Engine.train``."""
        groups = _grouped(grafts)
        # One flat vector: the hosts' parameters, then each group's. The leaves are views of it; so are the gradients.
        pieces = [state.host.reshape(3, -1)]
        age = [state.host_age]
        learns = [torch.ones(state.n)]
        sizes = [torch.full((state.n,), HOST_SIZE)]
        for (slot, kind, _), members in groups:
            rows = [graft.host for graft in members]
            size = BLUEPRINTS[kind].size
            pieces.append(state.modules[:, rows, slot, :size].reshape(3, -1))
            age.append(state.module_age[rows, slot])
            learns.append(torch.tensor([0.0 if graft.frozen else 1.0 for graft in members]))
            sizes.append(torch.full((len(rows),), size))
        packed = torch.cat(pieces, 1)
        theta, first, second = packed
        gradient = torch.zeros_like(theta)
        ages, rate = torch.cat(age), torch.cat(learns) * state.learning_rate
        owner = torch.repeat_interleave(torch.arange(len(ages)), torch.cat(sizes))

        host_leaf = _leaf(theta, gradient, 0, (state.n, HOST_SIZE))
        sites: list[list[_Group]] = [[] for _ in range(SLOTS)]
        start = state.n * HOST_SIZE
        for (slot, kind, _), members in groups:
            shape = (len(members), BLUEPRINTS[kind].size)
            sites[slot].append(_group(members, _leaf(theta, gradient, start, shape)))
            start += shape[0] * shape[1]

        order = _places(state.order)
        total = torch.zeros(state.n)
        for indices in signals:
            views = state.columns[:, indices][order]
            logits, _ = _forward(state, HOST.split(host_leaf), sites, views)
            labels = state.y[indices].expand(state.n, -1)
            losses = functional.cross_entropy(logits, labels, reduction="none").mean(1)
            gradient.zero_()
            losses.sum().backward()  # type: ignore[no-untyped-call]  # torch leaves backward untyped
            with torch.no_grad():
                ages += 1
                step = rate * (1 - BETAS[1] ** ages).sqrt() / (1 - BETAS[0] ** ages)
                first.lerp_(gradient, 1 - BETAS[0])
                second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
                theta.sub_(step[owner] * first / (second.sqrt() + EPSILON))
                total += losses.detach()

        state.host[:] = packed[:, : state.n * HOST_SIZE].reshape(3, state.n, HOST_SIZE)
        state.host_age[:] = ages[: state.n]
        start, seen = state.n * HOST_SIZE, state.n
        for (slot, kind, _), members in groups:
            rows, size = [graft.host for graft in members], BLUEPRINTS[kind].size
            end = start + len(rows) * size
            state.modules[:, rows, slot, :size] = packed[:, start:end].reshape(3, len(rows), size)
            state.module_age[rows, slot] = ages[seen : seen + len(rows)]
            start, seen = end, seen + len(rows)
        return total / len(signals)

    @torch.no_grad()
    def validate(self, state: State, grafts: Sequence[Graft], rows: Sequence[int]) -> Validation:  # noqa: ARG002 - one product measures all
        """See ``Engine.validate``; all hosts are measured, with modules at their alpha, without TRAINING modules."""
        sites: list[list[_Group]] = [[] for _ in range(SLOTS)]
        for (slot, kind, _), members in _grouped(graft for graft in grafts if graft.alpha > 0.0):
            leaf = state.modules[0, [graft.host for graft in members], slot, : BLUEPRINTS[kind].size]
            sites[slot].append(_group(members, leaf))
        logits, spread = _forward(state, HOST.split(state.host[0]), sites, self._views(state), measure=True)
        labels = state.validation_y.expand(state.n, -1)
        loss = functional.cross_entropy(logits, labels, reduction="none")
        right = (logits.argmax(1) == labels).float()
        return Validation(
            accuracy=right.mean(1), loss=loss.mean(1), spread=torch.stack(spread, 1), response=_response(state)
        )


def _response(state: State) -> Tensor:
    """Apply each block alone to noise; the share of channels whose output varies: float32, (n, SLOTS)."""
    host, shares = HOST.split(state.host[0]), []
    for slot in range(SLOTS):
        answer = torch.relu(
            torch.baddbmm(host[3 + 2 * slot][:, :, None], host[2 + 2 * slot], state.probe.expand(state.n, -1, -1))
        )
        shares.append((answer.var(2) > 1e-6).float().mean(1))
    return torch.stack(shares, 1) * state.alive


def _forward(
    state: State, host: tuple[Tensor, ...], sites: list[list[_Group]], x: Tensor, *, measure: bool = False
) -> tuple[Tensor, list[Tensor]]:
    """Logits (n, CLASSES, batch) of views (n, PATCH, POSITIONS, batch), and each site's spread (n,) on demand."""
    n, batch = x.shape[0], x.shape[3]
    features = torch.relu(torch.baddbmm(host[1][:, :, None], host[0], x.flatten(2)))
    spreads = []
    for slot, groups in enumerate(sites):
        # alive multiplies the weights: relu(a * x) = a * relu(x) for a >= 0, and they are far smaller than outputs.
        alive = state.alive[:, slot, None, None]
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


def _places(order: Tensor) -> Tensor:
    """Orders (n, 40) as the samples of each position: int64, (n, PATCH, POSITIONS)."""
    return order.view(-1, POSITIONS, PATCH).transpose(1, 2)


def _spread(features: Tensor) -> Tensor:
    """Participation ratio of the channels' variances over features (n, CHANNELS, columns): float32, (n,)."""
    around = features - features[:, :, :1]  # exactly 0 where a channel is constant
    variance = around.square().mean(2) - around.mean(2).square()
    return variance.sum(1) ** 2 / (CHANNELS * variance.square().sum(1) + 1e-12)


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
