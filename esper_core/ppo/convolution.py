"""A convolutional trunk: pixels through convolutions, everything else beside what comes of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from torch import Tensor, nn

from esper_core.errors import ConfigError
from esper_core.ppo.networks import GAIN, Trunk, dense_trunk, linear, orthogonal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper_core.config.schema import PPOConfig
    from esper_core.ppo.preprocessing import ObservationForm

__all__ = ["ConvolutionalTrunk", "Planes", "planes_of"]


class _Layer(NamedTuple):
    filters: int
    kernel: int
    stride: int


_NATURE: Final = (_Layer(32, 8, 4), _Layer(64, 4, 2), _Layer(64, 3, 1))
"""Mnih et al. 2015 (doi:10.1038/nature14236); needs 36 pixels a side."""
_NATURE_SIDE: Final = 36
_SMALL: Final = (_Layer(16, 3, 1), _Layer(32, 3, 1))
"""For images of 5 to 35 pixels a side, such as MinAtar's 10 x 10 (the first layer is Young and Tian's, 1903.03176)."""
_SMALL_SIDE: Final = 5
_FEATURES: Final = 512
_BESIDE: Final = 256
"""Features of an image when the observation has other parts, as Stable-Baselines3 has them."""


class Planes(NamedTuple):
    """How an image's array becomes channels of pixels.

    Attributes:
        order: the array's axes, channels first.
        channels: how many, those of all frames together.
        height: in pixels.
        width: in pixels.
    """

    order: tuple[int, ...]
    channels: int
    height: int
    width: int


def planes_of(shape: Sequence[int]) -> Planes | None:
    """Channels of an array of 2, 3 or 4 dimensions; None for another, or one that is too small.

    Two dimensions are one channel. Of three, the channels are the last axis, or the first when that one is shorter:
    (height, width, channels), or (channels, height, width), which frames of grey pixels stacked by Gymnasium are too. A
    fourth axis before them is a stack of frames.
    """
    rank = len(shape)
    if rank not in {2, 3, 4}:
        return None
    before = tuple(range(rank - 3))
    sides: tuple[int, ...]
    if rank == 2:
        order: tuple[int, ...] = (0, 1)
        channels, sides = 1, tuple(shape)
    elif shape[-1] <= shape[-3]:
        order, channels, sides = (*before, rank - 1, rank - 3, rank - 2), shape[-1], tuple(shape[-3:-1])
    else:
        order, channels, sides = tuple(range(rank)), shape[-3], tuple(shape[-2:])
    channels *= math.prod(shape[axis] for axis in before)
    if min(sides) < _SMALL_SIDE or channels < 1:
        return None
    return Planes(order, channels, sides[0], sides[1])


class ConvolutionalTrunk(Trunk):
    """Convolutions for each image, shared by policy and value.

    An observation that is one image has one layer of 512 features after its convolutions, and no other. Where there are
    other parts, each image gives 256 features, and ``ppo.hidden`` describes the layers over all of them. ReLU stands
    behind convolutions and features, ``ppo.activation`` behind the others.

    Args:
        config: the table ``[ppo]``.
        form: what an observation consists of.
        generator: seeds the weights.

    Raises:
        ConfigError: no part of the observation is an image.
    """

    def __init__(self, config: PPOConfig, form: ObservationForm, generator: torch.Generator) -> None:
        super().__init__()
        marked = form.images
        images: list[_Image] = []
        self._rest: list[tuple[int, int]] = []
        start = 0
        alone = len(form.parts) == 1
        for part in form.parts:
            # Named by hand, "cnn" takes what the bounds alone do not make an image, such as a camera in floats.
            planes = planes_of(part.shape) if part.kind == "image" or (part.kind == "numbers" and not marked) else None
            if planes is not None:
                images.append(_Image(start, planes, part.shape, _FEATURES if alone else _BESIDE, generator))
            else:
                self._rest.append((start, part.size))
            start += part.size
        if not images:
            raise ConfigError(
                f'ppo.policy is "cnn", and the observation is no image of at least {_SMALL_SIDE} x {_SMALL_SIDE}: '
                f"{form}",
                hint='ppo.policy = "auto" takes the convolutional trunk where there is an image',
            )
        self.images = nn.ModuleList(images)
        features = sum(image.features for image in images) + sum(size for _, size in self._rest)
        self.dense = None if alone else dense_trunk(config, features, generator)
        self.widths = self.dense.widths if self.dense is not None else (features, features)

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Features of policy and value."""
        found = [image(rows) for image in self.images]
        if self.dense is None:
            return found[0], found[0]
        beside = [rows[:, start : start + size] for start, size in self._rest]
        policy, value = self.dense(torch.cat([*found, *beside], dim=1))
        return policy, value


class _Image(nn.Module):
    """One image's convolutions and features."""

    def __init__(
        self, start: int, planes: Planes, shape: tuple[int, ...], features: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.features = features
        self._columns = slice(start, start + math.prod(shape))
        self._shape, self._planes = shape, planes
        self._order = [0, *(axis + 1 for axis in planes.order)]
        sides: tuple[int, ...] = (planes.height, planes.width)
        layers: list[nn.Module] = []
        channels = planes.channels
        for layer in _NATURE if min(sides) >= _NATURE_SIDE else _SMALL:
            layers += [_convolution(channels, layer, generator), nn.ReLU()]
            channels = layer.filters
            sides = tuple((side - layer.kernel) // layer.stride + 1 for side in sides)
        layers += [nn.Flatten(), linear(channels * math.prod(sides), features, generator), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, rows: Tensor) -> Tensor:
        pixels = rows[:, self._columns].reshape(-1, *self._shape).permute(self._order)
        features: Tensor = self.layers(
            pixels.reshape(len(rows), self._planes.channels, self._planes.height, self._planes.width)
        )
        return features


def _convolution(channels: int, layer: _Layer, generator: torch.Generator) -> nn.Conv2d:
    # As in `linear`: torch's own initialisation would draw from its global generator.
    convolution = nn.Conv2d(channels, layer.filters, layer.kernel, stride=layer.stride, device="meta")
    convolution = convolution.to_empty(device="cpu")
    with torch.no_grad():
        flat = orthogonal(channels * layer.kernel**2, layer.filters, GAIN, generator).T
        convolution.weight.copy_(flat.reshape(convolution.weight.shape))
        if convolution.bias is not None:
            convolution.bias.zero_()
    return convolution
