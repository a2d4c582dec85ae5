"""Layers of configuration, with the origin of every value.

From strongest to weakest: flags of the command line (named flags, then ``--set``) or keywords of a Python call,
environment (``ESPER_SINKS``, ``ESPER_PPO__TARGET_KL``), file (``esper.toml``, or ``[tool.esper]`` in
``pyproject.toml``), preset, default.
Imports no torch and no sink: a sink's own table is validated by the sink's ``Config`` when the host loads it.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_origin

import msgspec

from esper_core.config._check import (
    Setting,
    check_value,
    field_type,
    flatten,
    strip_annotation,
    unknown_key,
    whole,
)
from esper_core.config._values import fault_of, shown_value
from esper_core.config.environments import default_is_absent
from esper_core.config.keywords import keyword_settings
from esper_core.config.presets import preset_for, presets_of
from esper_core.config.retired import todays_ppo
from esper_core.config.schema import EnvConfig, EsperConfig
from esper_core.config.variables import stray_variables, variable_path, with_sink_names
from esper_core.errors import ConfigError, nearest
from esper_core.health import DEFAULT_KL_LIMITS
from esper_core.masking import learn_setting, masked_places

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

__all__ = [
    "DEFAULT_STEPS",
    "KEYWORD_ORIGIN",
    "LIMITS",
    "NO_PRESET",
    "Resolved",
    "find_config_file",
    "load_config",
    "refuse_masked",
]

KEYWORD_ORIGIN: Final = "train()"
"""Origin of the values that a Python call sets."""
NO_PRESET: Final = "none"
"""Name of the preset without values."""
LIMITS: Final = ("updates", "steps", "episodes")
_LIMIT_PATHS: Final = frozenset(("run", limit) for limit in LIMITS)
_RESUMED_KEYS: Final = frozenset(
    {*LIMITS, "name", "seed", "keep_going", "eval_every", "eval_episodes", "eval_deterministic", "video_every"}
)
DEFAULT_STEPS: Final = 100_000
"""The limit in environment steps when neither the user nor the preset gives one."""


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


def find_config_file(start: Path) -> Path | None:
    """The configuration file in force for a directory.

    ``esper.toml``, else a ``pyproject.toml`` with a ``[tool.esper]`` table, in ``start`` or, within a repository,
    in the nearest parent up to the folder that holds ``.git``.
    """
    start = start.resolve()
    folders = [start, *start.parents]
    top = next((index for index, folder in enumerate(folders) if (folder / ".git").exists()), 0)
    for folder in folders[: top + 1]:
        own = folder / "esper.toml"
        if own.is_file():
            return own
        shared = folder / "pyproject.toml"
        if shared.is_file() and "esper" in _tools(_parse(shared)):
            return shared
    return None


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
    of_file = list(_file_settings(chosen, here)) if chosen is not None else []
    of_call = [item for text in sets for item in _set_settings(text)]
    of_call += _flag_settings(flags or {})
    of_call += keyword_settings(keywords or {}, keyword_origin)
    of_env = list(_env_settings(env or {}))
    selected = [*add_sinks, *_selected([*of_file, *of_env, *of_call])]
    upper = [*of_file, *with_sink_names(of_env, selected, [*of_file, *of_call]), *of_call]
    middle = _base_settings(base or {}, base_label, upper)
    lower = [*_preset_settings([*middle, *upper]), *middle]
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


# --- file -----------------------------------------------------------------------------------------


_WITHOUT: Final = "--no-config reads no file"


def _parse(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except tomllib.TOMLDecodeError as error:
        # The decoder's message ends in "(at line 3, column 9)".
        raise ConfigError(f"{file}: malformed TOML: {error}", hint=_WITHOUT) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not UTF-8: {error.reason} at byte {error.start}", hint=_WITHOUT) from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}", hint=_WITHOUT) from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets a thousand deep
        raise ConfigError(f"{file}: cannot be read: {error}", hint=_WITHOUT) from None


def _tools(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """The table ``[tool]`` of a ``pyproject.toml``; empty when there is none."""
    tools = tree.get("tool", {})
    return tools if isinstance(tools, dict) else {}


def _file_settings(file: Path, cwd: Path) -> Iterator[Setting]:
    tree = _parse(file)
    prefix = ""
    if file.name == "pyproject.toml":
        tree = _tools(tree).get("esper", {})
        prefix = "tool.esper"
    label = _short(file, cwd)
    if not isinstance(tree, dict):
        raise ConfigError(f"{label}: tool.esper: expected a table (is {shown_value(tree)})", hint="write [tool.esper]")

    def where(table: tuple[str, ...]) -> str:
        name = ".".join(part for part in (prefix, *table) if part)
        return f"{label}: [{name}] " if name else f"{label}: "

    for item in flatten(tree, origin=label, where=where):
        value = _from_file(item, file, cwd)
        if (fault := fault_of(value, item.place)) is not None:
            raise fault  # the file's own folder has a name that no file of a run can hold
        yield Setting(item.path, value, item.origin, item.place)


def _from_file(item: Setting, file: Path, cwd: Path) -> Any:
    """Make paths relative to the file that holds them, which may be in a parent folder."""
    folder = file.resolve().parent
    if folder == cwd.resolve():
        return item.value
    if item.path == ("run", "dir"):
        return str(folder / item.value)
    if item.path == ("sinks",):
        return [str(folder / name) if name.startswith(("./", "../")) else name for name in item.value]
    return item.value


def _short(file: Path, cwd: Path) -> str:
    try:
        return str(file.resolve().relative_to(cwd.resolve()))
    except ValueError:
        return str(file)


# --- environment, --set, flags --------------------------------------------------------------------


def _env_settings(env: Mapping[str, str]) -> Iterator[Setting]:
    for name, text in sorted(env.items()):
        path = variable_path(name)
        if path is not None:
            yield from _text_settings(path, text, origin=name, place=name)


def _set_settings(text: str) -> Iterator[Setting]:
    key, equals, value = text.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    if not equals or not all(path):
        raise ConfigError(f"--set {_key_of(text)}: expected KEY=VALUE", hint="for example --set ppo.target_kl=0.01")
    return _text_settings(path, value.strip(), origin="--set", place=f"--set {key.strip()}")


def _key_of(text: str) -> str:
    """The part that can be a key: the rest may be a secret."""
    key = re.match(r"[\w.-]*", text)
    return f"{key[0]}..." if key and key[0] != text else text


def _text_settings(path: tuple[str, ...], text: str, *, origin: str, place: str) -> Iterator[Setting]:
    """Parse a value given as text: a TOML value when the key accepts it, else a string; commas separate a list."""
    try:
        hint = field_type(path)
    except KeyError as error:
        raise unknown_key(error.args[0], f"{place}: ") from None
    inner = strip_annotation(hint)
    if get_origin(inner) is dict or (isinstance(inner, type) and issubclass(inner, msgspec.Struct)):
        value = _toml_value(text)
        if not isinstance(value, dict):
            raise ConfigError(f"{place}: is a table", hint=f"set one key of it: {'.'.join(path)}.KEY")
        yield from flatten(value, origin=origin, where=lambda _: f"{place}: ", path=path, node=hint)
        return
    candidates = [whole(hint, _toml_value(text)), text]
    if get_origin(inner) is tuple:
        candidates.insert(1, [_toml_value(part.strip()) for part in text.split(",") if part.strip()])
    for candidate in candidates:
        try:
            msgspec.convert(candidate, hint)
        except msgspec.ValidationError:
            continue
        check_value(hint, candidate, place)
        yield Setting(path, candidate, origin, place)
        return
    check_value(hint, candidates[0], place)
    raise AssertionError(place)  # the line above raises for a candidate that did not convert


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # no TOML, or TOML that Python does not take
        return text


def _flag_settings(flags: Mapping[str, Any]) -> Iterator[Setting]:
    for dotted, value in flags.items():
        if value is None:
            continue
        path = tuple(dotted.split("."))
        flag = _FLAG_NAMES.get(dotted, "--" + path[-1].replace("_", "-"))
        yield Setting(path, check_value(field_type(path), value, flag), flag, flag)


_FLAG_NAMES: Final = {"env.id": "--env", "run.name": "--run-name", "sinks": "--sinks"}


# --- preset ---------------------------------------------------------------------------------------


def _base_settings(base: Mapping[str, Any], label: str, upper: Iterable[Setting]) -> list[Setting]:
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


def _preset_settings(upper: Iterable[Setting]) -> Iterator[Setting]:
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


# --- joining --------------------------------------------------------------------------------------


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
