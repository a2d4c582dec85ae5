"""Presets: named sets of values with lower priority than the configuration file, and an environment's default preset.

The core has one for CartPole. A plugin's environment declares its own, see
:class:`~esper_core.hooks.EnvironmentPlugin`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from esper_core.config.environments import DEFAULT_ENVIRONMENT, load_environment
from esper_core.errors import EnvironmentUnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["PRESETS", "preset_for", "presets_of"]

PRESETS: Final[dict[str, dict[str, Any]]] = {
    # Reaches a mean return of 475 over 100 episodes within 100 000 steps (tests/benchmarks/bench_cartpole.py), with
    # rollouts of 32 steps, so short that even 20 first episodes of about 20 steps see more than 10 updates.
    "cartpole": {
        "run": {"steps": 100_000},
        "env": {"n_envs": 8},
        "ppo": {
            "rollout_steps": 4,
            "epochs": 2,
            "minibatch_size": 32,
            "learning_rate": 2e-3,
            "learning_rate_schedule": "linear",
            "gamma": 0.98,
            "gae_lambda": 0.8,
            "entropy_coef": 0.0,
            "target_kl": 0.005,  # with minibatches of 32 a policy that has solved it is easily lost again
        },
    },
}
"""The core's presets: name -> tables; a limit in ``[run]`` is used only when no other limit is given."""

_BY_ENVIRONMENT: Final = {
    "CartPole-v0": "cartpole",
    "CartPole-v1": "cartpole",
}


def preset_for(env_id: str) -> str:
    """The name of an environment's preset, or an empty string.

    An empty string too when the plugin is not installed or broken: commands that train nothing work without it, and
    training raises its error.
    """
    if env_id in _BY_ENVIRONMENT:
        return _BY_ENVIRONMENT[env_id]
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
