"""Selects the sinks of a run: those configured and those that they require. A default sink may be missing."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from esper_core.config.schema import EsperConfig
from esper_core.errors import ConfigError, SinkError, nearest
from esper_core.host.load.discovery import LoadedSink, installed_sinks, is_file_spec, load_sink
from esper_core.host.load.options import sink_options
from esper_core.host.process.ending import sinks_load
from esper_core.installed import CORE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = [
    "CHILD_VARIABLE",
    "Selection",
    "foreground_sink",
    "refuse_tables",
    "select_sinks",
    "table_notices",
    "to_install_sinks",
    "without_screen",
]

CHILD_VARIABLE: Final = "ESPER_CHILD_FD"
"""Environment variable of a training that a foreground sink's command started: the file descriptor to which the
child writes its run's directory."""
DEFAULT_SINKS: Final = EsperConfig().sinks


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The sinks of a run, imported and checked.

    Attributes:
        sinks: in the order of the configuration, required ones last.
        notices: lines to print at the start.
    """

    sinks: tuple[LoadedSink, ...]
    notices: tuple[str, ...] = ()


def select_sinks(
    config: EsperConfig, *, origins: Mapping[str, str] | None = None, dropped: Iterable[str] = ()
) -> Selection:
    """Import and check the sinks that a configuration selects.

    Args:
        config: the whole configuration.
        origins: where its values came from (``Resolved.origins``): distinguishes named sinks from defaults.
            None treats the default sinks as defaults and every other one as named.
        dropped: what the user left out by name (``Resolved.dropped_sinks``): no sink brings it back.

    Raises:
        SinkError: a sink that the user named, or that a selected sink requires, cannot be loaded, or a selected sink
            requires one that was left out.
        ConfigError: a table names a sink that is not installed and resembles the name of one that is.
    """
    sinks_load(config.run.close_timeout_s)
    loaded: dict[str, LoadedSink] = {}
    missing: list[str] = []
    for spec in dict.fromkeys(config.sinks):
        named = _is_named(spec, origins)
        if not named and spec not in installed_sinks():
            missing.append(spec)
            continue
        sink = load_sink(spec, named=named)
        _refuse_clash(sink, loaded)
        loaded[sink.name] = sink
    notices = [_going_without(missing)] if missing else []
    _add_required(loaded, notices, frozenset(dropped))
    _refuse_misspelt(config)
    notices += table_notices(config)
    chosen = tuple(loaded.values())
    foreground_sink(chosen)
    if CHILD_VARIABLE in os.environ:
        # The parent process owns the terminal: its screen is running already.
        chosen = tuple(sink for sink in chosen if "esper_foreground" not in sink.hooks)
    return Selection(sinks=chosen, notices=tuple(notices))


def _going_without(missing: list[str]) -> str:
    """The line about default sinks that are not installed, with the command that brings them."""
    names = " and ".join(f'"{name}"' for name in missing)
    several = len(missing) > 1
    return (
        f"default sink{'s' if several else ''} {names} {'are' if several else 'is'} not installed, "
        f"going on without {'them' if several else 'it'} ({to_install_sinks(missing)})"
    )


def to_install_sinks(names: Iterable[str]) -> str:
    """The pip command for sinks of these names, and the one for everything that a bare ``esper ppo`` uses."""
    wanted = " ".join(f"esper-sink-{name}" for name in names)
    return f"pip install {wanted}; pip install '{CORE}[default]' brings training and the default task too"


def _is_named(spec: str, origins: Mapping[str, str] | None) -> bool:
    if spec not in DEFAULT_SINKS:
        return True
    origin = (origins or {}).get("sinks", "")
    return bool([part for part in origin.split(", ") if part and part not in {"--sink", "--no-sink", "default"}])


def _refuse_clash(sink: LoadedSink, loaded: Mapping[str, LoadedSink]) -> None:
    other = loaded.get(sink.name)
    if other is not None:
        raise SinkError(
            f'two sinks are called "{sink.name}": {other.spec} and {sink.spec}', hint="rename one of the classes"
        )


def _add_required(loaded: dict[str, LoadedSink], notices: list[str], dropped: frozenset[str]) -> None:
    waiting = list(loaded.values())
    while waiting:
        sink = waiting.pop(0)
        for name in sink.requires:
            if name in loaded:
                continue
            if name in dropped:
                raise SinkError(
                    f'sink {sink.origin} requires sink "{name}", which `--no-sink {name}` leaves out',
                    hint=f"leave out `--no-sink {name}`, or add `--no-sink {sink.name}`",
                )
            try:
                needed = load_sink(name)
            except SinkError as error:
                raise SinkError(
                    f'sink {sink.origin} requires sink "{name}": {error.message}', hint=error.hint
                ) from error
            loaded[name] = replace(needed, named=True)
            waiting.append(needed)
            notices.append(f'sink "{name}" is on too: sink "{sink.name}" requires it')


class _Stray(NamedTuple):
    """A table for a sink that is neither selected nor installed.

    A name close to a known one is a typing error. Any other may be meant for another machine: it is only named.
    """

    text: str
    guess: str
    known: str


def _stray_tables(config: EsperConfig) -> Iterator[_Stray]:
    """Yield the tables that belong to no sink, from names alone: no sink is imported."""
    known = {*installed_sinks(), *(spec.rpartition(":")[2] if is_file_spec(spec) else spec for spec in config.sinks)}
    for table, names in (("sink", config.sink), ("delivery", config.delivery)):
        for name in names:
            if name not in known:
                text = f"[{table}.{name}]: no sink of this name is selected or installed"
                yield _Stray(text, nearest(name, known), f"known: {', '.join(sorted(known))}")


def table_notices(config: EsperConfig) -> tuple[str, ...]:
    """A line for each table ``[sink.NAME]`` or ``[delivery.NAME]`` that belongs to no sink, with the nearest name."""
    return tuple(f"{stray.text}{stray.guess or f'; {stray.known}'}" for stray in _stray_tables(config))


def _refuse_misspelt(config: EsperConfig) -> None:
    for stray in _stray_tables(config):
        if stray.guess:
            raise ConfigError(f"{stray.text}{stray.guess}", hint=stray.known)


def refuse_tables(config: EsperConfig, *, origins: Mapping[str, str] | None = None) -> None:
    """Check the tables of sinks as a run does, without creating a sink.

    Raises:
        SinkError: a selected sink that has a table cannot be loaded.
        ConfigError: a table is a typing error of a sink's name, or does not fit the ``Config`` of a selected sink.
    """
    _refuse_misspelt(config)
    for spec in config.sinks:
        name = spec.rpartition(":")[2] if is_file_spec(spec) else spec
        if name in config.sink:
            sink_options(load_sink(spec), config.sink[name], origins=origins)


def foreground_sink(sinks: Iterable[LoadedSink]) -> LoadedSink | None:
    """The one sink that owns the terminal, or None.

    Raises:
        SinkError: there is more than one.
    """
    found = [sink for sink in sinks if "esper_foreground" in sink.hooks]
    if len(found) > 1:
        names = " and ".join(sink.origin for sink in found)
        raise SinkError(f"only one sink can own the terminal: {names}", hint=f"add `--no-sink {found[-1].name}`")
    return found[0] if found else None


def without_screen(selection: Selection, *, origin: str, caller: str) -> Selection:
    """The sinks without the one that owns the terminal, for a call in someone's own program.

    Args:
        selection: every sink.
        origin: where ``sinks`` came from.
        caller: the origin of values that the call itself sets.

    Raises:
        SinkError: the call itself names that sink.
    """
    screen = foreground_sink(selection.sinks)
    if screen is None:
        return selection
    if caller in origin:
        raise SinkError(
            f"sink {screen.origin} owns the terminal, which {caller} leaves to your program",
            hint=f"leave it out of sinks; `esper ppo --sink {screen.name}` trains behind it",
        )
    notice = f'sink "{screen.name}" owns the terminal and is left out ({origin} selects it)'
    others = tuple(sink for sink in selection.sinks if sink is not screen)
    return replace(selection, sinks=others, notices=(*selection.notices, notice))
