"""The resolved configuration as text: TOML with secrets masked, and each value with its origin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import tomli_w

from esper_core.config.schema import to_builtins
from esper_core.masking import MASK, is_secret_name, may_be_secret_name, redact_urls

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from esper_core.config.layers import Resolved

__all__ = ["ConfigLine", "config_lines", "config_toml", "dump_toml", "masked", "toml_value"]


def masked(resolved: Resolved, secrets: Mapping[str, frozenset[str]] | None = None) -> dict[str, Any]:
    """The configuration as plain values without secrets.

    Args:
        resolved: the result of ``load_config``.
        secrets: sink name -> keys of its ``Config`` that hold a ``Secret``, for the sinks that were loaded; a text
            whose key has a secret's name (``api_token``) is masked too. In every other free table (sinks not loaded,
            ``env.kwargs``) a value is masked when its key may be a secret's (``keyboard`` too). User, password and
            query of a URL are masked everywhere.
    """
    known = secrets or {}
    plain = to_builtins(resolved.config)
    plain["sink"] = {name: _mask_table(table, known.get(name)) for name, table in plain["sink"].items()}
    plain["env"]["kwargs"] = _mask_table(plain["env"]["kwargs"], None)
    cleaned: dict[str, Any] = _without_secret_urls(plain)
    return cleaned


def _mask_table(table: Mapping[str, Any], secret_keys: frozenset[str] | None) -> dict[str, Any]:
    cleaned: dict[str, Any] = {}
    for key, value in table.items():
        if (may_be_secret_name(key) if secret_keys is None else key in secret_keys) or (
            secret_keys is not None and isinstance(value, str) and is_secret_name(key)
        ):
            cleaned[key] = _mask_value(value)
        elif isinstance(value, dict):
            cleaned[key] = _mask_table(value, None if secret_keys is None else frozenset())
        else:
            cleaned[key] = value
    return cleaned


def _mask_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _mask_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_mask_value(item) for item in value]
    return value if isinstance(value, bool) or value in {"", None} else MASK


def _without_secret_urls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_secret_urls(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_secret_urls(item) for item in value]
    return redact_urls(value) if isinstance(value, str) else value


def config_toml(resolved: Resolved, secrets: Mapping[str, frozenset[str]] | None = None) -> str:
    """The whole resolved configuration as TOML, secrets masked: what a run's ``config.toml`` holds."""
    return dump_toml(masked(resolved, secrets))


@dataclass(frozen=True, slots=True)
class ConfigLine:
    """One value: dotted path, plain value, the value as TOML, and its origin."""

    path: str
    value: Any
    toml: str
    origin: str


def config_lines(resolved: Resolved, secrets: Mapping[str, frozenset[str]] | None = None) -> list[ConfigLine]:
    """Every value in the schema's order, secrets masked."""
    return [
        ConfigLine(path, value, toml_value(value), _origin(resolved, path))
        for path, value in _leaves(masked(resolved, secrets), prefix="")
    ]


def _origin(resolved: Resolved, path: str) -> str:
    return resolved.origins.get(path.replace('"', ""), "default")


def _leaves(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        path = f"{prefix}{_key(key)}"
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{path}.")
        elif not isinstance(value, dict):
            yield path, value


# --- TOML -----------------------------------------------------------------------------------------


def dump_toml(tree: Mapping[str, Any]) -> str:
    """Format nested plain values as TOML; None is left out. ``tomllib.loads`` returns the same values."""
    return tomli_w.dumps(_without_none(tree))


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return list(value) if isinstance(value, tuple) else value


def _key(key: str) -> str:
    """A key as TOML writes it, quoted when it must be."""
    return tomli_w.dumps({key: 0}).removesuffix(" = 0\n")


def toml_value(value: Any) -> str:
    """A value as TOML in one line: tomli-w gives every item of a list a line of its own."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(toml_value(item) for item in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)} = {toml_value(item)}" for key, item in value.items()) + "}"
    return tomli_w.dumps({"v": value}).removeprefix("v = ").removesuffix("\n")
