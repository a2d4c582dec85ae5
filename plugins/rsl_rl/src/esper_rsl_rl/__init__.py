"""Esper in rsl_rl: ``algorithm.class_name = "esper_rsl_rl:PPO"`` in the configuration; nothing else changes."""

from __future__ import annotations

TYPE_CHECKING = False  # as in esper_core: `esper adapters` imports this package, and must not load torch for it

__all__ = ["PPO"]

if TYPE_CHECKING:
    from esper_rsl_rl.algorithm import PPO
else:

    def __getattr__(name: str) -> object:
        if name != "PPO":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from esper_rsl_rl.adapter import adapter  # noqa: PLC0415  # imports nothing heavy

        adapter.require(exactly=True)  # before rsl_rl is imported: its absence is one sentence
        from esper_rsl_rl.algorithm import PPO  # noqa: PLC0415  # imports rsl_rl and torch

        return PPO
