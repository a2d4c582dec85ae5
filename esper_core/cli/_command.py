"""The protocol of a command, and the table of the core's commands: names and one-line helps, without importing them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Final, Protocol, cast, runtime_checkable

from esper_core.errors import UsageError

if TYPE_CHECKING:
    import argparse

__all__ = ["CORE_COMMANDS", "Command", "CoreCommand", "commands_after_run", "load_core"]


@runtime_checkable
class Command(Protocol):
    """A command of ``esper``: a module-level object called ``command``, or one named by a plugin's entry point.

    Its module imports nothing heavy at top level: the module is loaded for ``esper NAME --help`` too. An optional
    attribute ``after_run`` states the purpose of the command after a run has ended ("look at it"): ``esper ppo`` then
    prints ``esper NAME RUN`` with that purpose among the next commands.
    """

    name: str
    """The command's name: the first argument after ``esper``."""
    help: str
    """The help text: one line, lower-case."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments."""

    def run(self, args: argparse.Namespace) -> int:
        """Run the command and return the exit code. Raise an ``EsperError`` for errors that the user should read."""


@dataclass(frozen=True, slots=True)
class CoreCommand:
    """One of the core's commands, not yet imported."""

    module: str
    help: str


CORE_COMMANDS: Final = {
    "ppo": CoreCommand("esper_core.cli.ppo", "train a PPO agent"),
    "eval": CoreCommand("esper_core.cli.eval", "load a run's checkpoint and report returns"),
    "runs": CoreCommand("esper_core.cli.runs", "list runs with state, verdict, KL and return; delete some"),
    "replay": CoreCommand("esper_core.cli.replay", "print a run's updates, or play them into a sink"),
    "compare": CoreCommand(
        "esper_core.cli.compare", "compare runs: grouped by configuration, seeds as mean and spread, what differs"
    ),
    "report": CoreCommand("esper_core.cli.report", "write one self-contained HTML page about runs"),
    "export": CoreCommand("esper_core.cli.export", "write the updates of runs as CSV, JSON lines, SQLite or Parquet"),
    "sinks": CoreCommand("esper_core.cli.sinks", "list, check and create sinks"),
    "adapters": CoreCommand("esper_core.cli.adapters", "list and check the adapters for other libraries' loops"),
    "config": CoreCommand("esper_core.cli.config", "show the configuration in force and where it comes from"),
}
"""The core's own commands, in the order ``esper --help`` shows them."""


def load_core(name: str) -> Command:
    """Import one of the core's commands."""
    return cast("Command", import_module(CORE_COMMANDS[name].module).command)


def commands_after_run() -> dict[str, str]:
    """Plugins' commands that are useful after a run, each with its purpose; a broken plugin is left out."""
    from esper_core.host.load.discovery import installed_commands, load_command

    found = {}
    for name in installed_commands():
        with contextlib.suppress(UsageError):
            purpose = getattr(load_command(name), "after_run", "")
            if purpose:
                found[name] = str(purpose)
    return found
