"""Finds the plugin of the environment that ``[env] id`` names. A plugin is imported only when it is selected."""

from __future__ import annotations

from typing import Final

from esper_core.config.schema import EnvConfig
from esper_core.errors import EnvironmentUnsupportedError
from esper_core.hooks import EnvironmentPlugin
from esper_core.installed import ENVIRONMENT_GROUP, duplicates, installed

__all__ = ["DEFAULT_ENVIRONMENT", "default_is_absent", "installed_environments", "load_environment"]

DEFAULT_ENVIRONMENT: Final = EnvConfig().id
_DEFAULT_PACKAGE: Final = f"esper-env-{DEFAULT_ENVIRONMENT}"


def installed_environments() -> tuple[str, ...]:
    """Names of the environments that plugins register, from metadata alone."""
    return tuple(installed(ENVIRONMENT_GROUP))


def default_is_absent() -> str:
    """What to install when the plugin of the default environment is not installed; empty when it is."""
    return "" if DEFAULT_ENVIRONMENT in installed_environments() else f"pip install {_DEFAULT_PACKAGE}"


def load_environment(env_id: str) -> EnvironmentPlugin | None:
    """Import the plugin of an environment.

    Args:
        env_id: value of ``[env] id``.

    Returns:
        What the plugin declares, or None when no plugin has that name: the id is then Gymnasium's.

    Raises:
        EnvironmentUnsupportedError: the default environment's plugin is not installed, two distributions claim the
            name, or the plugin cannot be imported or declares something else.
    """
    found = installed(ENVIRONMENT_GROUP).get(env_id)
    if found is None:
        if env_id == DEFAULT_ENVIRONMENT:
            raise EnvironmentUnsupportedError(
                f'env.id "{env_id}", the default, comes with {_DEFAULT_PACKAGE}, which is not installed',
                hint=f"install it with `{default_is_absent()}`, or train another environment: --env CartPole-v1",
            )
        return None
    rivals = duplicates(ENVIRONMENT_GROUP).get(env_id)
    if rivals:
        raise EnvironmentUnsupportedError(
            f'the environment name "{env_id}" is claimed by {len(rivals)} distributions: {", ".join(rivals)}',
            hint="uninstall all but one of them",
        )
    origin = f'environment "{env_id}" ({found.distribution} {found.version})'
    try:
        plugin = found.load()
    except BaseException as error:  # an import may raise anything, SystemExit included
        if isinstance(error, KeyboardInterrupt):
            raise
        raise EnvironmentUnsupportedError(
            f"{origin} cannot be imported from {found.value}: {type(error).__name__}: {error}",
            hint=f"reinstall it with `pip install --force-reinstall {found.distribution}`",
        ) from error
    return _checked(plugin, origin, found.value)


def _checked(plugin: object, origin: str, value: str) -> EnvironmentPlugin:
    if not isinstance(plugin, EnvironmentPlugin):
        raise EnvironmentUnsupportedError(
            f"{origin}: {value} is a {type(plugin).__name__}, not an esper_core.hooks.EnvironmentPlugin",
            hint="its entry point names the wrong object",
        )
    if plugin.default_preset and plugin.default_preset not in plugin.presets:
        raise EnvironmentUnsupportedError(
            f'{origin}: default_preset "{plugin.default_preset}" is none of its presets',
            hint=f"its presets: {', '.join(plugin.presets) or 'none'}",
        )
    return plugin
