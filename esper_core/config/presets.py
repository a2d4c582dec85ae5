"""Presets: named sets of values with lower priority than the configuration file, and an environment's default preset.

The core's are in :mod:`esper_core.config.tuned`. A plugin's environment declares its own, see
:class:`~esper_core.hooks.EnvironmentPlugin`.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

from esper_core.config.environments import DEFAULT_ENVIRONMENT, load_environment
from esper_core.config.tuned import TUNED
from esper_core.errors import EnvironmentUnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["PRESETS", "preset_for", "presets_of"]

PRESETS: Final[dict[str, Mapping[str, Any]]] = {preset.name: preset.tables for preset in TUNED}
"""The core's presets: name -> tables; a limit in ``[run]`` is used only when no other limit is given."""


def preset_for(env_id: str) -> str:
    """The name of an environment's preset, or an empty string.

    An empty string too when the plugin is not installed or broken: commands that train nothing work without it, and
    training raises its error.
    """
    registered = env_id.rpartition(":")[2]
    for preset in TUNED:
        if any(fnmatchcase(registered, pattern) for pattern in preset.environments):
            return preset.name
    try:
        plugin = load_environment(env_id)
    except EnvironmentUnsupportedError:
        return ""
    return plugin.default_preset if plugin is not None else ""


def presets_of(env_id: str) -> dict[str, Mapping[str, Any]]:
    """Every preset that can be named while an environment is selected: the core's, its own, the default task's.

    The default task's are always included, because a preset may itself select the environment.

    Raises:
        EnvironmentUnsupportedError: the selected environment's plugin is broken.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for name in dict.fromkeys((DEFAULT_ENVIRONMENT, env_id)):
        try:
            plugin = load_environment(name)
        except EnvironmentUnsupportedError:
            if name == env_id != DEFAULT_ENVIRONMENT:
                raise
            continue
        found |= plugin.presets if plugin is not None else {}
    return found | PRESETS
