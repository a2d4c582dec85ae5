"""Esper in torchrl: ``trainer.register_op("post_steps_log", report(trainer, name="mine"))``."""

from __future__ import annotations

TYPE_CHECKING = False  # as in esper_core: `esper adapters` imports this package, and must not load torch for it

__all__ = ["Report", "report"]

if TYPE_CHECKING:
    from esper_torchrl.hook import Report, report
else:

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from esper_torchrl.adapter import adapter  # noqa: PLC0415  # only with the first use

        adapter.require()
        from esper_torchrl import hook  # noqa: PLC0415  # imports torchrl and torch

        return getattr(hook, name)
