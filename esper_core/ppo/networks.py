"""Trunks: the layers between an observation and the heads.

A trunk is a module whose ``forward`` maps rows float32 (B, inputs) to features of the policy (B, ``widths[0]``) and of
the value (B, ``widths[1]``). What it draws comes from the generator that it is given.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from esper_core.config.schema import PPOConfig
    from esper_core.ppo.task import FloatArray

    HostTrunk: TypeAlias = Callable[[FloatArray], tuple[FloatArray, FloatArray]]

__all__ = ["ACTIVATIONS", "SeparateTrunks", "SharedTrunk", "Trunk", "dense_trunk", "linear", "orthogonal", "small"]

ACTIVATIONS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "tanh": torch.tanh_,
    "relu": torch.relu_,
    "elu": nn.functional.elu,
    "gelu": nn.functional.gelu,
    "silu": nn.functional.silu,
}
"""By the names that ``ppo.activation`` has for them. What they are given they may write over: a layer's result."""

APART: Final = 65536
"""Features of one trunk's first layer over a batch, from which separate trunks are faster computed one by one."""

MOST_PRODUCTS: Final = 1 << 17
"""Multiplications of a layer, over all rows, up to which acting computes it in NumPy."""
MOST_PRODUCTS_OF_ONE: Final = 1 << 12
"""Likewise of a single row, which BLAS takes as a vector."""

_ON_HOST: Final[dict[Callable[[Tensor], Tensor], Callable[[FloatArray], object]]] = {
    torch.tanh_: lambda features: np.tanh(features, out=features),
    torch.relu_: lambda features: np.maximum(features, 0.0, out=features),
}
"""Activations that NumPy computes too: they write over what they are given."""

GAIN: Final = math.sqrt(2)
"""Of the orthogonal initialisation of hidden layers (Engstrom et al. 2020, arXiv:2005.12729)."""


