"""Finds installed sinks and commands by name: reads the metadata of all, imports only the selected ones.

``load_setuptools_entrypoints`` is not used: it imports every installed plugin, selected or not, and one broken
distribution ends it before the others are loaded.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper_core import forks
from esper_core.errors import SinkError, UsageError, error_text, nearest
from esper_core.host.process.started import owned_by
from esper_core.host.remedies import leave_out
from esper_core.host.sink_files import module_name, module_spec
from esper_core.installed import COMMAND_GROUP, CORE, SINK_GROUP, Installed, command_extras, duplicates, installed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

    from esper_core.hooks import Delivery

__all__ = [
    "LoadedSink",
    "duplicate_sinks",
    "installed_commands",
    "installed_sinks",
    "is_file_spec",
    "load_command",
    "load_sink",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedSink:
    """A sink's class, imported and checked, not yet created.

    Attributes:
        name: what the configuration calls it; of ``./file.py:Class`` the class's name.
        spec: the requested sink: its name, or ``./file.py:Class``.
        factory: ``Sink(config)``.
        distribution: the distribution it is installed from; empty for a file.
        version: of the distribution.
        hooks: the hooks it implements.
        config_type: its ``Config``, or None.
        delivery: what it declares.
        requires: names of other sinks that must be on.
        keeps_record: whether it keeps the run's record. When it loses events, no number of the run is reliable.
        every_rank: whether each rank of a run of several has one; False: rank 0 alone.
        any_thread: whether it may be called inline from any thread, one call at a time.
        named: False for a default sink that the user did not name: it may be missing.
    """

    name: str
    spec: str
    factory: Any
    distribution: str = ""
    version: str = ""
    hooks: frozenset[str] = frozenset()
    config_type: type[Any] | None = None
    delivery: Delivery = "all"
    requires: tuple[str, ...] = ()
    keeps_record: bool = False
    every_rank: bool = False
    any_thread: bool = False
    named: bool = field(default=True)

    @property
    def origin(self) -> str:
        """Name and distribution, as error messages show them."""
        return f'"{self.name}" ({self.distribution} {self.version})' if self.distribution else f'"{self.name}"'

    @property
    def owner(self) -> str:
        """The sink as the owner of what it starts: name and distribution, or name and file."""
        if self.distribution:
            return f"sink {self.name} ({self.distribution} {self.version})"
        file = self.spec.rpartition(":")[0]
        return f"sink {self.name} ({file})" if file else f"sink {self.name}"


def installed_sinks() -> dict[str, Installed]:
    """Every installed sink by name, from metadata alone; the first one when a name occurs twice."""
    return installed(SINK_GROUP)


def duplicate_sinks() -> dict[str, tuple[str, ...]]:
    """Names that more than one distribution registers, with those distributions."""
    return duplicates(SINK_GROUP)


def is_file_spec(spec: str) -> bool:
    """True for ``./file.py:Class``."""
    return ".py:" in spec


def load_sink(spec: str, *, named: bool = True) -> LoadedSink:
    """Import and check one sink.

    Args:
        spec: an installed name, or ``./file.py:Class``.
        named: False for a default sink that the user did not name.

    Raises:
        SinkError: it is not installed, two distributions claim its name, it cannot be imported, or it is no sink.
    """
    if not spec.strip():
        raise SinkError("sinks: the name of a sink is empty", hint="give no sink at all as an empty list: sinks = []")
    with forks.Place(f"sink {spec}"), owned_by(f"sink {spec}"):
        return _load_file(spec) if is_file_spec(spec) else _load_installed(spec, named=named)


def _load_installed(name: str, *, named: bool) -> LoadedSink:
    sinks = installed_sinks()
    found = sinks.get(name)
    if found is None:
        raise SinkError(f'no sink named "{name}" is installed{nearest(name, sinks)}', hint=_how_to(name, sinks))
    rivals = duplicate_sinks().get(name)
    if rivals:
        raise SinkError(
            f'the sink name "{name}" is claimed by {len(rivals)} distributions: {", ".join(rivals)}',
            hint="uninstall all but one of them",
        )
    try:
        factory = found.load()
    except BaseException as error:  # an import may raise anything, SystemExit included
        if isinstance(error, KeyboardInterrupt):
            raise
        raise SinkError(
            f'sink "{name}" ({found.distribution} {found.version}) cannot be imported from {found.value}: '
            f"{error_text(error)}",
            hint=f"reinstall it with `pip install --force-reinstall {found.distribution}`, or {leave_out(name)}",
        ) from error
    return _checked(factory, name=name, spec=name, distribution=found.distribution, version=found.version, named=named)


def _how_to(name: str, sinks: Mapping[str, object]) -> str:
    known = f"installed: {', '.join(sinks)}" if sinks else "no sink is installed"
    return f"{known}; a plugin's sink comes with `pip install esper-sink-{name}`, your own is ./file.py:Class"


def _load_file(spec: str) -> LoadedSink:
    path_text, _, class_name = spec.rpartition(":")
    path = Path(path_text).expanduser()
    if not path.is_file():
        raise SinkError(f"no such file: {path_text} (sink {spec})", hint="give a path as in ./my_sink.py:MySink")
    module = _import_file(path, spec)
    factory = getattr(module, class_name, None)
    if factory is None:
        classes = [item for item, value in vars(module).items() if isinstance(value, type)]
        raise SinkError(
            f'{path_text} has no class "{class_name}"{nearest(class_name, classes)}',
            hint=f"classes in it: {', '.join(classes) or 'none'}",
        )
    return _checked(factory, name=class_name, spec=spec, distribution="", version="", named=True)


def _import_file(path: Path, spec: str) -> ModuleType:
    name = module_name(path.resolve())
    if module_spec(name) is None:
        raise SinkError(f"{path} is no Python file (sink {spec})")
    try:
        return importlib.import_module(name)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise SinkError(
            f"{path} cannot be imported: {error_text(error)}", hint=f"run `python {path}` to see where"
        ) from error


def _checked(factory: Any, *, name: str, spec: str, distribution: str, version: str, named: bool) -> LoadedSink:
    from esper_core.host.load.inspection import inspect_sink  # noqa: PLC0415  # listing what is installed needs no pluggy

    where = f'sink "{name}" ({distribution} {version})' if distribution else f"sink {spec}"
    seen = inspect_sink(factory, where)
    return LoadedSink(
        name=name,
        spec=spec,
        factory=factory,
        distribution=distribution,
        version=version,
        hooks=seen.hooks,
        config_type=seen.config_type,
        delivery=seen.delivery,
        requires=seen.requires,
        keeps_record=seen.keeps_record,
        every_rank=seen.every_rank,
        any_thread=seen.any_thread,
        named=named,
    )


# --- commands -----------------------------------------------------------------------------------


def installed_commands() -> dict[str, Installed]:
    """Every command that an installed distribution registers, from metadata alone."""
    return installed(COMMAND_GROUP)


def load_command(name: str) -> Any:
    """Import one plugin's command: an object with ``name``, ``help``, ``add_arguments(parser)`` and ``run(args)``.

    Raises:
        UsageError: its plugin is absent or cannot be imported; the hint says what to install.
    """
    commands = installed_commands()
    found = commands.get(name)
    if found is None:
        if name in command_extras():
            raise UsageError(
                f'command "{name}" comes with a plugin that is not installed',
                hint=f"install it with `pip install '{CORE}[{name}]'`",
            )
        raise UsageError(f'no command named "{name}"{nearest(name, commands)}')
    try:
        return found.load()
    except Exception as error:
        raise UsageError(
            f'command "{name}" ({found.distribution} {found.version}) cannot be imported: {error_text(error)}',
            hint=f"reinstall it with `pip install --force-reinstall {found.distribution}`",
        ) from error
