"""The layers that are given as text: variables of the environment, ``--set``, and named flags.

A named flag's value has been parsed by the command line; the others' are TOML values when the key accepts them, else
strings.
"""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Any, Final, get_origin

import msgspec

from esper_core.config._check import Setting, check_value, field_type, flatten, strip_annotation, unknown_key, whole
from esper_core.config.variables import variable_path
from esper_core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["env_settings", "flag_settings", "set_settings"]

_FLAG_NAMES: Final = {"env.id": "--env", "run.name": "--run-name", "run.video_every": "--video", "sinks": "--sinks"}


def env_settings(env: Mapping[str, str]) -> Iterator[Setting]:
    """What the environment's variables set."""
    for name, text in sorted(env.items()):
        path = variable_path(name)
        if path is not None:
            yield from _text_settings(path, text, origin=name, place=name)


def set_settings(text: str) -> Iterator[Setting]:
    """What one ``--set KEY=VALUE`` sets."""
    key, equals, value = text.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    if not equals or not all(path):
        raise ConfigError(f"--set {_key_of(text)}: expected KEY=VALUE", hint="for example --set ppo.target_kl=0.01")
    return _text_settings(path, value.strip(), origin="--set", place=f"--set {key.strip()}")


def flag_settings(flags: Mapping[str, Any]) -> Iterator[Setting]:
    """What named flags set: dotted path -> value, None when the flag was not given."""
    for dotted, value in flags.items():
        if value is None:
            continue
        path = tuple(dotted.split("."))
        flag = _FLAG_NAMES.get(dotted, "--" + path[-1].replace("_", "-"))
        yield Setting(path, check_value(field_type(path), value, flag), flag, flag)


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
