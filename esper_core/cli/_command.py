"""The form of a command, and the table of the core's own: names and one-line helps, without importing any."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Final, Protocol, cast, runtime_checkable

if TYPE_CHECKING:
    import argparse

__all__ = ["CORE_COMMANDS", "PLUGIN_COMMANDS", "Command", "CoreCommand", "PluginCommand", "load_core"]


@runtime_checkable
class Command(Protocol):
    """A command of ``esper``: a module-level object called ``command``, or one named by a plugin's entry point.

    Its module imports nothing heavy at top level: the module is loaded for ``esper NAME --help`` too.
    """

    name: str
    """The word after ``esper``."""
    help: str
    """One line, lower-case."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments."""

    def run(self, args: argparse.Namespace) -> int:
        """Do it; the result is the exit code. Raise an ``EsperError`` for what a person should read."""


@dataclass(frozen=True, slots=True)
class CoreCommand:
    """One of the core's commands, not yet imported."""

    module: str
    help: str


@dataclass(frozen=True, slots=True)
class PluginCommand:
    """A command that a first-party plugin brings; ``host/load/discovery.py`` knows which distribution has it."""

    help: str


CORE_COMMANDS: Final = {
    "ppo": CoreCommand("esper_core.cli.ppo", "train a PPO agent"),
    "eval": CoreCommand("esper_core.cli.eval", "load a run's checkpoint and report returns"),
    "runs": CoreCommand("esper_core.cli.runs", "list runs with state, verdict, KL and return"),
    "replay": CoreCommand("esper_core.cli.replay", "print a run's updates, or play them into a sink"),
    "export": CoreCommand("esper_core.cli.export", "write the updates of runs as CSV or JSON lines"),
    "sinks": CoreCommand("esper_core.cli.sinks", "list, check and create sinks"),
    "config": CoreCommand("esper_core.cli.config", "show the configuration in force and where it comes from"),
}
"""The core's own commands, in the order ``esper --help`` shows them."""

PLUGIN_COMMANDS: Final = {
    "sanctum": PluginCommand("watch runs, live or ended, in the terminal"),
    "verify": PluginCommand("prove a telemetry record by machine, from emitter to display"),
}
"""Commands of plugins that Esper itself publishes: known by name even when the plugin is absent."""


def load_core(name: str) -> Command:
    """Import one of the core's commands."""
    return cast("Command", import_module(CORE_COMMANDS[name].module).command)
