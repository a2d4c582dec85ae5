"""The arguments of ``monitor``, checked before anything is opened: what is wrong is one sentence that names it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, get_args

from esper_core.errors import nearest
from esper_core.events import Granularity, HeadKind
from esper_core.monitoring.inputs import scalar, whole
from esper_core.monitoring.misuse import MisuseError

__all__ = ["checked"]


def checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments whose values the configuration does not check itself, in one form.

    Args:
        given: keywords of :func:`esper_core.monitor`, whole or in part; others are not looked at.

    Returns:
        Those of them that it knows: ``heads`` and ``head_kinds`` as tuples, numbers as plain numbers. A ``target_kl``
        of None, as other libraries switch theirs off, is 0, and so is a ``seed`` of None.

    Raises:
        MisuseError: of the first that cannot be used.
    """
    return {name: check(name, given[name]) for name, check in _CHECKS.items() if name in given}


def _heads(name: str, value: Any) -> tuple[str, ...]:
    names = tuple(value) if hasattr(value, "__iter__") and not isinstance(value, (str, bytes)) else ()
    if not names or not all(isinstance(head, str) and head for head in names) or len(set(names)) < len(names):
        raise MisuseError(f"{name}: expected different names (is {value!r})", hint='heads=("action",)')
    return names


def _kinds(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        raise MisuseError(f"{name}: expected a kind for each head (is {value!r})", hint='head_kinds=("gaussian",)')
    return tuple(_choice(name, kind, get_args(HeadKind)) for kind in value)


def _choice(name: str, value: Any, known: tuple[str, ...]) -> str:
    if value not in known:
        raise MisuseError(
            f"{name}: no such word {value!r}{nearest(str(value), known)}", hint=f"choices: {', '.join(known)}"
        )
    found: str = value
    return found


def _target(name: str, value: Any) -> float:
    found = scalar(name, value)
    return 0.0 if found is None else found  # below 0 and not finite are the configuration's to refuse


def _clip_range(name: str, value: Any) -> float | None:
    if callable(value):
        raise MisuseError(f"{name} is a schedule", hint=f"give no {name} here, but its value to each ppo_update()")
    found = scalar(name, value)
    if found is not None and not (math.isfinite(found) and found >= 0):
        raise MisuseError(f"{name} is {found}; a number from 0 is needed")
    return found


def _count(name: str, value: Any, *, least: int) -> int | None:
    return None if value is None else whole(name, value, least=least)


def _limits(name: str, value: Any) -> tuple[float, float] | None:
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or len(value) != 2:  # WARNING and CRITICAL
        raise MisuseError(f"{name}: expected two numbers, of WARNING and CRITICAL (is {value!r})")
    return value[0], value[1]


def _environment(name: str, value: Any) -> str:
    if value is not None and not isinstance(value, str):
        raise MisuseError(
            f"{name}: expected an id (is {type(value).__name__})",
            hint='"CartPole-v1"; of an environment of Gymnasium: env.spec.id',
        )
    return value or ""


_TABLES = ("run", "ppo", "health")


def _tables(name: str, value: Any) -> Mapping[str, Any] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping) or not all(isinstance(value.get(key) or {}, Mapping) for key in _TABLES):
        raise MisuseError(f"{name}: expected a dict of tables (is {value!r})", hint='{"run": {"dir": "runs"}}')
    return value


def _function(name: str, value: Any) -> Any:
    if value is not None and not callable(value):
        raise MisuseError(f"{name}: expected a function (is {value!r})", hint='reduce(vector, "sum" | "max")')
    return value


_CHECKS = {
    "environment": _environment,
    "heads": _heads,
    "head_kinds": _kinds,
    "granularity": lambda name, value: _choice(name, value, get_args(Granularity)),
    "target_kl": _target,
    "seed": lambda _, value: 0 if value is None else value,
    "clip_range": _clip_range,
    "minibatches_planned": lambda name, value: _count(name, value, least=1),
    "rank": lambda name, value: _count(name, value, least=0),
    "world": lambda name, value: _count(name, value, least=1),
    "default_limits": _limits,
    "settings": _tables,
    "reduce": _function,
}
