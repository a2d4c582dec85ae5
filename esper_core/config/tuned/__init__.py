"""The core's presets: values with which PPO learns known environments, one module a family of them.

The values start from those that rl-baselines3-zoo publishes for Stable-Baselines3's PPO (``hyperparams/ppo.yml`` of
https://github.com/DLR-RM/rl-baselines3-zoo); docs/reference/presets.md says what differs and what was measured.
"""

from __future__ import annotations

from typing import Final

from esper_core.config.tuned._box2d import BOX2D
from esper_core.config.tuned._classic_control import CLASSIC_CONTROL
from esper_core.config.tuned._form import Tuned
from esper_core.config.tuned._images import IMAGES
from esper_core.config.tuned._mujoco import MUJOCO
from esper_core.config.tuned._several_heads import SEVERAL_HEADS

__all__ = ["TUNED", "Tuned"]

TUNED: Final[tuple[Tuned, ...]] = (*CLASSIC_CONTROL, *BOX2D, *MUJOCO, *IMAGES, *SEVERAL_HEADS)
"""Every preset of the core, easiest environments first."""
