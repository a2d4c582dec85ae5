"""Builds the vector environment that ``[env]`` names: an installed plugin's, or Gymnasium's."""

from __future__ import annotations

import importlib
import inspect
import re
from functools import partial
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final

import gymnasium as gym
import msgspec
from gymnasium.envs.registration import load_env_creator

from esper_core.config.environments import installed_environments, load_environment
from esper_core.envs.episodes import SeededEpisodes
from esper_core.envs.faults import given_text, place_in_environment
from esper_core.envs.gate import gated
from esper_core.envs.hints import hint_for_id, hint_for_module, hint_of_versions
from esper_core.envs.in_turn import InTurn
from esper_core.envs.info import keep_batching
from esper_core.envs.workers import in_workers
from esper_core.envs.wrappers import load_wrappers
from esper_core.errors import EnvironmentUnsupportedError, EsperError, error_text, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gymnasium.envs.registration import EnvSpec

    from esper_core.config.schema import EnvConfig
    from esper_core.envs.wrappers import NamedWrapper

    VectorEnv = gym.vector.VectorEnv[Any, Any, Any]

__all__ = ["rendered_env", "vector_env"]

_TAKEN: Final = {
    "num_envs": "env.n_envs says how many there are",
    "vectorization_mode": "env.vector says how they are stepped",
    "vector_kwargs": "an environment that is made as one takes none",
    "wrappers": "they go around single environments: env.wrappers",
}
"""Keyword arguments of ``gymnasium.make_vec``, and what stands for each."""
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
        _refuse_single_only(config, "its plugin makes all environments as one")
        make = plugin.make
        return _built(config, lambda: _whole(make(num_envs=config.n_envs, seed=seed, **config.kwargs), config.id))
    spec = _spec(config.id)
    if spec.entry_point is None or config.vector == "native":
        why = "it has only a vectorised form" if spec.entry_point is None else 'env.vector = "native" makes them as one'
        _refuse_single_only(config, why)
        _refuse_no_vector_form(spec, config.id)
        _refuse_taken(config)
        options = {"num_envs": config.n_envs, "vectorization_mode": "vector_entry_point", **config.kwargs}
        return _built(config, lambda: _whole(gym.make_vec(spec, **options), config.id))
    wrappers = load_wrappers(config.wrappers)
    single = [partial(_single, spec, config, wrappers, index) for index in range(config.n_envs)]
    if config.vector == "async":
        return _built(config, lambda: in_workers(single, config.id))
    return _built(config, lambda: InTurn(single))


def rendered_env(config: EnvConfig, record: Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]) -> VectorEnv:
    """One environment that renders images, alone in a vector environment.

    Args:
        config: the table ``[env]``.
        record: wraps it outside its wrappers.

    Raises:
        EnvironmentUnsupportedError: there is no such environment, or it cannot be built so.
    """
    spec = None if load_environment(config.id) is not None else _spec(config.id)
    if spec is None or spec.entry_point is None:
        raise EnvironmentUnsupportedError(f"{config.id} has no single environments, of which one could be recorded")
    wrappers = load_wrappers(config.wrappers)
    shown = msgspec.structs.replace(config, kwargs={**config.kwargs, "render_mode": "rgb_array"}, seed_episodes=False)
    return _built(config, lambda: InTurn([partial(_single, spec, shown, [*wrappers, record], 0)]))


def _refuse_single_only(config: EnvConfig, why: str) -> None:
    """Raise for settings that need single environments, where there are none."""
    asked = {
        "env.wrappers": config.wrappers,
        'env.vector = "async"': config.vector == "async",
        'env.masks = "method"': config.masks == "method",
        "env.seed_episodes": config.seed_episodes,
    }
    first = next((name for name, value in asked.items() if value), None)
    if first is not None:
        raise EnvironmentUnsupportedError(
            f"{first} is for single environments, and there are none of {config.id}: {why}",
            hint="leave it out; what the environment itself takes stands in [env.kwargs]",
        )


def _refuse_taken(config: EnvConfig) -> None:
    """Raise for keyword arguments that Gymnasium takes for itself where it makes environments as one."""
    for name, instead in _TAKEN.items():
        if name in config.kwargs:
            raise EnvironmentUnsupportedError(
                f"env.kwargs.{name} is no argument of {config.id} itself", hint=f"leave it out: {instead}"
            )


def _refuse_no_vector_form(spec: EnvSpec, name: str) -> None:
    """Raise for an environment that cannot be made as one, or that would lose wrappers by it."""
    lost = [wrapper.name for wrapper in spec.additional_wrappers]
    if spec.vector_entry_point is not None and not lost:
        return
    why = f"its wrappers {', '.join(lost)} go around single environments" if lost else "it has no vector entry point"
    raise EnvironmentUnsupportedError(
        f'env.vector = "native" is for environments that are registered in a vectorised form, and {name} is not: {why}',
        hint='env.vector = "sync" steps one environment after another, "async" each in a process',
    )


