"""Environment variables: which of them set a key, and which only look as if they did.

``ESPER_PPO__TARGET_KL`` sets ``ppo.target_kl``: the prefix, the table, two underscores, the key. A variable that is
nearly one of those is refused or named in a notice: unseen it would leave a run with other values than its owner
believes. Any other ``ESPER_*`` may belong to another program and is left alone.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

from esper_core.config._check import OTHER_NAMES, known_keys
from esper_core.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["stray_variables", "variable_path"]

PREFIX: Final = "ESPER_"
_ALONE: Final = frozenset({"sinks", "preset"})
"""Keys outside every table."""
_OTHERS: Final = frozenset({"ESPER_DEBUG", "ESPER_CHILD_FD"})
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
        return path
    meant = _meant(path[0])
    if meant:
        raise ConfigError(f'{name}: no such variable, did you mean "{meant}"?', hint=f"to set nothing: unset {name}")
    return None


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
    tables = "|".join(sorted({path.partition(".")[0] for path in known.values() if "." in path}))
    ours = re.compile(rf"^[A-Za-z]+_+({tables})_", re.IGNORECASE)
    found = []
    for name in sorted(env):
        if name in _OTHERS or (name.startswith(PREFIX) and ("__" in name or name in known)):
            continue  # sets a key, or was refused
        plain = name.upper()
        near = get_close_matches(plain, known, n=1, cutoff=_CLOSE)
        begins = plain.startswith(PREFIX)
        if near and (begins or "__" in name):
            found.append(f'{name} sets nothing: did you mean "{near[0]}"?')
        elif begins and ours.match(name):
            found.append(f"{name} sets nothing: a variable has two underscores after its table, {PREFIX}PPO__TARGET_KL")
    return tuple(found)
