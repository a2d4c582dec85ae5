"""Wrappers by name, for ``[env] wrappers``: read, imported and checked before a run begins.

An entry is ``module:name?key=value&key=value``. ``name`` is anything that takes an environment first and returns one,
mostly a class; without a module it is one of ``gymnasium.wrappers``. Values are TOML's, a bare word is text.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import tomllib
from dataclasses import dataclass, field
from importlib.metadata import packages_distributions
from typing import TYPE_CHECKING, Any, Final

import gymnasium as gym
from gymnasium.vector import VectorWrapper

from esper_core.errors import EnvironmentUnsupportedError, EsperError, error_text, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType

__all__ = ["NamedWrapper", "load_wrappers"]

_TUPLE: Final = re.compile(r"\b[Tt]uple\b")
_FUNCTION: Final = re.compile(r"(?:(?:typing|collections\.abc)\.)?Callable(?:\[[^|]*\])?")
"""Annotations of parameters, as text."""
_SHOWN: Final = 60
_GYMNASIUM: Final = "gymnasium.wrappers"
_FORM: Final = 'write "package.module:Wrapper?key=value&other=[1, 2]", or a name of gymnasium.wrappers alone'
_NAMED: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_REFUSED: Final = {
    "Autoreset": "the vector environment begins the next episode itself: leave it out",
    "NormalizeObservation": "no checkpoint holds its running statistics, so `esper eval` would show the policy other"
    " numbers: set ppo.normalise_observations = true",
    "NormalizeReward": "no checkpoint holds its running statistics, and returns would be reported in its units:"
    " set ppo.normalise_rewards = true",
}
"""Gymnasium's wrappers that would train something else than what is evaluated, and what to do instead."""


