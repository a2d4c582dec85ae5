"""Esper: a multi-head PPO agent whose trust region is visible.

::

    import esper_core

    run = esper_core.train(env="CartPole-v1", updates=50)
    print(run.verdict().reason)

Each name is imported when it is first used: ``import esper_core`` loads neither torch nor the OpenTelemetry SDK.
"""

from __future__ import annotations

from esper_core.version import __version__

TYPE_CHECKING = False  # type checkers treat this name as true; importing typing takes longer than all of this module

__all__ = ["PPOAgent", "Run", "Session", "__version__", "monitor", "open_run", "train"]

# No name here is also a module's: importing that module would replace the name's value by the module.
_HOMES = {
    "PPOAgent": "esper_core.ppo.agent",
    "Run": "esper_core.reading",
    "Session": "esper_core.host.session",
    "monitor": "esper_core.monitoring",
    "open_run": "esper_core.reading",
    "train": "esper_core.training",
}

if TYPE_CHECKING:
    from esper_core.host.session import Session
    from esper_core.monitoring import monitor
    from esper_core.ppo.agent import PPOAgent
    from esper_core.reading import Run, open_run
    from esper_core.training import train
else:  # hidden from type checkers, so that they report names that do not exist

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module  # noqa: PLC0415  # not needed for __version__

        try:
            found = getattr(import_module(_HOMES[name]), name)
        except ModuleNotFoundError as error:
            if error.name is not None and not error.name.startswith(__name__):
                error.add_note(f"{__name__}.{name} needs {error.name}: pip install 'esper-core[default]'")
            raise
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
