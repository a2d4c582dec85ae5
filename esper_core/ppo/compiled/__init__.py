"""The update's step as one call (``ppo.compile``): AOTInductor's code, built once and kept, or a CUDA graph."""

from __future__ import annotations

from esper_core.ppo.compiled.steps import CompiledSteps

__all__ = ["CompiledSteps"]
