"""The configuration as keywords of a Python call, typed for type checkers and editors: ``esper_core.train`` takes them.

Each TypedDict mirrors one table of :mod:`esper_core.config.schema`, which defines types, bounds, defaults and meanings;
a test checks that the two agree. :func:`keyword_settings` checks the given values, and names a wrong key by its path.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict, get_origin

import msgspec

from esper_core.config._check import Setting, check_value, field_type, known_keys, strip_annotation, unknown_key
from esper_core.config._values import shown_value
from esper_core.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "DeliveryTable",
    "EnvTable",
    "HealthTable",
    "OtelTable",
    "PPOTable",
    "RunTable",
    "Settings",
    "keyword_settings",
]


class PPOTable(TypedDict, total=False):
    """``ppo={...}``: the agent and its update."""

    rollout_steps: int
    epochs: int
    minibatch_size: int
    learning_rate: float
    learning_rate_schedule: Literal["constant", "linear", "cosine", "kl_adaptive"]
    desired_kl: float
    gamma: float
    gae_lambda: float
    clip_range: float
    clip_range_schedule: Literal["constant", "linear", "cosine"]
    value_clip_range: float
    value_clip_rule: Literal["larger", "clipped"]
    value_coef: float
    entropy_coef: float
    entropy_coef_schedule: Literal["constant", "linear", "cosine"]
    max_grad_norm: float
    normalise_advantage: bool
    policy: str
    hidden: Sequence[int]
    activation: Literal["tanh", "relu", "elu", "gelu", "silu"]
    shared_trunk: bool
    normalise_observations: bool
    normalise_rewards: bool
    log_std_init: float
    squash: bool
    target_kl: float
    stop_on: Literal["weighted", "joint"]
    stop_rule: Literal["pooled", "minibatch", "epoch"]
    kl_estimator: Literal["k3", "exact"]
    device: str
    threads: int
    compile: bool


class HealthTable(TypedDict, total=False):
    """``health={...}``: what the KL is judged by."""

    kl_on: Literal["weighted", "joint"]
    kl_warning: float
    kl_critical: float


class EnvTable(TypedDict, total=False):
    """``env={...}``: the environment; ``env="ID"`` is short for ``env={"id": "ID"}``."""

    id: str
    n_envs: int
    causal_mask: str
    kwargs: Mapping[str, Any]
    wrappers: Sequence[str]
    vector: Literal["sync", "async", "native"]
    masks: Literal["auto", "info", "method", "off"]
    seed_episodes: bool


class RunTable(TypedDict, total=False):
    """``run={...}``: limits, place and behaviour of the run."""

    dir: str | os.PathLike[str]
    name: str
    seed: int
    updates: int
    steps: int
    episodes: int
    eval_every: int
    eval_episodes: int
    eval_deterministic: bool
    video_every: int
    keep_going: bool
    checkpoint_interval_s: float
    close_timeout_s: float
    strict_telemetry: bool
    system_metrics: bool
    rank_timeout_s: float
    rank_check_updates: int


class OtelTable(TypedDict, total=False):
    """``otel={...}``: how OpenTelemetry is used."""

    sdk: Literal["auto", "always", "never"]
    events: Literal["span", "log", "both"]
    semconv: Sequence[Literal["esper", "rl"]]
    episodes: bool


class DeliveryTable(TypedDict, total=False):
    """``delivery={"NAME": {...}}``: how events are delivered to one sink."""

    mode: Literal["default", "inline", "all", "latest"]
    queue_size: int
    max_failures: int


class Settings(TypedDict, total=False):
    """Every keyword that is a setting. Frequent keys of ``run`` are keywords of their own."""

    env: str | EnvTable
    updates: int | None
    steps: int | None
    episodes: int | None
    seed: int | None
    sinks: Sequence[str]
    preset: str
    ppo: PPOTable
    health: HealthTable
    run: RunTable
    otel: OtelTable
    delivery: Mapping[str, DeliveryTable]
    sink: Mapping[str, Mapping[str, Any]]


_OF_RUN: Final = ("updates", "steps", "episodes", "seed")
_TABLES: Final = ("ppo", "health", "env", "run", "otel", "delivery", "sink")
_TOML_TYPES: Final = (bool, int, float, str, dt.date, dt.time)


def keyword_settings(keywords: Mapping[str, Any], origin: str) -> Iterator[Setting]:
    """Yield every setting of a call, checked against the schema.

    Args:
        keywords: see :class:`Settings`; None means not given.
        origin: the place that ``esper config show`` and errors of sinks name.

    Raises:
        ConfigError: an unknown key, a wrong type, a value that ``config.toml`` cannot hold, or a key given twice.
    """
    seen: set[tuple[str, ...]] = set()
    for keyword, value in keywords.items():
        if value is None:
            continue
        for path, leaf in _leaves(_keyword_path(keyword, value), value):
            dotted = ".".join(path)
            if path in seen:
                raise ConfigError(f"{dotted}: given twice", hint=f"once as a keyword, once in {path[0]}: leave one out")
            seen.add(path)
            if leaf is None:
                raise ConfigError(f"{dotted}: is None", hint="inside a table, leave a key out that is not given")
            plain = _plain(leaf, dotted)
            if path == ("sinks",) and isinstance(plain, str):
                raise ConfigError(
                    f"sinks: expected a list of names (is {shown_value(plain)})", hint=f'sinks=["{plain}"]'
                )
            yield Setting(path, check_value(field_type(path), plain, dotted), origin, dotted)


def _keyword_path(keyword: str, value: Any) -> tuple[str, ...]:
    if keyword in _OF_RUN:
        return ("run", keyword)
    if keyword == "env" and isinstance(value, str):
        return ("env", "id")
    if keyword in _TABLES and not isinstance(value, Mapping):
        expected = "an id or a dict" if keyword == "env" else "a dict"
        raise ConfigError(
            f"{keyword}: expected {expected} (is {shown_value(value)})", hint=f"for example {_EXAMPLES[keyword]}"
        )
    if keyword not in Settings.__annotations__:
        raise _unknown_keyword(keyword)
    return (keyword,)


_EXAMPLES: Final = {
    "ppo": 'ppo={"target_kl": 0.01}',
    "env": 'env="CartPole-v1", or env={"id": "CartPole-v1", "n_envs": 4}',
    "health": 'health={"kl_critical": 0.05}',
    "run": 'run={"dir": "runs"}',
    "otel": 'otel={"events": "log"}',
    "delivery": 'delivery={"NAME": {"queue_size": 64}}',
    "sink": 'sink={"NAME": {"option": 1}}',
}


def _unknown_keyword(keyword: str) -> ConfigError:
    home = known_keys().get(keyword)
    if home is not None:
        table = home.partition(".")[0]
        return ConfigError(f'{keyword}: unknown keyword "{keyword}"', hint=f'write {table}={{"{keyword}": ...}}')
    known = list(Settings.__annotations__)
    guess = nearest(keyword, known)
    hint = None if guess else f"known keywords: {', '.join(known)}"
    return ConfigError(f'{keyword}: unknown keyword "{keyword}"{guess}', hint=hint)


def _leaves(path: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield path and value of every setting within a table; for a value that is no table, the value itself."""
    try:
        inner = strip_annotation(field_type(path))
    except KeyError as error:
        raise unknown_key(error.args[0], f"{'.'.join(error.args[0])}: ") from None
    is_struct = isinstance(inner, type) and issubclass(inner, msgspec.Struct)
    if isinstance(value, Mapping) and (is_struct or get_origin(inner) is dict or inner is Any):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ConfigError(f"{'.'.join(path)}: {key!r} is no key", hint="keys are strings")
            yield from _leaves((*path, key), item)
    else:
        yield path, value


def _plain(value: Any, place: str) -> Any:
    """Convert a value to a type that TOML has: paths become strings, NumPy numbers become Python numbers."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if not isinstance(value, _TOML_TYPES) and hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return value.item()
    if isinstance(value, float) and type(value) is not float:
        return float(value)  # numpy.float64 is a float, but prints as something else
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{place}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, _TOML_TYPES):
        return value
    raise ConfigError(
        f"{place}: {shown_value(value)} cannot stand in the run's config.toml",
        hint="give numbers, strings, lists and dicts; register an environment of your own under an id for the rest",
    )
