"""Layers of configuration, with the origin of every value.

From strongest to weakest: flags of the command line (named flags, then ``--set``) or keywords of a Python call,
environment (``ESPER_SINKS``, ``ESPER_PPO__TARGET_KL``), file (``esper.toml``, or ``[tool.esper]`` in
``pyproject.toml``), preset, default.
Imports no torch and no sink: a sink's own table is validated by the sink's ``Config`` when the host loads it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from esper_core.config._check import Setting
from esper_core.config._values import fault_of
from esper_core.config.file_layer import file_settings, find_config_file
from esper_core.config.keywords import keyword_settings
from esper_core.config.lower_layers import base_settings, preset_settings
from esper_core.config.schema import EsperConfig
from esper_core.config.text_layers import env_settings, flag_settings, set_settings
from esper_core.config.variables import stray_variables, with_sink_names
from esper_core.errors import ConfigError, nearest
from esper_core.health import DEFAULT_KL_LIMITS
from esper_core.masking import learn_setting

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["KEYWORD_ORIGIN", "Resolved", "load_config"]

KEYWORD_ORIGIN: Final = "train()"
"""Origin of the values that a Python call sets."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """A configuration and the origin of every value.

    Attributes:
        config: complete and validated, except for the tables of sinks.
        origins: dotted path -> origin, for every value that is not a default.
        asked: the dotted paths that the user set: not of a preset, nor of the run that is resumed.
        file: the file that was read, if any.
        dropped_sinks: what ``--no-sink`` names.
        notices: lines for the user, about variables that look like Esper's and are not.
    """

    config: EsperConfig
    origins: dict[str, str] = field(default_factory=dict)
    asked: frozenset[str] = frozenset()
    file: Path | None = None
    dropped_sinks: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()

    def origin(self, path: str) -> str:
        """Where the value at a dotted path comes from."""
        return self.origins.get(path, "default")


def load_config(
    *,
    file: Path | None = None,
    no_file: bool = False,
    env: Mapping[str, str] | None = None,
    sets: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    keywords: Mapping[str, Any] | None = None,
    keyword_origin: str = KEYWORD_ORIGIN,
    add_sinks: Sequence[str] = (),
    drop_sinks: Sequence[str] = (),
    base: Mapping[str, Any] | None = None,
    base_label: str = "",
    cwd: Path | None = None,
) -> Resolved:
    """Resolve every layer into one configuration.

    Args:
        file: an explicit file; None looks for one (``find_config_file``).
        no_file: read no file.
        env: the process environment; only ``ESPER_*`` is read.
        sets: ``ppo.target_kl=0.01``, as given to ``--set``: a TOML value, else a string.
        flags: dotted path -> value, for named flags; None means not given.
        keywords: keywords of a Python call, see :class:`esper_core.config.keywords.Settings`; same priority as flags.
        keyword_origin: the call that they were given to.
        add_sinks: appended to the selected sinks.
        drop_sinks: removed from the selected sinks, after all additions.
        base: values between preset and file: those of a resumed run. Any other limit replaces its limits.
        base_label: the origin of ``base``.
        cwd: where to look for a file.

    Raises:
        ConfigError: names file, table and key, or the variable or flag.
    """
    here = cwd if cwd is not None else Path.cwd()
    chosen = None if no_file else (file if file is not None else find_config_file(here))
    of_file = list(file_settings(chosen, here)) if chosen is not None else []
    of_call = [item for text in sets for item in set_settings(text)]
    of_call += flag_settings(flags or {})
    of_call += keyword_settings(keywords or {}, keyword_origin)
    of_env = list(env_settings(env or {}))
    selected = [*add_sinks, *_selected([*of_file, *of_env, *of_call])]
    upper = [*of_file, *with_sink_names(of_env, selected, [*of_file, *of_call]), *of_call]
    middle = base_settings(base or {}, base_label, upper)
    lower = [*preset_settings([*middle, *upper]), *middle]
    settings = {item.path: item for item in (*lower, *upper)}
    _learn_secrets(upper)
    _select_sinks(settings, add_sinks, drop_sinks)
    tree: dict[str, Any] = {}
    for item in settings.values():
        _insert(tree, item)
    config = msgspec.convert(tree, EsperConfig)
    _check_limits(config, settings)
    return Resolved(
        config,
        {".".join(item.path): item.origin for item in settings.values()},
        frozenset(".".join(item.path) for item in upper),
        chosen,
        dropped_sinks=tuple(drop_sinks),
        notices=stray_variables(env or {}),
    )


def _selected(settings: Iterable[Setting]) -> list[str]:
    """The sinks that the last of the layers selects."""
    found = [item.value for item in settings if item.path == ("sinks",)]
    return list(found[-1] if found else EsperConfig().sinks)


def _select_sinks(
    settings: dict[tuple[str, ...], Setting], add_sinks: Sequence[str], drop_sinks: Sequence[str]
) -> None:
    key = ("sinks",)
    before = settings.get(key)
    names = list(before.value if before is not None else EsperConfig().sinks)
    origins = [before.origin] if before is not None else []
    for name in add_sinks:
        if (fault := fault_of(name, "--sink")) is not None:
            raise fault
    if add_sinks:
        names += [name for name in add_sinks if name not in names]
        origins.append("--sink")
    for dropped in drop_sinks:
        # A sink from a file is called by its class too, as its table and the messages are.
        name = next((spec for spec in names if ".py:" in spec and spec.rpartition(":")[2] == dropped), dropped)
        if name not in names:
            raise ConfigError(
                f"--no-sink {name}: not selected{nearest(name, names)}",
                hint=f"selected: {', '.join(names) or 'none'}",
            )
        if before is not None and before.origin == "--sinks" and name in before.value:
            raise ConfigError(
                f"--sinks {','.join(before.value)} and --no-sink {dropped} contradict each other",
                hint=f"leave {name} out of --sinks, or leave out `--no-sink {dropped}`",
            )
        if name in add_sinks:
            raise ConfigError(
                f"--sink {name} and --no-sink {dropped} contradict each other",
                hint=f"leave out `--sink {name}` or `--no-sink {dropped}`",
            )
        names.remove(name)
    if drop_sinks:
        origins.append("--no-sink")
    if origins:
        settings[key] = Setting(key, names, ", ".join(origins), origins[-1])


def _learn_secrets(settings: Iterable[Setting]) -> None:
    """Tell the masking what no text may hold: passwords of URLs, and what the free tables have under secrets' names."""
    for item in settings:
        if item.path[0] in {"sink", "env"}:
            learn_setting(item.path[2:], item.value, guess=item.path[0] == "env")


