"""The configuration as keywords: the typed tables are the schema's, values are checked, errors name the key."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

import pytest

from esper_core.config import keywords
from esper_core.config._check import strip_annotation
from esper_core.config.keywords import Settings
from esper_core.config.layers import Resolved, load_config
from esper_core.config.schema import DeliveryConfig, EnvConfig, EsperConfig, OtelConfig, PPOConfig, RunConfig
from esper_core.config.show import config_toml
from esper_core.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

TABLES = [
    (keywords.PPOTable, PPOConfig),
    (keywords.EnvTable, EnvConfig),
    (keywords.RunTable, RunConfig),
    (keywords.OtelTable, OtelConfig),
    (keywords.DeliveryTable, DeliveryConfig),
]


def _loose(hint: Any) -> Any:
    """What a call may give where a file gives this: any sequence, any mapping, a path for a folder."""
    inner = strip_annotation(hint)
    if get_origin(inner) is tuple:
        return Sequence[strip_annotation(get_args(inner)[0])]  # type: ignore[misc]  # a type made at run time
    if get_origin(inner) is dict:
        return Mapping[get_args(inner)]  # type: ignore[misc]  # as above
    return inner


@pytest.mark.parametrize(("table", "struct"), TABLES, ids=lambda item: item.__name__)
def test_a_typed_table_is_the_schemas(table: type, struct: type) -> None:
    typed = get_type_hints(table)
    declared = {name: _loose(hint) for name, hint in get_type_hints(struct, include_extras=True).items()}
    if table is keywords.RunTable:
        declared["dir"] = str | os.PathLike[str]
    assert typed == declared
    assert table.__required_keys__ == frozenset()  # type: ignore[attr-defined]  # a TypedDict's own


def test_every_key_of_the_configuration_can_be_given() -> None:
    assert set(EsperConfig.__struct_fields__) <= set(Settings.__annotations__)
    extra = set(Settings.__annotations__) - set(EsperConfig.__struct_fields__)
    assert extra <= set(RunConfig.__struct_fields__), "short for a key of [run]"


def _resolve(**given: Any) -> Resolved:
    return load_config(no_file=True, keywords=given)


def test_keywords_stand_where_flags_stand(tmp_path: Path) -> None:
    file = tmp_path / "esper.toml"
    file.write_text("[ppo]\ntarget_kl = 0.1\nepochs = 9\ngamma = 0.5\n[run]\nseed = 3\n")
    env = {"ESPER_PPO__EPOCHS": "8", "ESPER_PPO__TARGET_KL": "0.2"}
    resolved = load_config(file=file, env=env, keywords={"ppo": {"target_kl": 0.3}, "seed": None})
    ppo = resolved.config.ppo
    assert (ppo.target_kl, ppo.epochs, ppo.gamma, resolved.config.run.seed) == (0.3, 8, 0.5, 3)
    assert resolved.origin("ppo.target_kl") == "train()"


def test_short_forms_tables_and_a_preset() -> None:
    resolved = _resolve(env="CartPole-v1", updates=7, run={"name": "n"}, delivery={"x": {"queue_size": 4}})
    config = resolved.config
    assert (config.env.id, config.preset, config.run.updates, config.run.steps) == ("CartPole-v1", "cartpole", 7, 0)
    assert (config.run.name, config.delivery["x"].queue_size) == ("n", 4)
    assert _resolve(env={"id": "CartPole-v1", "n_envs": 2}).config.env.n_envs == 2
    assert _resolve(sinks=[], sink={"x": {"a": {"b": 1}}}).config.sink == {"x": {"a": {"b": 1}}}


def test_paths_and_numbers_of_numpy_become_what_a_file_can_hold(tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")
    resolved = _resolve(
        run={"dir": tmp_path},
        updates=np.int64(3),
        ppo={"target_kl": np.float64(0.01), "learning_rate": np.float32(0.5), "hidden": (np.int32(8), 8)},
        env={"id": "X", "kwargs": {"scale": np.float64(2.0), "shape": (1, 2)}},
    )
    config = resolved.config
    assert (config.run.dir, config.run.updates, config.ppo.hidden) == (str(tmp_path), 3, (8, 8))
    again = load_config(file=_written(tmp_path, config_toml(resolved)))
    assert again.config == config


def _written(folder: Path, text: str) -> Path:
    file = folder / "esper.toml"
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ppo": {"target_kll": 1}}, 'ppo.target_kll: unknown key "target_kll", did you mean "target_kl"?'),
        ({"ppo": {"n_envs": 1}}, 'ppo.n_envs: unknown key "n_envs"\n  n_envs belongs in [env]'),
        ({"updatess": 3}, 'updatess: unknown keyword "updatess", did you mean "updates"?'),
        ({"target_kl": 1}, 'target_kl: unknown keyword "target_kl"\n  write ppo={"target_kl": ...}'),
        ({"ppo": {"learning_rate": -1}}, "ppo.learning_rate: expected float > 0.0 (is -1)"),
        (
            {"ppo": {"stop_on": "both"}},
            "ppo.stop_on: invalid enum value 'both' (is 'both')\n  choices: weighted, joint",
        ),
        ({"otel": {"semconv": ["x"]}}, "otel.semconv: invalid enum value 'x' (is ['x'])\n  choices: esper, rl"),
        ({"env": 7}, "env: expected an id or a dict (is 7)"),
        ({"env": ""}, "env.id: is empty"),
        ({"run": {"dir": ""}}, "run.dir: is empty"),
        ({"run": {"updates": None}}, "run.updates: is None\n  inside a table, leave a key out"),
        ({"updates": "x"}, "run.updates: expected int, got str (is 'x')"),
        ({"updates": 3, "run": {"updates": 4}}, "run.updates: given twice\n  once as a keyword, once in run"),
        ({"ppo": 3}, 'ppo: expected a dict (is 3)\n  for example ppo={"target_kl": 0.01}'),
        ({"env": {"kwargs": {"make": len}}}, "env.kwargs.make: <built-in function len> cannot stand in the run's"),
        ({"sinks": "journal"}, "sinks: expected a list of names (is 'journal')\n  sinks=[\"journal\"]"),
        ({"delivery": {"journal": {"mod": 1}}}, 'delivery.journal.mod: unknown key "mod", did you mean "mode"?'),
        ({"env": {1: 2}}, "env: 1 is no key"),
        ({"preset": "cartpol"}, 'preset: unknown preset "cartpol", did you mean "cartpole"?'),
    ],
)
def test_an_error_names_the_key_and_the_next_step(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _resolve(**given)
    assert str(caught.value).startswith(message)