class Trunk(nn.Module):
    """What every trunk is.

    Attributes:
        widths: features of the policy, and of the value.
    """

    widths: tuple[int, int]

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Features of policy (B, ``widths[0]``) and value (B, ``widths[1]``) of rows float32 (B, inputs)."""
        raise NotImplementedError

    def on_host(self, rows: int) -> HostTrunk | None:
        """The same features from NumPy to NumPy, of the weights as they are now, for calls with that many rows.

        What it returns is overwritten by its next call. None where torch does better, or has what NumPy lacks.
        """
        del rows
        return None


class SeparateTrunks(Trunk):
    """One trunk for the policy and one for the value, packed into batched matrices.

    The two have the same shape, so each layer of both is one matrix product.

    Args:
        inputs: length of a row.
        hidden: widths of the hidden layers; may be empty.
        generator: seeds the weights.
        activation: after each layer.
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        generator: torch.Generator,
        *,
        activation: Callable[[Tensor], Tensor] = torch.tanh_,
    ) -> None:
        super().__init__()
        sizes = [inputs, *hidden]
        self.widths = (sizes[-1], sizes[-1])
        self._activation = activation
        self._names: list[tuple[str, str]] = []
        for index, (fan_in, fan_out) in enumerate(pairwise(sizes)):
            pair = torch.stack([orthogonal(fan_in, fan_out, GAIN, generator) for _ in range(2)])
            # Both trunks read the same observation: their first layer is one ordinary matrix product.
            weight = pair.transpose(0, 1).reshape(fan_in, 2 * fan_out) if index == 0 else pair
            bias = torch.zeros(2 * fan_out) if index == 0 else torch.zeros(2, 1, fan_out)
            names = (f"weight_{index}", f"bias_{index}")
            self.register_parameter(names[0], nn.Parameter(weight.contiguous()))
            self.register_parameter(names[1], nn.Parameter(bias))
            self._names.append(names)

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Features of policy and value."""
        layers = self._layers()
        if not layers:
            return rows, rows
        if rows.shape[0] * layers[0][1].numel() >= 2 * APART:
            return self._apart(rows, layers)
        weight, bias = layers[0]
        first = self._activation(torch.addmm(bias, rows, weight))
        both = first.view(first.shape[0], 2, first.shape[1] // 2).transpose(0, 1)
        for weight, bias in layers[1:]:
            both = self._activation(torch.baddbmm(bias, both, weight))
        # Not both[0], both[1]: their gradients would be two tensors of zeros, filled, and added up.
        policy, value = both.unbind(0)
        return policy, value

    def on_host(self, rows: int) -> HostTrunk | None:
        """Features of policy and value."""
        activation = _ON_HOST.get(self._activation)
        if activation is None or not all(small(rows, weight) for weight, _ in self._layers()):
            return None
        layers = [(weight.detach().numpy(), bias.detach().numpy()) for weight, bias in self._layers()]
        if not layers:
            return lambda shown: (shown, shown)
        (first_weight, first_bias), *others = layers
        first = np.empty((rows, len(first_bias)), dtype=np.float32)
        pair = first.reshape(rows, 2, -1).transpose(1, 0, 2)
        buffers = [np.empty((2, rows, weight.shape[2]), dtype=np.float32) for weight, _ in others]

        def features(shown: FloatArray) -> tuple[FloatArray, FloatArray]:
            np.dot(shown, first_weight, out=first)
            np.add(first, first_bias, out=first)
            activation(first)
            both: FloatArray = pair
            for (weight, bias), buffer in zip(others, buffers, strict=True):
                np.matmul(both, weight, out=buffer)
                np.add(buffer, bias, out=buffer)
                activation(buffer)
                both = buffer
            return both[0], both[1]

        return features

    def _layers(self) -> list[tuple[Tensor, Tensor]]:
        """Weight and bias of each layer; by name, so that ``torch.func.functional_call`` can put others in place."""
        parameters: dict[str, Any] = self._parameters  # an attribute costs more than a small layer
        return [(parameters[weight], parameters[bias]) for weight, bias in self._names]

    def _apart(self, rows: Tensor, layers: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """The same, side by side: more operations, and no gradient is copied into the packed order."""
        policy = value = rows
        for index, (weight, bias) in enumerate(layers):
            of_policy, of_value = weight.chunk(2, 1) if index == 0 else weight.unbind(0)
            to_policy, to_value = bias.chunk(2) if index == 0 else bias.squeeze(1).unbind(0)
            policy = self._activation(torch.addmm(to_policy, policy, of_policy))
            value = self._activation(torch.addmm(to_value, value, of_value))
        return policy, value


class SharedTrunk(Trunk):
    """The same layers for policy and value.

    Args:
        inputs: length of a row.
        hidden: widths of the hidden layers; may be empty.
        generator: seeds the weights.
        activation: after each layer.
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        generator: torch.Generator,
        *,
        activation: Callable[[Tensor], Tensor] = torch.tanh_,
    ) -> None:
        super().__init__()
        sizes = [inputs, *hidden]
        self.widths = (sizes[-1], sizes[-1])
        self._activation = activation
        self.layers = nn.ModuleList(linear(fan_in, fan_out, generator) for fan_in, fan_out in pairwise(sizes))

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Features of policy and value: the same."""
        for layer in self.layers:
            rows = self._activation(layer(rows))
        return rows, rows

    def on_host(self, rows: int) -> HostTrunk | None:
        """Features of policy and value: the same."""
        activation = _ON_HOST.get(self._activation)
        linears = [layer for layer in self.layers if isinstance(layer, nn.Linear)]
        if activation is None or not all(small(rows, layer.weight) for layer in linears):
            return None
        layers = [(layer.weight.detach().numpy().T, layer.bias.detach().numpy()) for layer in linears]
        buffers = [np.empty((rows, len(bias)), dtype=np.float32) for _, bias in layers]

        def features(shown: FloatArray) -> tuple[FloatArray, FloatArray]:
            for (weight, bias), buffer in zip(layers, buffers, strict=True):
                np.dot(shown, weight, out=buffer)
                np.add(buffer, bias, out=buffer)
                activation(buffer)
                shown = buffer
            return shown, shown

        return features


def small(rows: int, weight: Tensor) -> bool:
    """Whether rows times a layer's weights is so little that NumPy's dispatch is what counts.

    And so little that NumPy's own BLAS, whose threads nobody here counts, takes one: OpenBLAS's bounds are twice these.
    """
    width = weight.shape[-1] * weight.shape[-2]
    return rows * width <= MOST_PRODUCTS and (rows > 1 or width <= MOST_PRODUCTS_OF_ONE)


def dense_trunk(config: PPOConfig, inputs: int, generator: torch.Generator) -> Trunk:
    """The layers that ``ppo.hidden``, ``ppo.activation`` and ``ppo.shared_trunk`` describe."""
    kind = SharedTrunk if config.shared_trunk else SeparateTrunks
    return kind(inputs, config.hidden, generator, activation=ACTIVATIONS[config.activation])


def linear(fan_in: int, fan_out: int, generator: torch.Generator) -> nn.Linear:
    """A layer with orthogonal weights and no bias yet, drawn from the given generator alone."""
    # Not initialised by torch: that would draw from its global generator.
    layer = nn.Linear(fan_in, fan_out, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        layer.weight.copy_(orthogonal(fan_in, fan_out, GAIN, generator).T)
        layer.bias.zero_()
    return layer


def orthogonal(fan_in: int, fan_out: int, gain: float, generator: torch.Generator) -> Tensor:
    """An orthogonal (fan_in, fan_out) matrix from the given generator alone."""
    rows, columns = max(fan_in, fan_out), min(fan_in, fan_out)
    q, r = torch.linalg.qr(torch.randn(rows, columns, generator=generator))
    signed: Tensor = gain * q * torch.sign(torch.diagonal(r))
    return signed if fan_in >= fan_out else signed.T
