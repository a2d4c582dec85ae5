"""Environment variables: which of them set a key, and which only look as if they did.

``ESPER_PPO__TARGET_KL`` sets ``ppo.target_kl``: the prefix, the table, two underscores, the key. In the free tables of
sinks and environment a part that has small letters is taken as it stands (``ESPER_ENV__KWARGS__renderMode``), and a
sink's name is found in any case (``ESPER_SINK__MYSINK__URL`` is of the sink ``MySink``). A variable that is
nearly one of those is refused or named in a notice: unseen it would leave a run with other values than its owner
believes. Any other ``ESPER_*`` may belong to another program and is left alone.
"""

from __future__ import annotations

import re
from dataclasses import replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

from esper_core.config._check import OTHER_NAMES, known_keys
from esper_core.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from esper_core.config._check import Setting

__all__ = ["stray_variables", "variable_path", "with_sink_names"]

PREFIX: Final = "ESPER_"
_ALONE: Final = frozenset({"sinks", "preset"})
"""Keys outside every table."""
_DEBUG: Final = "ESPER_DEBUG"
_OTHERS: Final = frozenset({_DEBUG, "ESPER_CHILD_FD"})
_OF_SINKS: Final = frozenset({"sink", "delivery"})
"""Tables whose keys are the names of sinks."""
_CLOSE: Final = 0.8
"""How alike two names are, from 0 to 1, for one to be taken for a typing error of the other."""


def variable_path(name: str) -> tuple[str, ...] | None:
    """The path of the key that a variable sets, which may be unknown; None when it is no variable of Esper's.

    Raises:
        ConfigError: it is another spelling of a variable: a missing underscore, the key without its table.
    """
    if not name.startswith(PREFIX):
        return None
    path = tuple(name.removeprefix(PREFIX).lower().split("__"))
    if len(path) > 1 or path[0] in _ALONE:
        written = name.removeprefix(PREFIX).split("__")
        return tuple(
            part if _is_free(path, depth) and not part.isupper() else part.lower() for depth, part in enumerate(written)
        )
    meant = _meant(path[0])
    if meant:
        raise ConfigError(f'{name}: no such variable, did you mean "{meant}"?', hint=f"to set nothing: unset {name}")
    return None


def _is_free(path: tuple[str, ...], depth: int) -> bool:
    """Whether a part of a path may be spelt in any way: a sink's name and its keys, the environment's arguments."""
    if path[0] == "delivery":
        return depth == 1
    return (depth >= 1 and path[0] == "sink") or (depth > 1 and path[:2] == ("env", "kwargs"))


def with_sink_names(items: Iterable[Setting], selected: Iterable[str], others: Iterable[Setting]) -> list[Setting]:
    """The settings of variables, each under the name that its sink has: a variable is mostly written in capitals.

    Args:
        items: of variables.
        selected: the sinks of the run: names, and ``./file.py:Class``.
        others: settings of the other layers, whose tables name sinks too.
    """
    names = {spec.rpartition(":")[2] if ".py:" in spec else spec for spec in selected}
    names |= {item.path[1] for item in others if item.path[0] in _OF_SINKS and len(item.path) > 1}
    found = []
    for item in items:
        if item.path[0] in _OF_SINKS and item.path[1] not in names:
            same = [name for name in names if name.lower() == item.path[1].lower()]
            if len(same) == 1:
                item = replace(item, path=(item.path[0], same[0], *item.path[2:]))  # noqa: PLW2901  # its name alone
        found.append(item)
    return found


def _meant(key: str) -> str:
    """The variable of which a name without two underscores is another spelling; empty when there is none."""
    dotted = known_keys().get(key, "") or OTHER_NAMES.get(key, "")
    if "." not in dotted:
        dotted = {path.replace(".", "_"): path for path in known_keys().values() if "." in path}.get(key, "")
    if dotted:
        return _variable(dotted)
    guess = nearest(key, _ALONE)
    return _variable(guess.split('"')[1]) if guess else ""


def _variable(dotted: str) -> str:
    return PREFIX + dotted.replace(".", "__").upper()


def stray_variables(env: Mapping[str, str]) -> tuple[str, ...]:
    """A line for each variable that looks like one of Esper's and sets nothing."""
    known = {_variable(path): path for path in known_keys().values() if "." in path or path in _ALONE}
    tables = "|".join(sorted(_OF_SINKS | {path.partition(".")[0] for path in known.values() if "." in path}))
    ours = re.compile(rf"^[A-Za-z]+_+({tables})_", re.IGNORECASE)
    found = []
    for name in sorted(env):
        if name in _OTHERS or (name.startswith(PREFIX) and ("__" in name or name in known)):
            continue  # sets a key, or was refused
        plain = name.upper()
        begins = plain.startswith(PREFIX)
        if not begins and "__" not in name:
            continue  # compared with every key only where it can matter: a comparison costs as much as a file
        near = get_close_matches(plain, [*known, _DEBUG], n=1, cutoff=_CLOSE)
        if near:
            found.append(f'{name} sets nothing: did you mean "{near[0]}"?')
        elif begins and (match := ours.match(name)):
            example = f"{match[1].upper()}__NAME__KEY" if match[1].lower() in _OF_SINKS else "PPO__TARGET_KL"
            found.append(f"{name} sets nothing: a variable has two underscores after its table, {PREFIX}{example}")
    return tuple(found)