def _check_limits(config: EsperConfig, settings: Mapping[tuple[str, ...], Setting]) -> None:
    """Refuse limits that no number can be judged by."""
    fault = config.health.limits.fault
    if not fault:
        return
    key, _, what = fault.partition(": ")
    # Of two limits in the wrong order the one that someone set is to blame.
    blamed = next((item for name in (key, "kl_critical") if (item := settings.get(("health", name)))), None)
    origin = f" (set by {blamed.origin})" if blamed is not None else ""
    raise ConfigError(
        f"health.{key}: {what}{origin}",
        hint="health.kl_warning < health.kl_critical, both finite and above 0; the defaults are "
        f"{DEFAULT_KL_LIMITS.warning:g} and {DEFAULT_KL_LIMITS.critical:g}",
    )


def _insert(tree: dict[str, Any], item: Setting) -> None:
    node = tree
    for depth, key in enumerate(item.path[:-1]):
        node = node.setdefault(key, {})
        if not isinstance(node, dict):
            table = ".".join(item.path[: depth + 1])
            raise ConfigError(f"{item.place}: {table} is set as a single value elsewhere")
    if isinstance(node.get(item.path[-1]), dict):
        raise ConfigError(f"{item.place}: is a table elsewhere")
    node[item.path[-1]] = item.value
