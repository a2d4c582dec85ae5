"""What to install, or to write, where an environment's id leads to nothing."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Final

import gymnasium as gym
from gymnasium.envs.registration import parse_env_id

__all__ = ["hint_for_id", "hint_for_module", "hint_of_versions"]

_PACKAGES: Final = {
    "ale_py": ("ALE/", "ale-py", True),
    "minatar": ("MinAtar/", "minatar", False),
    "minigrid": ("MiniGrid-", "minigrid", True),
    "gymnasium_robotics": ("", "gymnasium-robotics", True),
    "highway_env": ("", "highway-env", True),
    "procgen": ("procgen", "procgen", True),
    "mujoco": ("", "gymnasium[mujoco]", False),
    "imageio": ("", "gymnasium[mujoco]", False),  # what its rendering imports
    "Box2D": ("", "gymnasium[box2d]", False),
    "pygame": ("", "gymnasium[classic-control]", False),
}
"""Module -> how its ids begin, what pip installs it by, and whether the id needs the module before a colon."""
_OLD_ATARI: Final = re.compile(r"(\w+?)(?:NoFrameskip|Deterministic)-v\d+")
"""``PongNoFrameskip-v4``, as Gym named what is ``ALE/Pong-v5`` now."""
_ANY: Final = "an installed environment plugin, a registered Gymnasium id, or package.module:EnvId"


def hint_for_module(missing: str) -> str:
    """What to do when a module cannot be found.

    Args:
        missing: the module, as ``ModuleNotFoundError.name`` gives it.
    """
    found = _PACKAGES.get(missing.partition(".")[0])
    if found is not None:
        return f"install it: pip install {_quoted(found[1])}"
    return "is its package installed, or its folder on PYTHONPATH?"


def hint_for_id(env_id: str) -> str:
    """What to do when nobody registered an id."""
    old = _OLD_ATARI.fullmatch(env_id)
    if old is not None:
        env_id = f"ALE/{old[1]}-v5"
    for module, (begins, package, named) in _PACKAGES.items():
        if begins and env_id.startswith(begins):
            here = _installed(module)
            write = f"--env {module}:{env_id}" if named else f"--env {env_id}"
            if not here:
                return f"install it: pip install {_quoted(package)}; then {write}"
            if named:
                return f"name its module too: {write}"
    return _ANY


def hint_of_versions(env_id: str) -> str | None:
    """The newest version of an environment that cannot be built; None where it is that one."""
    before, colon, registered = env_id.rpartition(":")
    try:
        namespace, name, version = parse_env_id(registered)
    except gym.error.Error:
        return None
    versions = [spec.version or 0 for spec in gym.registry.values() if (spec.namespace, spec.name) == (namespace, name)]
    newest = max(versions, default=0)
    if version is None or newest <= version:
        return None
    return f"its newest version is {before}{colon}{registered.removesuffix(f'-v{version}')}-v{newest}"


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _quoted(package: str) -> str:
    return f"'{package}'" if "[" in package else package
