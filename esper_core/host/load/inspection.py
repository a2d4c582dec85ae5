"""Is this class a sink? Everything that pluggy would accept in silence is refused here, with words.

pluggy ignores a method without its marker, accepts a hook that does not exist, and (1.6) never fills an argument that
has a default: each would be a sink that hears nothing.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import pluggy
from msgspec import Struct

from esper_core.errors import SinkError, nearest
from esper_core.hooks import HOOK_NAMES, PROJECT, SinkHooks

if TYPE_CHECKING:
    from esper_core.hooks import Delivery

__all__ = ["InspectedSink", "inspect_sink", "new_manager"]

_DELIVERIES = ("inline", "all", "latest")


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectedSink:
    """What a sink's class declares."""

    hooks: frozenset[str]
    config_type: type[Any] | None
    delivery: Delivery
    requires: tuple[str, ...]


def new_manager() -> pluggy.PluginManager:
    """A plugin manager that knows the specifications and loads nothing by itself."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(SinkHooks)
    return manager


def inspect_sink(factory: Any, where: str) -> InspectedSink:
    """Check a sink's class.

    Args:
        factory: what the entry point or file named.
        where: ``sink "tui" (esper-sink-tui 0.1.0)``, for the error.

    Raises:
        SinkError: it is no class, or misspells, forgets or malforms something.
    """
    if not isinstance(factory, type):
        raise SinkError(f"{where} is {type(factory).__name__}, not a class", hint="a sink is a class Sink(config)")
    hooks = _hooks(factory, where)
    if not hooks:
        raise SinkError(
            f"{where}: class {factory.__name__} implements no hook",
            hint="decorate at least one method with @hookimpl, for example esper_ppo_updated(self, event)",
        )
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
        raise SinkError(f"{where}: requires is no sequence of sink names", hint='write requires = ("journal",)')
    return InspectedSink(
        hooks=hooks,
        config_type=config_type,
        delivery=cast("Delivery", delivery),
        requires=tuple(requires),
    )


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
        _check_arguments(getattr(factory, name), hook, name, where)
        found.add(hook)
    return frozenset(found)


def _refuse_unmarked(name: str, where: str) -> None:
    known = "" if name in HOOK_NAMES else f" and is no known hook{nearest(name, HOOK_NAMES)}"
    raise SinkError(
        f"{where}: method {name} lacks @hookimpl{known}: it would never be called",
        hint="write `from esper_core.hooks import hookimpl` and put @hookimpl above it",
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
                hint=f"{hook} gives: {', '.join(allowed)}",
            )
        if parameter.default is not inspect.Parameter.empty:
            raise SinkError(
                f'{where}: {name} gives argument "{parameter.name}" a default, so it would never be filled',
                hint="remove the default",
            )
