"""Builds the vector environment that ``[env]`` names: an installed plugin's, or Gymnasium's."""

from __future__ import annotations

import importlib
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import gymnasium as gym
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from esper_core.config.environments import installed_environments, load_environment
from esper_core.envs.faults import broken_by_contract
from esper_core.envs.gate import gated
from esper_core.envs.info import keep_batching
from esper_core.errors import EnvironmentUnsupportedError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable

    from gymnasium.envs.registration import EnvSpec

    from esper_core.config.schema import EnvConfig

    VectorEnv = gym.vector.VectorEnv[Any, Any, Any]

__all__ = ["vector_env"]

_EXAMINE: Final = "gymnasium.utils.env_checker.check_env(env) examines an environment"


def vector_env(config: EnvConfig, seed: int) -> VectorEnv:
    """Build the environments.

    Args:
        config: the table ``[env]``.
        seed: for plugins, which may need it before the first reset.

    Raises:
        EnvironmentUnsupportedError: there is no such environment, or it cannot be built.
    """
    plugin = load_environment(config.id)
    if plugin is not None:
        make = plugin.make
        return _built(config.id, lambda: _whole(make(num_envs=config.n_envs, seed=seed, **config.kwargs), config.id))
    spec = _spec(config.id)
    if spec.entry_point is None:  # it has only a vectorised form
        options = {"num_envs": config.n_envs, "vectorization_mode": "vector_entry_point", **config.kwargs}
        return _built(config.id, lambda: _whole(gym.make_vec(spec, **options), config.id))
    # All other environments are stepped one after another in this process.
    single = [partial(_single, spec, config.kwargs, config.id, index) for index in range(config.n_envs)]
    # The observations are copied by whoever keeps them: no copy of the batch is needed.
    return _built(config.id, lambda: SyncVectorEnv(single, copy=False, autoreset_mode=AutoresetMode.SAME_STEP))


def _spec(env_id: str) -> EnvSpec:
    try:
        module, _, registered = env_id.rpartition(":")
        if module:
            importlib.import_module(module)  # registers the module's ids; gymnasium.spec does not import it
        return gym.spec(registered)
    except ImportError as error:
        raise EnvironmentUnsupportedError(f'env.id "{env_id}": {error}', hint="is its package installed?") from error
    except gym.error.Error as error:
        close = nearest(env_id, [*gym.registry, *installed_environments()])
        raise EnvironmentUnsupportedError(
            f'no environment "{env_id}"{close}',
            hint="an installed environment plugin, a registered Gymnasium id, or package.module:EnvId",
        ) from error


def _single(spec: EnvSpec, kwargs: dict[str, Any], name: str, index: int) -> gym.Env[Any, Any]:
    """One environment behind its gate, which replaces Gymnasium's passive checker: that one warns, once."""
    return gated(gym.make(spec, **{"disable_env_checker": True, **kwargs}), name, index)


def _whole(env: object, name: str) -> VectorEnv:
    """A vector environment that somebody else built."""
    if not isinstance(env, gym.vector.VectorEnv):
        raise EnvironmentUnsupportedError(
            f"{name} is a {type(env).__name__}, not a gymnasium.vector.VectorEnv",
            hint="its make() returns all environments as one, for example SyncVectorEnv([...])",
        )
    keep_batching(env.unwrapped)
    return env


def _built(name: str, build: Callable[[], VectorEnv]) -> VectorEnv:
    try:
        return build()
    except gym.error.DependencyNotInstalled as error:
        raise EnvironmentUnsupportedError(f"{name} needs a package: {error}") from error
    except TypeError as error:
        hint = "check [env.kwargs]" if "argument" in str(error) else _EXAMINE
        raise EnvironmentUnsupportedError(f"{name}: {error}", hint=hint) from error
    except Exception as error:
        if not broken_by_contract(error):
            raise
        raise EnvironmentUnsupportedError(
            f"{name} cannot be built: {type(error).__name__}: {error}",
            hint=_EXAMINE,
        ) from error
