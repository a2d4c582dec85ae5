"""The layers below the file: the preset, and the settings of a run that is resumed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from esper_core.config._check import Setting, flatten
from esper_core.config.environments import default_is_absent
from esper_core.config.presets import preset_for, presets_of
from esper_core.config.retired import todays_ppo
from esper_core.config.schema import EnvConfig
from esper_core.errors import ConfigError, nearest
from esper_core.masking import masked_places

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["DEFAULT_STEPS", "LIMITS", "NO_PRESET", "base_settings", "preset_settings", "refuse_masked"]

NO_PRESET: Final = "none"
"""Name of the preset without values."""
LIMITS: Final = ("updates", "steps", "episodes")
"""The keys of ``[run]`` of which any may end it."""
_LIMIT_PATHS: Final = frozenset(("run", limit) for limit in LIMITS)
_RESUMED_KEYS: Final = frozenset(
    {*LIMITS, "name", "seed", "keep_going", "eval_every", "eval_episodes", "eval_deterministic", "video_every"}
)
DEFAULT_STEPS: Final = 100_000
"""The limit in environment steps when neither the user nor the preset gives one."""


def base_settings(base: Mapping[str, Any], label: str, upper: Iterable[Setting]) -> list[Setting]:
    """The settings of a resumed run, without its sinks, folder and secrets; a secret must be given again."""
    limited = any(item.path in _LIMIT_PATHS for item in upper)
    given = {item.path[: depth + 1] for item in upper for depth in range(len(item.path))}
    kept = {key: base[key] for key in ("preset", "ppo", "health", "env", "run") if key in base}
    if isinstance(kept.get("ppo"), dict):
        kept["ppo"] = todays_ppo(kept["ppo"])
    items = [
        item
        for item in flatten(kept, origin=label, where=lambda table: f"{label}: [{'.'.join(table)}] ")
        if (item.path[0] != "run" or item.path[1] in _RESUMED_KEYS) and not (limited and item.path in _LIMIT_PATHS)
    ]
    for item in items:
        if item.path[:2] == ("env", "kwargs") and item.path not in given:
            refuse_masked(item.value, ".".join(item.path), label)
    return [item for item in items if not any(masked_places(item.value, "it"))]


def refuse_masked(value: Any, key: str, file: str) -> None:
    """Raise for a value read from a run's file that the mask stands in: an environment would take it for the secret.

    Raises:
        ConfigError: it names the key and how to give its value.
    """
    for place in masked_places(value, key):
        variable = f"ESPER_{place.replace('.', '__').upper()}"
        raise ConfigError(
            f"{file}: {place} was a secret and is masked there",
            hint=f"give it again: --set {place}=VALUE, or in the variable {variable}",
        )


def preset_settings(upper: Iterable[Setting]) -> Iterator[Setting]:
    """The values with lower priority than the file, and a limit when none was given."""
    values = {item.path: item for item in upper}
    limited = not _LIMIT_PATHS.isdisjoint(values)
    users = limited
    name, tables, origin = _preset(values)
    if name:
        yield Setting(("preset",), name, origin, origin)
        label = f"preset {name}"
        for item in flatten(tables, origin=label, where=lambda table: f"{label}: [{'.'.join(table)}] "):
            is_limit = item.path in _LIMIT_PATHS
            if is_limit and users:
                continue  # the user's limit is the only one
            limited = limited or is_limit
            yield item
    if not limited:
        yield Setting(("run", "steps"), DEFAULT_STEPS, "no limit given", "no limit given")


def _preset(values: Mapping[tuple[str, ...], Setting]) -> tuple[str, Mapping[str, Any], str]:
    """Name and tables of the preset in force, and the origin of that choice; an empty name for none."""
    asked = values.get(("preset",))
    chosen = values.get(("env", "id"))
    env_id = str(chosen.value) if chosen is not None else EnvConfig().id
    if asked is None or not asked.value:
        name = preset_for(env_id)
        return name, presets_of(env_id)[name] if name else {}, f"for {env_id}"
    name = str(asked.value)
    if name == NO_PRESET:
        return "", {}, asked.origin
    presets = presets_of(env_id)
    if name not in presets:
        known = (*presets, NO_PRESET)
        absent = default_is_absent()
        more = f"; those of the default environment come with `{absent}`" if absent else ""
        raise ConfigError(
            f'{asked.place}: unknown preset "{name}"{nearest(name, known)}', hint=f"presets: {', '.join(known)}{more}"
        )
    return name, presets[name], asked.origin
