"""The update's step compiled by AOTInductor (``ppo.compile``): built once and kept on the disk."""

from __future__ import annotations

from esper_core.ppo.compiled.steps import CompiledSteps

__all__ = ["CompiledSteps"]
