"""Checks whether a class is a sink. Raises for mistakes that pluggy accepts without an error.

pluggy ignores a method without its marker, accepts a hook that does not exist, and (1.6) never passes an argument
that has a default. In each case the sink would receive nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import pluggy
from msgspec import Struct

from esper_core.errors import SinkError, nearest
from esper_core.events import EVENTS
from esper_core.hooks import HOOK_NAMES, PROJECT, SinkHooks

if TYPE_CHECKING:
    from esper_core.hooks import Delivery, EventKinds

__all__ = ["InspectedSink", "inspect_sink", "new_manager"]

_DELIVERIES = ("inline", "all", "latest")
_ALL_KINDS = ("all", "recorded")
_KINDS_HINT = 'write event_kinds = "all", "recorded", or a set of kinds such as {"run_started", "ppo_updated"}'


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectedSink:
    """What a sink's class declares.

    Attributes:
        hooks: the hooks it implements, and those of the kinds that it receives through ``esper_event``.
        config_type: its ``Config``, or None.
        delivery: inline, all or latest.
        requires: names of other sinks that must be on.
        catch_all: the hooks of the kinds that it receives through ``esper_event``.
    """

    hooks: frozenset[str]
    config_type: type[Any] | None
    delivery: Delivery
    requires: tuple[str, ...]
    catch_all: frozenset[str] = frozenset()
    keeps_record: bool = False
    every_rank: bool = False
    any_thread: bool = False


def new_manager() -> pluggy.PluginManager:
    """Create a plugin manager with the hook specifications and no plugin."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(SinkHooks)
    return manager


def inspect_sink(factory: Any, where: str) -> InspectedSink:
    """Check a sink's class.

    Args:
        factory: the object that the entry point or the file names.
        where: ``sink "tui" (esper-sink-tui 0.1.0)``, for error messages.

    Raises:
        SinkError: it is not a class, or a declaration of it is misspelt, missing or malformed.
    """
    if not isinstance(factory, type):
        raise SinkError(f"{where} is {type(factory).__name__}, not a class", hint="a sink is a class Sink(config)")
    hooks = _hooks(factory, where)
    if not hooks:
        raise SinkError(
            f"{where}: class {factory.__name__} implements no hook",
            hint="decorate at least one method with @hookimpl, for example esper_ppo_updated(self, event)",
        )
    catch_all = _catch_all(factory, hooks, where)
    config_type = getattr(factory, "Config", None)
    if config_type is not None and not (isinstance(config_type, type) and issubclass(config_type, Struct)):
        raise SinkError(f"{where}: Config is no msgspec.Struct", hint="write `class Config(msgspec.Struct): ...`")
    delivery = getattr(factory, "delivery", "all")
    if delivery not in _DELIVERIES:
        raise SinkError(
            f'{where}: delivery "{delivery}" is not known{nearest(str(delivery), _DELIVERIES)}',
            hint=f"one of {', '.join(_DELIVERIES)}",
        )
    requires = getattr(factory, "requires", ())
    if isinstance(requires, str) or not all(isinstance(item, str) for item in requires):
        raise SinkError(f"{where}: requires is no sequence of sink names", hint='write requires = ("NAME",)')
    return InspectedSink(
        hooks=hooks | catch_all,
        config_type=config_type,
        delivery=cast("Delivery", delivery),
        requires=tuple(requires),
        catch_all=catch_all,
        keeps_record=_flag(factory, "keeps_record", where),
        every_rank=_flag(factory, "every_rank", where),
        any_thread=_flag(factory, "any_thread", where),
    )


def _flag(factory: type, name: str, where: str) -> bool:
    found = getattr(factory, name, False)
    if not isinstance(found, bool):
        raise SinkError(f"{where}: {name} is no bool", hint=f"write {name} = True, or leave it out")
    return found


