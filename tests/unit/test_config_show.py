"""The configuration as text: it reads back as it was, and it holds no secret."""

from __future__ import annotations

import json
import tomllib
from typing import TYPE_CHECKING

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from esper_core.config.layers import load_config
from esper_core.config.schema import EsperConfig, to_builtins
from esper_core.config.show import config_lines, config_toml, dump_toml
from esper_core.hooks import Secret  # noqa: TC001  # msgspec reads the annotation at run time
from esper_core.host.load.secrets import secret_fields
from esper_core.masking import MASK

if TYPE_CHECKING:
    from pathlib import Path

CANARY = "canary-9f2c"

_keys = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=0, max_size=6)
_scalars = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8"), max_size=8)
    | st.dates()
    | st.datetimes()
)
_tables = st.recursive(
    _scalars | st.lists(_scalars, max_size=3),
    lambda inner: st.dictionaries(_keys, inner, max_size=3) | st.lists(inner, max_size=2),
    max_leaves=8,
)


@given(st.dictionaries(_keys, _tables, max_size=4))
def test_toml_reads_back_as_it_was(tree: dict[str, object]) -> None:
    assert tomllib.loads(dump_toml(tree)) == tree


def test_the_resolved_configuration_reads_back_as_it_was(tmp_path: Path) -> None:
    first = load_config(cwd=tmp_path, sets=["ppo.hidden=[8]", "sink.otlp.endpoint=http://a", "env.kwargs.size=3"])
    (tmp_path / "config.toml").write_text(config_toml(first), encoding="utf-8")
    again = load_config(file=tmp_path / "config.toml", cwd=tmp_path)
    assert again.config == first.config


def test_every_value_has_its_origin(tmp_path: Path) -> None:
    resolved = load_config(cwd=tmp_path, sets=["ppo.target_kl=0.01"], env={"ESPER_SINK__OTLP__ENDPOINT": "http://a"})
    lines = {line.path: line for line in config_lines(resolved)}
    assert (lines["ppo.target_kl"].toml, lines["ppo.target_kl"].origin) == ("0.01", "--set")
    assert lines["sink.otlp.endpoint"].origin == "ESPER_SINK__OTLP__ENDPOINT"
    assert lines["ppo.gamma"].origin == "default" or lines["ppo.gamma"].origin.startswith("preset")
    plain = to_builtins(EsperConfig())
    known = {f"{table}.{key}" for table in ("ppo", "run", "otel") for key in plain[table]}
    assert known <= set(lines)


def test_secrets_of_a_known_config_are_masked_whatever_their_name(tmp_path: Path) -> None:
    class SinkConfig(msgspec.Struct):
        endpoint: str = ""
        door: Secret | None = None
        windows: dict[str, Secret] = {}
        keyboard: str = ""

    assert secret_fields(SinkConfig) == {"door", "windows"}
    sets = [f"sink.own.door={CANARY}", f"sink.own.windows.a={CANARY}", "sink.own.keyboard=qwerty"]
    resolved = load_config(cwd=tmp_path, sets=sets)
    text = config_toml(resolved, {"own": secret_fields(SinkConfig)})
    assert CANARY not in text
    assert f'door = "{MASK}"' in text
    assert 'keyboard = "qwerty"' in text


def test_in_a_table_nobody_knows_what_looks_like_a_secret_is_masked(tmp_path: Path) -> None:
    names = ("token", "api_key", "PASSWORD", "client_secret", "headers", "authorization", "db_dsn")
    sets = [f"sink.unknown.{name}={CANARY}" for name in names]
    sets += [f"sink.unknown.deep.token={CANARY}", f"env.kwargs.password={CANARY}", f"sink.h.headers={{x = '{CANARY}'}}"]
    sets += [f"sink.unknown.endpoint=https://me:{CANARY}@host/path", "sink.unknown.colour=blue"]
    resolved = load_config(cwd=tmp_path, sets=sets)
    text = config_toml(resolved)
    assert CANARY not in text
    assert 'colour = "blue"' in text
    assert 'endpoint = "https://***@host/path"' in text
    shown = json.dumps([(line.path, line.value, line.toml) for line in config_lines(resolved)])
    assert CANARY not in shown
