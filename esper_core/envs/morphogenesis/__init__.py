"""The default task: an agent that grows a network. ``docs/explanation/morphogenesis.md`` explains it."""

from __future__ import annotations

from esper_core.envs.morphogenesis.env import MorphogenesisEnv

__all__ = ["MorphogenesisEnv"]
