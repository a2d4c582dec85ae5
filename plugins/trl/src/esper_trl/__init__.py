"""Esper in TRL's GRPO and RLOO: `EsperCallback(name="mine").attach(trainer)` before `trainer.train()`."""

from __future__ import annotations

TYPE_CHECKING = False  # as in esper_core: `esper adapters` imports this package, and must not load torch for it

__all__ = ["EsperCallback"]

if TYPE_CHECKING:
    from esper_trl.callback import EsperCallback
else:

    def __getattr__(name: str) -> object:
        if name != "EsperCallback":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from esper_trl.adapter import adapter  # noqa: PLC0415  # imports nothing heavy

        adapter.require(exactly=True)  # before TRL is imported: its absence is one sentence
        from esper_trl.callback import EsperCallback  # noqa: PLC0415  # imports TRL and torch

        return EsperCallback