@dataclass(frozen=True, slots=True)
class NamedWrapper:
    """One entry, found and checked.

    Attributes:
        place: where it stands, for messages: ``env.wrappers[0] "FrameStackObservation?stack_size=4"``.
        target: the class or function.
        arguments: beside the environment.
    """

    place: str
    target: Callable[..., Any]
    arguments: dict[str, Any] = field(default_factory=dict)

    def __call__(self, env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
        """Put it around an environment.

        Raises:
            EnvironmentUnsupportedError: it refuses the environment or its arguments, or returns no environment.
        """
        try:
            wrapped = self.target(env, **self.arguments)
        except EsperError:
            raise
        except Exception as error:
            raise EnvironmentUnsupportedError(
                f"{self.place} cannot wrap this environment: {_one_line(error)}",
                hint=f"observations are {_short(env.observation_space)}, actions {_short(env.action_space)} there; the"
                " first wrapper of the list is the innermost",
            ) from error
        if not isinstance(wrapped, gym.Env):
            raise EnvironmentUnsupportedError(
                f"{self.place} returned a {type(wrapped).__name__}, not an environment",
                hint="a wrapper takes a gymnasium.Env and returns one",
            )
        return wrapped


def load_wrappers(entries: Sequence[str]) -> tuple[NamedWrapper, ...]:
    """Import wrappers, and check their names and arguments.

    Args:
        entries: the innermost first.

    Raises:
        EnvironmentUnsupportedError: a module, a name or an argument does not exist, with the nearest that does.
    """
    return tuple(_loaded(entry, f'env.wrappers[{index}] "{entry}"') for index, entry in enumerate(entries))


def _loaded(entry: str, place: str) -> NamedWrapper:
    name, _, query = entry.partition("?")
    module_name, colon, attribute = name.strip().rpartition(":")
    if not attribute or (colon and not module_name):
        raise EnvironmentUnsupportedError(f"{place} names no wrapper", hint=_FORM)
    if module_name == "vector":
        raise _of_vectors(place, attribute)
    module = _module(module_name or _GYMNASIUM, place)
    try:
        target: Any = getattr(module, attribute)
    except AttributeError as error:
        known = [name for name in dir(module) if not name.startswith("_") and callable(getattr(module, name, None))]
        raise EnvironmentUnsupportedError(
            f"{place}: {module.__name__} has no {attribute}{nearest(attribute, known)}", hint=_FORM
        ) from error
    _refuse_other(target, attribute, place)
    arguments = _arguments(query, place)
    _check_arguments(target, arguments, place)
    return NamedWrapper(place, target, _as_declared(target, arguments, place))


def _module(name: str, place: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if missing != name and not name.startswith(f"{missing}."):
            raise EnvironmentUnsupportedError(
                f"{place}: importing {name} failed: {error}", hint=f"it needs {missing}, which is not installed"
            ) from error
        raise EnvironmentUnsupportedError(
            f"{place}: no module named {name}{_nearest_module(name, missing)}",
            hint="is it on PYTHONPATH, or its package installed?",
        ) from error
    except Exception as error:
        raise EnvironmentUnsupportedError(
            f"{place}: importing {name} failed: {_one_line(error)}", hint=f"try it: python -c 'import {name}'"
        ) from error


def _nearest_module(name: str, missing: str) -> str:
    """The nearest module, of those beside the one that is missing."""
    parent, _, last = missing.rpartition(".")
    if parent:
        beside = getattr(importlib.import_module(parent), "__path__", ())
        known = [module.name for module in pkgutil.iter_modules(beside)]
    else:
        known = [*packages_distributions()]
    found = nearest(last, known)
    if not found:
        return ""
    close = found.split('"')[1]
    return f', did you mean "{".".join(filter(None, (parent, close)))}{name.removeprefix(missing)}"?'


def _refuse_other(target: Any, attribute: str, place: str) -> None:
    """Raise for what cannot be called, wraps vectors, or would train something else than what is evaluated."""
    if not callable(target):
        raise EnvironmentUnsupportedError(f"{place}: {attribute} cannot be called", hint=_FORM)
    if not isinstance(target, type):
        return
    if issubclass(target, VectorWrapper | gym.vector.VectorEnv):
        raise _of_vectors(place, attribute)
    for name, instead in _REFUSED.items():
        if issubclass(target, getattr(gym.wrappers, name, ())):
            raise EnvironmentUnsupportedError(f"{place} cannot be used here", hint=instead)


def _of_vectors(place: str, attribute: str) -> EnvironmentUnsupportedError:
    single = callable(getattr(gym.wrappers, attribute, None))
    return EnvironmentUnsupportedError(
        f"{place} wraps vector environments, and env.wrappers go around each single environment",
        hint=f'use "{attribute}", which wraps one'
        if single
        else "wrap a vector environment in make() of an environment plugin",
    )


def _arguments(query: str, place: str) -> dict[str, Any]:
    """The arguments behind the question mark."""
    found: dict[str, Any] = {}
    for part in _parts(query):
        key, equals, text = (word.strip() for word in part.partition("="))
        if not equals or not key.isidentifier():
            raise EnvironmentUnsupportedError(f'{place}: "{part}" is no key=value', hint=_FORM)
        if key in found:
            raise EnvironmentUnsupportedError(f"{place} gives {key} twice", hint="leave one out")
        found[key] = _value(text)
    return found


def _parts(query: str) -> list[str]:
    """Split at ``&``, but not within quotes."""
    if not query.strip():
        return []
    return re.split(r"""&(?=(?:[^"]*"[^"]*")*[^"]*$)""", query)


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return {"True": True, "False": False, "None": None}.get(text, text)


def _check_arguments(target: Callable[..., Any], arguments: dict[str, Any], place: str) -> None:
    """Raise where the target cannot be called with an environment and these arguments."""
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):  # of native code, say
        return
    parameters = list(signature.parameters.values())
    if not parameters or parameters[0].kind is inspect.Parameter.KEYWORD_ONLY:
        raise EnvironmentUnsupportedError(
            f"{place} takes no environment", hint="its first parameter is the environment"
        )
    takes_any = any(item.kind is inspect.Parameter.VAR_KEYWORD for item in parameters)
    others = [item for item in parameters[1:] if item.kind in _NAMED]
    known = [item.name for item in others]
    for name in arguments:
        if name not in known and not takes_any:
            raise EnvironmentUnsupportedError(
                f'{place} has no argument "{name}"{nearest(name, known)}',
                hint=f"its arguments: {', '.join(known)}" if known else "it takes the environment alone",
            )
    needed = [item.name for item in others if item.default is inspect.Parameter.empty and item.name not in arguments]
    if needed:
        raise EnvironmentUnsupportedError(
            f"{place} needs {' and '.join(needed)}", hint=f'write "...?{"&".join(f"{name}=..." for name in needed)}"'
        )


def _as_declared(target: Callable[..., Any], arguments: dict[str, Any], place: str) -> dict[str, Any]:
    """The arguments with tuples in place of TOML's lists where the target declares tuples; functions are refused."""
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return arguments
    found = {}
    for name, value in arguments.items():
        declared = str(parameters[name].annotation) if name in parameters else ""
        if _FUNCTION.fullmatch(declared):
            raise EnvironmentUnsupportedError(
                f"{place}: {name} takes a function, which no text can be",
                hint="write a wrapper of your own: a function that takes an environment and returns one",
            )
        found[name] = _as_tuple(value) if _TUPLE.search(declared) else value
    return found


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


def _one_line(error: BaseException) -> str:
    return " ".join(error_text(error).split())


def _short(space: Any) -> str:
    text = " ".join(str(space).split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
