"""Esper in Stable-Baselines3: ``model.learn(..., callback=EsperCallback(name="mine"))``."""

from __future__ import annotations

TYPE_CHECKING = False  # as in esper_core: `esper adapters` imports this package, and must not load torch for it

__all__ = ["EsperCallback"]

if TYPE_CHECKING:
    from esper_sb3.callback import EsperCallback
else:

    def __getattr__(name: str) -> object:
        if name != "EsperCallback":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from esper_sb3.callback import EsperCallback  # noqa: PLC0415  # imports Stable-Baselines3 and torch

        return EsperCallback
