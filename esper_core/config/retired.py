"""What runs of earlier versions call otherwise: their files are read as if this version had written them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["todays_ppo"]


def todays_ppo(table: Mapping[str, Any]) -> dict[str, Any]:
    """A run's ``[ppo]`` table under today's keys: ``anneal_learning_rate`` became ``learning_rate_schedule``."""
    today = dict(table)
    if today.pop("anneal_learning_rate", False) is True:
        today.setdefault("learning_rate_schedule", "linear")
    return today
