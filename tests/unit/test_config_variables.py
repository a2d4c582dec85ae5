"""Which environment variables set a key, which are refused, and which are only named."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from esper_core.config.layers import load_config
from esper_core.config.schema import EsperConfig
from esper_core.config.variables import stray_variables, variable_path
from esper_core.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("ESPER_PPO__TARGET_KL", ("ppo", "target_kl")),
        ("ESPER_SINKS", ("sinks",)),
        ("ESPER_PRESET", ("preset",)),
        ("ESPER_SINK__OTLP__ENDPOINT", ("sink", "otlp", "endpoint")),
        ("ESPER_DEBUG", None),
        ("ESPER_HOME", None),
        ("HOME", None),
        ("ESPER_SINK__OTLP__HEADERS__X_Tenant", ("sink", "otlp", "headers", "X_Tenant")),
        ("ESPER_DELIVERY__MySink__Queue_Size", ("delivery", "MySink", "queue_size")),
        ("ESPER_SINK__MySink__apiToken", ("sink", "MySink", "apiToken")),
        ("ESPER_ENV__KWARGS__RENDER_MODE", ("env", "kwargs", "render_mode")),
        ("ESPER_ENV__KWARGS__renderMode", ("env", "kwargs", "renderMode")),
        ("ESPER_Ppo__Target_KL", ("ppo", "target_kl")),
    ],
)
def test_a_variable_is_the_path_of_its_key(name: str, path: tuple[str, ...] | None) -> None:
    assert variable_path(name) == path
    assert stray_variables({name: "x"}) == ()


@pytest.mark.parametrize(
    ("variable", "layers"),
    [
        ("ESPER_SINK__MYSINK__URL", {"env": {"ESPER_SINKS": "console,./my_sink.py:MySink"}}),
        ("ESPER_SINK__MYSINK__URL", {"add_sinks": ["./my_sink.py:MySink"]}),
        ("ESPER_SINK__mysink__url", {"sets": ["sinks=['./my_sink.py:MySink']"]}),
        ("ESPER_SINK__MYSINK__URL", {"sets": ["sink.MySink.other=1"]}),
        ("ESPER_SINK__MySink__URL", {}),
    ],
)
def test_a_variable_reaches_a_sink_whose_name_has_capitals(variable: str, layers: dict[str, Any]) -> None:
    env = {**layers.pop("env", {}), variable: "x"}
    resolved = load_config(no_file=True, env=env, **layers)
    assert resolved.config.sink["MySink"]["url"] == "x"
    assert resolved.origins["sink.MySink.url"] == variable


def test_two_sinks_of_one_name_in_other_letters_are_not_guessed_between() -> None:
    sets = ["sink.MySink.a=1", "sink.MYSINK.a=1"]
    resolved = load_config(no_file=True, env={"ESPER_SINK__MYSINK__URL": "x"}, sets=sets)
    assert resolved.config.sink == {"MySink": {"a": 1}, "MYSINK": {"a": 1}, "mysink": {"url": "x"}}


def test_a_sink_from_a_file_is_left_out_by_its_class() -> None:
    selected = {"ESPER_SINKS": "console,journal,./my_sink.py:MySink"}
    resolved = load_config(no_file=True, env=selected, drop_sinks=["MySink"])
    assert resolved.config.sinks == EsperConfig().sinks


@pytest.mark.parametrize(
    ("kwargs", "given", "left"),
    [
        ({"password": "***"}, [], None),
        ({"url": "https://***@host/a?***"}, [], None),
        ({"server": {"password": "***", "port": 1}}, ["env.kwargs.port=1"], None),
        ({"hosts": ["http://***@a"]}, [], None),
        ({"password": "***", "size": 3}, ["env.kwargs.password=x"], {"password": "x", "size": 3}),
        (
            {"server": {"password": "***", "port": 1}},
            ["env.kwargs.server.password=x"],
            {"server": {"password": "x", "port": 1}},
        ),
    ],
)
def test_a_run_whose_environment_had_a_secret_asks_for_it(
    kwargs: dict[str, Any], given: list[str], left: dict[str, Any] | None
) -> None:
    """The run's file holds a mask in its place; with a default password the environment would be another one."""
    base = {"preset": "none", "env": {"id": "CartPole-v1", "kwargs": kwargs}}
    if left is not None:
        resolved = load_config(no_file=True, base=base, base_label="config.toml", sets=given)
        assert resolved.config.env.kwargs == left
        return
    with pytest.raises(ConfigError, match=r"^config\.toml: env\.kwargs\.[a-z.]+ was a secret") as caught:
        load_config(no_file=True, base=base, base_label="config.toml", sets=given)
    assert "--set env.kwargs." in str(caught.value)
    assert "ESPER_ENV__KWARGS__" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("ESPER_TARGET_KL", "ESPER_PPO__TARGET_KL"),
        ("ESPER_PPO_TARGET_KL", "ESPER_PPO__TARGET_KL"),
        ("ESPER_RUN_SEED", "ESPER_RUN__SEED"),
        ("ESPER_LR", "ESPER_PPO__LEARNING_RATE"),
        ("ESPER_SINK", "ESPER_SINKS"),
    ],
)
def test_another_spelling_is_refused_with_the_right_one(name: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f'{name}: no such variable, did you mean "{meant}"'):
        load_config(no_file=True, env={name: "1"})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ESPER_PPO_TARGT_KL", 'did you mean "ESPER_PPO__TARGET_KL"?'),
        ("esper_ppo__target_kl", 'did you mean "ESPER_PPO__TARGET_KL"?'),
        ("ESPR_PPO__TARGET_KL", 'did you mean "ESPER_PPO__TARGET_KL"?'),
        ("ESPER_PPO_WARP", "two underscores after its table"),
        ("ESPER_SINK_JOURNAL_COMPRESS", "ESPER_SINK__NAME__KEY"),
        ("ESPER_DEBUGG", "ESPER_DEBUG"),
    ],
)
def test_what_only_looks_like_a_variable_is_named_and_sets_nothing(name: str, said: str) -> None:
    resolved = load_config(no_file=True, env={name: "7"})
    (notice,) = resolved.notices
    assert notice.startswith(f"{name} sets nothing: ")
    assert said in notice
    assert "env" not in resolved.origins


def test_a_call_of_train_warns_of_it(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    esper_core = pytest.importorskip("esper_core.training")
    monkeypatch.chdir(tmp_path_factory.mktemp("here"))
    monkeypatch.setenv("ESPER_PPO_TARGT_KL", "1")
    small = {"rollout_steps": 8, "hidden": [4], "epochs": 1}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        esper_core.train(env={"id": "CartPole-v1", "n_envs": 1}, updates=1, sinks=[], preset="none", ppo=small)
    assert [str(w.message) for w in caught] == ['ESPER_PPO_TARGT_KL sets nothing: did you mean "ESPER_PPO__TARGET_KL"?']
