"""Any tree of settings either loads, and then every value is one that can work, or fails with its file and key."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_core.config.layers import Resolved, load_config
from esper_core.config.schema import EsperConfig, to_builtins
from esper_core.config.show import config_toml, dump_toml
from esper_core.errors import ConfigError, EsperError

TABLES: dict[str, list[str]] = {
    name: list(type(getattr(EsperConfig(), name)).__struct_fields__) for name in ("ppo", "health", "env", "run", "otel")
}
KEYS = [f"{table}.{key}" for table, keys in TABLES.items() for key in keys]
NUMBERS = st.one_of(
    st.integers(-3, 300),
    st.integers(-(10**30), 10**30),
    st.sampled_from([2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**400]),
    st.floats(),
    st.sampled_from([1e-300, 1e300, 1e6, 1e6 + 1]),
)
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.sampled_from(["cpu", "none", "joint", "k3", "console", "\x1b[2J", "a\0b", "./x.py:Y", "CartPole-v1", "/"]),
)
LEAVES = st.one_of(NUMBERS, TEXTS, st.booleans(), st.dates(), st.times())
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3))


@st.composite
def trees(draw: st.DrawFn) -> dict[str, Any]:
    """Tables whose names and keys are mostly the schema's."""
    tree: dict[str, Any] = {}
    for name in draw(st.lists(st.sampled_from([*TABLES, "sink", "delivery", "sinks", "preset", "x"]), max_size=3)):
        if name in TABLES:
            keys = st.sampled_from(TABLES[name]) | TEXTS
            tree[name] = draw(st.dictionaries(keys, VALUES, max_size=3) | VALUES)
        else:
            tree[name] = draw(VALUES)
    return tree


def shown(value: object) -> str:
    """The value as text; Python writes no integer of thousands of digits."""
    try:
        return str(value)
    except ValueError:
        return "9" * 9999


def numbers(value: object) -> list[float]:
    if isinstance(value, dict):
        return [number for item in value.values() for number in numbers(item)]
    if isinstance(value, list | tuple):
        return [number for item in value for number in numbers(item)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


def outcome(**arguments: Any) -> tuple[Resolved | None, EsperError | None]:
    """What loads, or the error; any other exception is the test's failure."""
    try:
        return load_config(**arguments), None
    except EsperError as error:
        return None, error


@settings(max_examples=300, deadline=None)
@given(trees())
def test_any_file_loads_or_fails_with_its_name_and_key(tree: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "esper.toml")
        file.write_text(dump_toml(tree), encoding="utf-8")
        resolved, error = outcome(file=file, cwd=Path(folder))
    if resolved is None:
        assert isinstance(error, ConfigError)
        assert "esper.toml" in error.message
        assert any(name in error.message for name in tree) or "cannot be read" in error.message
        return
    core = {name: value for name, value in to_builtins(resolved.config).items() if name in TABLES}
    core["env"].pop("kwargs")  # the environment's own
    assert all(math.isfinite(number) and -(2**63) <= number < 2**64 for number in numbers(core))
    assert config_toml(resolved)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(KEYS), st.text(max_size=12) | VALUES)
def test_any_text_for_a_key_loads_or_fails_with_the_key(path: str, value: object) -> None:
    _, error = outcome(no_file=True, sets=[f"{path}={shown(value)}"], env={})
    assert error is None or path.partition(".")[2] in error.message


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(KEYS), VALUES | st.binary(max_size=3) | st.none())
def test_any_keyword_loads_or_fails_with_the_key(path: str, value: object) -> None:
    table, _, key = path.partition(".")
    _, error = outcome(no_file=True, keywords={table: {key: value}})
    assert error is None or path in error.message


@pytest.mark.parametrize("size", [62, 20_000])
def test_a_number_of_any_length_is_shown_in_a_readable_one(size: int) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(no_file=True, keywords={"ppo": {"epochs": 10**size}})
    assert len(caught.value.message) < 150
