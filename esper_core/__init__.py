"""Esper: a multi-head PPO agent whose trust region is visible."""

from __future__ import annotations

__all__ = ["__version__"]
__version__ = "0.1.0"