def _spec(env_id: str) -> EnvSpec:
    try:
        module, _, registered = env_id.rpartition(":")
        if module:
            importlib.import_module(module)  # registers the module's ids; gymnasium.spec does not import it
        elif registered not in gym.registry:
            _register_namespace(registered)
        return gym.spec(registered)
    except ModuleNotFoundError as error:
        raise EnvironmentUnsupportedError(
            f'env.id "{env_id}": {error}', hint=hint_for_module(error.name or module)
        ) from error
    except ImportError as error:
        raise EnvironmentUnsupportedError(f'env.id "{env_id}": {error}', hint="is its package installed?") from error
    except gym.error.Error as error:
        known = _written(module)
        close = nearest(env_id, known) or nearest(registered, known)
        raise EnvironmentUnsupportedError(
            f'no environment "{env_id}"{close}',
            hint=hint_for_id(env_id),
        ) from error


def _written(module: str) -> list[str]:
    """Every id as it may be written for ``env.id``: those that a module registers need the module before a colon."""
    before = f"{module}:" if module else ""
    ids = [
        name if str(spec.entry_point).startswith("gymnasium.") else f"{before}{name}"
        for name, spec in gym.registry.items()
    ]
    return [*ids, *installed_environments()]


def _register_namespace(env_id: str) -> None:
    """Let the package that owns an id's namespace (``MinAtar/Breakout-v1``) register its environments.

    Packages such as MinAtar 1.0 declare a function for this in the entry-point group ``gymnasium.envs``, under the
    namespace's name. Gymnasium called it before 1.0.
    """
    namespace, slash, _ = env_id.rpartition("/")
    if slash:
        for entry_point in entry_points(group="gymnasium.envs", name=namespace):
            entry_point.load()()


def _single(
    spec: EnvSpec,
    config: EnvConfig,
    wrappers: Sequence[NamedWrapper | Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]],
    index: int,
) -> gym.Env[Any, Any]:
    """One environment with its wrappers behind its gate.

    The gate replaces Gymnasium's passive checker: that one warns, once.
    """
    env: gym.Env[Any, Any] = gym.make(spec, **{"disable_env_checker": True, **config.kwargs})
    for wrapper in wrappers:
        env = wrapper(env)
    env = gated(env, config.id, index, config.masks)
    return SeededEpisodes(env) if config.seed_episodes else env


def _whole(env: object, name: str) -> VectorEnv:
    """A vector environment that somebody else built."""
    if not isinstance(env, gym.vector.VectorEnv):
        raise EnvironmentUnsupportedError(
            f"{name} is a {type(env).__name__}, not a gymnasium.vector.VectorEnv",
            hint="its make() returns all environments as one, for example SyncVectorEnv([...])",
        )
    keep_batching(env.unwrapped)
    return env


def _built(config: EnvConfig, build: Callable[[], VectorEnv]) -> VectorEnv:
    """Build; whatever that raises is told with the environment, the place in its code, and what it was given."""
    name = config.id
    try:
        return build()
    except gym.error.DependencyNotInstalled as error:
        raise EnvironmentUnsupportedError(
            f"{name} needs a package: {error}", hint="install it in the Python that esper runs in"
        ) from error
    except EsperError:
        raise
    except (Exception, SystemExit) as error:
        # Gymnasium raises a TypeError of the environment anew, from the first one.
        first = error.__cause__ if isinstance(error, TypeError) and error.__cause__ is not None else error
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if isinstance(error, TypeError) and not place_in_environment(first) and "argument" in str(first):
            raise EnvironmentUnsupportedError(f"{name}: {first}", hint=_argument_hint(name, str(first))) from error
        if missing is not None:
            said, hint = str(error), hint_for_module(missing)
        else:
            said = f"exit({error.code!r}) was called" if isinstance(error, SystemExit) else error_text(first)
            told = (_place(first), given_text(config.kwargs), hint_of_versions(name))
            hint = "; ".join(filter(None, told)) or _EXAMINE
        raise EnvironmentUnsupportedError(f"{name} cannot be built: {said}", hint=hint) from error


def _place(error: BaseException) -> str:
    where = place_in_environment(error)
    return f"in {where}" if where else ""


def _argument_hint(name: str, said: str) -> str:
    """Where a wrong argument stands, and the nearest right one; or how a missing one is given."""
    missing = re.search(r"missing \d+ required .*?'(\w+)'", said)
    if missing is not None:
        return f"give it one: --set env.kwargs.{missing[1]}=VALUE, or {missing[1]} = VALUE in [env.kwargs]"
    wrong = re.search(r"unexpected keyword argument '(\w+)'", said)
    entry = getattr(gym.registry.get(name.rpartition(":")[2]), "entry_point", None)
    if wrong is None or entry is None:
        return "check [env.kwargs]"
    make = load_env_creator(entry) if isinstance(entry, str) else entry
    known = [item for item in inspect.signature(make).parameters if item not in {"self", "args", "kwargs"}]
    words = ", ".join(known) or "no arguments"
    close = nearest(wrong[1], known).removeprefix(", ")
    return f"check env.kwargs.{wrong[1]}: {close or f'it takes {words}'}"
