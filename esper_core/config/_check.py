"""Checks one layer of settings against the schema, key by key, so that an error names its exact place."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, get_args, get_origin, get_type_hints

import msgspec

from esper_core.config._values import fault_of, shown_value
from esper_core.config.schema import EsperConfig
from esper_core.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["Setting", "check_value", "choices_of", "field_type", "flatten", "known_keys", "strip_annotation", "whole"]

_FREE: Final = Any
OTHER_NAMES: Final = {
    "lr": "ppo.learning_rate",
    "anneal_lr": "ppo.learning_rate_schedule",
    "anneal_learning_rate": "ppo.learning_rate_schedule",
    "n_steps": "ppo.rollout_steps",
    "num_steps": "ppo.rollout_steps",
    "n_epochs": "ppo.epochs",
    "update_epochs": "ppo.epochs",
    "batch_size": "ppo.minibatch_size",
    "ent_coef": "ppo.entropy_coef",
    "vf_coef": "ppo.value_coef",
    "clip_coef": "ppo.clip_range",
    "clip_range_vf": "ppo.value_clip_range",
    "clip_vloss": "ppo.value_clip_range",
    "net_arch": "ppo.hidden",
    "num_envs": "env.n_envs",
    "total_timesteps": "run.steps",
}
"""Names that other PPO libraries have for keys of Esper, too unlike to be found by spelling."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One value that was set.

    Attributes:
        path: for example ``("ppo", "target_kl")``.
        value: as read, not yet converted.
        origin: as ``esper config show`` prints it: a file, a variable, a flag, a preset.
        place: as error messages print it: ``esper.toml: [ppo] target_kl``.
    """

    path: tuple[str, ...]
    value: Any
    origin: str
    place: str


def strip_annotation(hint: Any) -> Any:
    """The type inside ``Annotated``."""
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    return hint


@cache
def _fields(struct: type[msgspec.Struct]) -> dict[str, Any]:
    return get_type_hints(struct, include_extras=True)


def _is_struct(node: Any) -> bool:
    return isinstance(node, type) and issubclass(node, msgspec.Struct)


def _is_table(node: Any) -> bool:
    return _is_struct(node) or get_origin(node) is dict


def _children(node: Any) -> dict[str, Any] | None:
    """The known keys of a table; None when any key is allowed."""
    return _fields(node) if _is_struct(node) else None


@cache
def known_keys() -> dict[str, str]:
    """Every fixed key of the schema: the key alone -> its dotted path (``target_kl`` -> ``ppo.target_kl``)."""
    found: dict[str, str] = {}
    for table, hint in _fields(EsperConfig).items():
        inner = strip_annotation(hint)
        found.setdefault(table, table)
        if _is_struct(inner):
            for key in _fields(inner):
                found.setdefault(key, f"{table}.{key}")
    return found


def field_type(path: tuple[str, ...]) -> Any:
    """The declared type of a key; ``Any`` in the free tables of sinks and environment.

    Raises:
        KeyError: with the path up to the unknown key as its argument.
    """
    node: Any = EsperConfig
    for depth, key in enumerate(path):
        inner = strip_annotation(node)
        if _is_struct(inner):
            if key not in _fields(inner):
                raise KeyError(path[: depth + 1])
            node = _fields(inner)[key]
        elif get_origin(inner) is dict:
            node = get_args(inner)[1]
        elif inner is _FREE:
            return Any
        else:
            raise KeyError(path[: depth + 1])
    return node


def unknown_key(path: tuple[str, ...], where: str) -> ConfigError:
    """Create the error for a key that no table has.

    Args:
        path: the path, including the unknown key.
        where: the place as shown to the user: a file and table, a variable, a flag.
    """
    table, key = path[:-1], path[-1]
    node = strip_annotation(field_type(table)) if table else EsperConfig
    known = list(_children(node) or ())
    guess = _other_name(key, table) or nearest(key, known)
    hint = None
    if not guess:
        elsewhere = known_keys().get(key)
        if elsewhere is not None and "." in elsewhere:
            owner, _, name = elsewhere.rpartition(".")
            hint = f"{name} belongs in [{owner}]"
        elif known:
            hint = f"known keys: {', '.join(known)}"
        else:
            hint = f"[{'.'.join(table)}] is a single value, not a table"
    what = "key" if table else "table or key"
    return ConfigError(f'{where}unknown {what} "{key}"{guess}', hint=hint)


def _other_name(key: str, table: tuple[str, ...]) -> str:
    """The guess for a key that another library calls so; ``docs/how-to/port-hyperparameters.md`` lists them."""
    home, _, name = OTHER_NAMES.get(key.lower(), "").rpartition(".")
    if not name:
        return ""
    return f', did you mean "{name}"?' if (home,) == table else f', did you mean "{home}.{name}"?'


def whole(hint: Any, value: Any) -> Any:
    """A float without a fraction as an int where the key is one: TOML reads ``1e6`` as a float."""
    if strip_annotation(hint) is int and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def check_value(hint: Any, value: Any, place: str) -> Any:
    """Return the value as the key holds it; raise a ConfigError that says what is expected, or why it cannot work."""
    value = whole(hint, value)
    fault = fault_of(value, place, finite=hint is not _FREE, most=_most(hint))
    if fault is not None:
        raise fault
    try:
        msgspec.convert(value, hint)
    except msgspec.ValidationError as error:
        # msgspec: "Expected `float` > 0.0 - at `$[...]`"; the message here names the path itself.
        expected = re.sub(r" - at `\$.*`$", "", str(error)).replace("`", "")
        expected = expected[:1].lower() + expected[1:]
        choices = choices_of(hint)
        if value == "":
            raise ConfigError(f"{place}: is empty", hint=choices) from None
        raise ConfigError(
            f"{place}: {expected} (is {shown_value(value)})", hint=choices or _bounds(hint) or _form(hint)
        ) from None
    return value


def choices_of(hint: Any) -> str | None:
    """The values that a key may have, for the hint; None when they are not a few words."""
    inner = strip_annotation(hint)
    if get_origin(inner) is tuple:
        inner = strip_annotation(get_args(inner)[0])
    return f"choices: {', '.join(get_args(inner))}" if get_origin(inner) is Literal else None


def _most(hint: Any) -> float | None:
    """The largest number with which a key can work; None where the schema states none."""
    extras = [item.extra for item in get_args(hint)[1:] if isinstance(item, msgspec.Meta) and item.extra]
    return next((extra["most"] for extra in extras if "most" in extra), None)


def _bounds(hint: Any) -> str | None:
    """Which numbers a key takes, for the hint; None when it is no number with a bound."""
    if get_origin(strip_annotation(hint)) is tuple:
        inner = _bounds(get_args(strip_annotation(hint))[0])
        return inner and f"{inner} each"
    number = {int: "a whole number", float: "a number"}.get(strip_annotation(hint))
    metas = [item for item in get_args(hint)[1:] if isinstance(item, msgspec.Meta)]
    if number is None or not metas:
        return None
    words = {"gt": "above", "ge": "from", "lt": "below", "le": "up to"}
    found = [
        f"{word} {bound:g}"
        for meta in metas
        for name, word in words.items()
        if (bound := getattr(meta, name)) is not None
    ]
    return f"give {number} {' '.join(found)}" if found else None


def _form(hint: Any) -> str | None:
    """How the value of a key without bounds is written, for the hint; None where that goes without saying."""
    inner = strip_annotation(hint)
    if inner is bool:
        return "give true or false"
    return 'give a list of texts, such as ["one", "two"]' if inner == tuple[str, ...] else None


def flatten(
    tree: Mapping[str, Any],
    *,
    origin: str,
    where: Callable[[tuple[str, ...]], str],
    path: tuple[str, ...] = (),
    node: Any = EsperConfig,
) -> Iterator[Setting]:
    """Yield every setting of a nested table, checked against the schema.

    Args:
        tree: nested dicts, as ``tomllib`` returns them.
        origin: the origin of every setting in it.
        where: a table's path as shown to the user, ending in a separator (``esper.toml: [ppo] ``).
        path: of ``tree`` within the configuration.
        node: the schema at that path.
    """
    inner = strip_annotation(node)
    children = _children(inner)
    free = get_args(inner)[1] if get_origin(inner) is dict else _FREE
    for key, value in tree.items():
        here = (*path, key)
        if (fault := fault_of(key, f"{where(path)}{key}")) is not None:
            raise fault
        if children is not None and key not in children:
            raise unknown_key(here, where(path))
        hint = children[key] if children is not None else free
        child = strip_annotation(hint)
        if _is_table(child) and not isinstance(value, dict):
            raise ConfigError(
                f"{where(path)}{key}: expected a table (is {shown_value(value)})", hint=f"write [{'.'.join(here)}]"
            )
        if isinstance(value, dict) and (_is_table(child) or child is _FREE):
            yield from flatten(value, origin=origin, where=where, path=here, node=hint)
            continue
        place = f"{where(path)}{key}"
        yield Setting(here, check_value(hint, value, place), origin, place)