def _hooks(factory: type, where: str) -> frozenset[str]:
    manager = new_manager()
    found: set[str] = set()
    for name in dir(factory):
        member = inspect.getattr_static(factory, name)
        if member is getattr(SinkHooks, name, None):
            continue  # inherited from the specification, not implemented
        options = manager.parse_hookimpl_opts(cast("Any", factory), name)
        if options is None:
            if name.startswith("esper_") and callable(member):
                _refuse_unmarked(name, where)
            continue
        hook = options.get("specname") or name
        if hook not in HOOK_NAMES:
            if options.get("optionalhook"):
                continue
            raise SinkError(
                f"{where}: {name} implements no known hook{nearest(hook, HOOK_NAMES)}",
                hint="see docs/reference/hooks.md; @hookimpl(optionalhook=True) allows a hook of a newer core",
            )
        if options.get("wrapper") or options.get("hookwrapper"):
            raise SinkError(f"{where}: {name} is a wrapper", hint="each sink stands alone: use a plain @hookimpl")
        _refuse_deferred(getattr(factory, name), name, where)
        _check_arguments(getattr(factory, name), hook, name, where)
        found.add(hook)
    return frozenset(found)


def _catch_all(factory: type, hooks: frozenset[str], where: str) -> frozenset[str]:
    """The hooks of the kinds that ``event_kinds`` declares; empty without ``esper_event``."""
    declared: EventKinds | None = getattr(factory, "event_kinds", None)
    if "esper_event" not in hooks:
        if declared is not None:
            raise SinkError(
                f"{where}: declares event_kinds but implements no esper_event",
                hint="add esper_event(self, event) with @hookimpl, or remove event_kinds",
            )
        return frozenset()
    kinds = _kinds(declared, where)
    twice = sorted(kind for kind in kinds if EVENTS[kind].hook in hooks)
    if twice:
        raise SinkError(
            f"{where}: receives {', '.join(twice)} twice: through esper_event and through {EVENTS[twice[0]].hook}",
            hint="leave the kind out of event_kinds, or remove its own method",
        )
    return frozenset(EVENTS[kind].hook for kind in kinds)


def _kinds(declared: EventKinds | None, where: str) -> frozenset[str]:
    if declared is None:
        raise SinkError(f"{where}: esper_event needs event_kinds: the kinds that it receives", hint=_KINDS_HINT)
    if isinstance(declared, str):
        if declared not in _ALL_KINDS:
            raise SinkError(
                f'{where}: event_kinds "{declared}" is not known{nearest(declared, _ALL_KINDS)}', hint=_KINDS_HINT
            )
        return frozenset(EVENTS)
    if not isinstance(declared, Collection) or not declared or not all(isinstance(item, str) for item in declared):
        raise SinkError(f"{where}: event_kinds is no collection of kinds", hint=_KINDS_HINT)
    for kind in declared:
        if kind not in EVENTS:
            raise SinkError(
                f'{where}: event_kinds names "{kind}", which is no kind{nearest(kind, EVENTS)}',
                hint=f"one of {', '.join(EVENTS)}",
            )
    return frozenset(declared)


def _refuse_unmarked(name: str, where: str) -> None:
    known = "" if name in HOOK_NAMES else f" and is no known hook{nearest(name, HOOK_NAMES)}"
    raise SinkError(
        f"{where}: method {name} lacks @hookimpl{known}: it would never be called",
        hint="write `from esper_core.hooks import hookimpl` and put @hookimpl above it",
    )


def _refuse_deferred(function: Any, name: str, where: str) -> None:
    """A call of such a function returns at once and runs nothing: every event would count as delivered."""
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise SinkError(
            f"{where}: {name} is async: nobody awaits it, so it would never run",
            hint="write a plain method; a loop of your own may run in a thread that esper_sink_opened starts",
        )
    if inspect.isgeneratorfunction(function):
        raise SinkError(
            f"{where}: {name} is a generator: nobody iterates it, so it would never run",
            hint="write a plain method, without yield; return a list where the hook asks for several",
        )


def _check_arguments(function: Any, hook: str, name: str, where: str) -> None:
    allowed = tuple(inspect.signature(getattr(SinkHooks, hook)).parameters)[1:]
    parameters = list(inspect.signature(function).parameters.values())
    if parameters and parameters[0].name == "self":
        parameters = parameters[1:]
    for parameter in parameters:
        if parameter.name not in allowed:
            raise SinkError(
                f'{where}: {name} asks for argument "{parameter.name}"{nearest(parameter.name, allowed)}',
                hint=f"{hook} gives: {', '.join(allowed) or 'no arguments'}",
            )
        if parameter.default is not inspect.Parameter.empty:
            raise SinkError(
                f'{where}: {name} gives argument "{parameter.name}" a default, so it would never be filled',
                hint="remove the default",
            )
