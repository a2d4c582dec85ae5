"""Named values beneath the configuration file."""

from __future__ import annotations

from typing import Any, Final

__all__ = ["PRESETS", "preset_for"]

PRESETS: Final[dict[str, dict[str, Any]]] = {"cartpole": {"run": {"steps": 100_000}}}


def preset_for(env_id: str) -> str:
    """The preset of an environment, or an empty string."""
    return "cartpole" if env_id.startswith("CartPole") else ""
