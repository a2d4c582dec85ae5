"""The modules that can be grafted, one a file, in the order of the agent's ``blueprint`` head."""

from __future__ import annotations

from typing import Final

from esper_env_morphogenesis.blueprints import bottleneck, conv, gated, linear, norm
from esper_env_morphogenesis.blueprints._base import CHANNELS, POSITIONS, Blueprint, Layout, Parameter

__all__ = ["BLUEPRINTS", "CHANNELS", "POSITIONS", "Blueprint", "Layout", "Parameter"]

BLUEPRINTS: Final[tuple[Blueprint, ...]] = (
    norm.BLUEPRINT,
    gated.BLUEPRINT,
    conv.BLUEPRINT,
    linear.BLUEPRINT,
    bottleneck.BLUEPRINT,
)
"""Ordered by size: 16, 136, 200, 400 and 1284 parameters. A new blueprint is one file and one line here."""
