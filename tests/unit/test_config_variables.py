"""Which environment variables set a key, which are refused, and which are only named."""

from __future__ import annotations

import warnings

import pytest

from esper_core.config.layers import load_config
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
    ],
)
def test_a_variable_is_the_path_of_its_key(name: str, path: tuple[str, ...] | None) -> None:
    assert variable_path(name) == path
    assert stray_variables({name: "x"}) == ()


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
