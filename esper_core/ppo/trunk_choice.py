"""Which trunk ``[ppo]`` and an observation's form ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from esper_core.ppo.convolution import ConvolutionalTrunk
from esper_core.ppo.custom_network import CustomTrunk
from esper_core.ppo.networks import dense_trunk

if TYPE_CHECKING:
    import torch

    from esper_core.config.schema import PPOConfig
    from esper_core.ppo.networks import Trunk
    from esper_core.ppo.preprocessing import ObservationForm

__all__ = ["chosen", "trunk_of"]


def chosen(config: PPOConfig, form: ObservationForm) -> PPOConfig:
    """The table with ``auto`` replaced by what it means here: ``cnn`` where any part is an image, else ``mlp``."""
    if config.policy != "auto":
        return config
    return msgspec.structs.replace(config, policy="cnn" if form.images else "mlp")


def trunk_of(config: PPOConfig, form: ObservationForm, generator: torch.Generator) -> Trunk:
    """The trunk of a table whose policy is chosen.

    Raises:
        ConfigError: there is no image for ``cnn``, or a user's own network breaks its contract.
    """
    if config.policy == "mlp":
        return dense_trunk(config, form.size, generator)
    if config.policy == "cnn":
        return ConvolutionalTrunk(config, form, generator)
    return CustomTrunk(config.policy, form, tuple(config.hidden), generator)
