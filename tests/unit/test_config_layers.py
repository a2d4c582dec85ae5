"""Configuration: which layer wins, and what an error names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from esper_core.cli.main import main
from esper_core.config.file_layer import find_config_file
from esper_core.config.layers import load_config
from esper_core.config.lower_layers import DEFAULT_STEPS
from esper_core.config.presets import PRESETS, preset_for
from esper_core.errors import EXIT_USAGE, ConfigError


def write(folder: Path, text: str, name: str = "esper.toml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


# --- order ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "hint"),
    [
        ("health.kl_warning", "0", "give a number above 0"),
        ("ppo.epochs", "0", "give a whole number from 1"),
        ("ppo.gamma", "2", "give a number from 0 up to 1"),
        ("ppo.learning_rate", "x", "give a number above 0"),
        ("health.kl_on", "x", "choices: weighted, joint"),
        ("run.eval_deterministic", "maybe", "give true or false"),
    ],
)
def test_a_value_that_cannot_be_is_told_with_those_that_may_stand_there(
    tmp_path: Path, key: str, value: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(no_file=True, sets=[f"{key}={value}"], cwd=tmp_path)
    assert caught.value.hint == hint


@pytest.mark.parametrize("flag", ["--seed", "--episodes", "--steps", "--updates", "--eval-every", "--video"])
def test_a_wrong_number_is_told_with_the_flag_that_was_typed(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ppo", "--no-config", flag, "-1"]) == 64
    assert capsys.readouterr().err.startswith(f"esper: {flag}: expected int >= 0 (is -1)")


def test_each_layer_beats_the_one_below_and_is_named_as_the_origin(tmp_path: Path) -> None:
    write(tmp_path, "[ppo]\nepochs = 2\ngamma = 0.5\nhidden = [8]\nclip_range = 0.1\n")
    resolved = load_config(
        cwd=tmp_path,
        env={"ESPER_PPO__GAMMA": "0.6", "ESPER_PPO__HIDDEN": "16,16", "ESPER_PPO__CLIP_RANGE": "0.15"},
        sets=["ppo.hidden=[32]", "ppo.clip_range=0.2"],
        flags={"ppo.clip_range": 0.25, "run.seed": None},
    )
    ppo = resolved.config.ppo
    assert (ppo.epochs, ppo.gamma, ppo.hidden, ppo.clip_range) == (2, 0.6, (32,), 0.25)
    origins = [resolved.origin(f"ppo.{key}") for key in ("epochs", "gamma", "hidden", "clip_range", "target_kl")]
    assert origins[:4] == ["esper.toml", "ESPER_PPO__GAMMA", "--set", "--clip-range"]
    assert resolved.origin("run.seed") == "default"


def test_a_preset_lies_beneath_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "tiny", {"ppo": {"epochs": 9, "gamma": 0.7}, "run": {"steps": 5}})
    write(tmp_path, 'preset = "tiny"\n[ppo]\ngamma = 0.8\n')
    resolved = load_config(cwd=tmp_path)
    assert (resolved.config.ppo.epochs, resolved.config.ppo.gamma, resolved.config.run.steps) == (9, 0.8, 5)
    assert resolved.origin("ppo.epochs") == "preset tiny"


def test_the_environment_chooses_the_preset_and_none_switches_it_off(tmp_path: Path) -> None:
    chosen = load_config(cwd=tmp_path, flags={"env.id": "CartPole-v1"})
    assert chosen.config.preset == preset_for("CartPole-v1") != ""
    assert chosen.origin("preset") == "for CartPole-v1"
    without = load_config(cwd=tmp_path, flags={"env.id": "CartPole-v1", "preset": "none"})
    assert not any(origin.startswith("preset ") for origin in without.origins.values())


def test_a_limit_of_the_user_is_the_only_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "tiny", {"run": {"steps": 5}})
    run = load_config(cwd=tmp_path, flags={"preset": "tiny", "run.episodes": 20}).config.run
    assert (run.episodes, run.steps, run.updates) == (20, 0, 0)


def test_without_any_limit_a_default_one_holds_and_zero_takes_it_away(tmp_path: Path) -> None:
    resolved = load_config(cwd=tmp_path, flags={"preset": "none"})
    assert resolved.config.run.steps == DEFAULT_STEPS
    assert resolved.origin("run.steps") == "no limit given"
    assert load_config(cwd=tmp_path, flags={"run.steps": 0}).config.run.steps == 0


# --- sinks ----------------------------------------------------------------------------------------


def test_sinks_are_replaced_added_and_taken_away(tmp_path: Path) -> None:
    def sinks(**arguments: object) -> tuple[str, ...]:
        return load_config(cwd=tmp_path, **arguments).config.sinks  # type: ignore[arg-type]

    assert sinks() == ("console", "journal")
    assert sinks(add_sinks=["otlp", "console"]) == ("console", "journal", "otlp")
    assert sinks(drop_sinks=["console"]) == ("journal",)
    assert sinks(flags={"sinks": ["otlp"]}, add_sinks=["./my.py:Mine"]) == ("otlp", "./my.py:Mine")
    assert sinks(env={"ESPER_SINKS": "journal,otlp"}) == ("journal", "otlp")
    assert sinks(env={"ESPER_SINKS": ""}) == ()


def test_taking_away_a_sink_that_is_not_selected_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'--no-sink consol: not selected, did you mean "console"\?'):
        load_config(cwd=tmp_path, drop_sinks=["consol"])


def test_a_sinks_table_may_hold_anything_and_text_becomes_toml_or_a_string(tmp_path: Path) -> None:
    write(tmp_path, '[sink.otlp]\nendpoint = "http://a"\n[sink.otlp.headers]\nx = "1"\n')
    resolved = load_config(
        cwd=tmp_path,
        sets=["sink.otlp.retries=3", "sink.otlp.headers.y=two", 'sink.own={a = 1, b = "c"}'],
        env={"ESPER_SINK__OTLP__ENDPOINT": "http://b"},
    )
    assert resolved.config.sink == {
        "otlp": {"endpoint": "http://b", "headers": {"x": "1", "y": "two"}, "retries": 3},
        "own": {"a": 1, "b": "c"},
    }


# --- values given as text -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("run.name=123", "name", "123"),
        ("run.name=true", "name", "true"),
        ('run.name="a b"', "name", "a b"),
        ("run.name=", "name", ""),
        ("run.keep_going=true", "keep_going", True),
        ("run.close_timeout_s=2", "close_timeout_s", 2.0),
        ("run.steps=1_000", "steps", 1000),
    ],
)
def test_text_takes_the_type_of_its_key(tmp_path: Path, text: str, path: str, value: object) -> None:
    got = getattr(load_config(cwd=tmp_path, sets=[text]).config.run, path)
    assert (got, type(got)) == (value, type(value))


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[ppo]\nlerning_rate = 1", 'esper.toml: [ppo] unknown key "lerning_rate", did you mean "learning_rate"?'),
        ("[pppo]\nepochs = 1", 'esper.toml: unknown table or key "pppo", did you mean "ppo"?'),
        ("target_kl = 1", 'esper.toml: unknown table or key "target_kl"\n  target_kl belongs in [ppo]'),
        ("ppo = 3", "esper.toml: ppo: expected a table (is 3)\n  write [ppo]"),
        ('[ppo]\ntarget_kl = "x"', "esper.toml: [ppo] target_kl: expected float, got str (is 'x')"),
        ("[ppo]\nepochs = 0", "esper.toml: [ppo] epochs: expected int >= 1 (is 0)"),
        ("[ppo]\nhidden = [64, 1.5]", "esper.toml: [ppo] hidden: expected int, got float (is [64, 1.5])"),
        ('[ppo]\nstop_on = "both"', "esper.toml: [ppo] stop_on: invalid enum value 'both' (is 'both')"),
        ("[delivery.otlp]\nmodus = 1", 'esper.toml: [delivery.otlp] unknown key "modus", did you mean "mode"?'),
        ("delivery.otlp = 1", "esper.toml: [delivery] otlp: expected a table (is 1)\n  write [delivery.otlp]"),
        ('sinks = "console"', "esper.toml: sinks: expected array, got str (is 'console')"),
        ('preset = "cartpol"', 'esper.toml: preset: unknown preset "cartpol", did you mean "cartpole"?'),
        ("[ppo]\nepochs = = 1", "esper.toml: malformed TOML: Invalid value (at line 2, column 10)"),
    ],
)
def test_an_error_names_file_table_and_key(tmp_path: Path, text: str, expected: str) -> None:
    write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(cwd=tmp_path)
    assert str(caught.value).removeprefix(f"{tmp_path}/").startswith(expected)
    assert caught.value.exit_code == EXIT_USAGE


def test_a_configuration_file_that_never_ends_is_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.toml"
    os.mkfifo(pipe)
    for path, reason in ((pipe, r"is a FIFO \(named pipe\), not a file"), (Path("/dev/zero"), "is larger than")):
        with pytest.raises(ConfigError, match=f"{path.name}: cannot be read: {reason}"):
            load_config(cwd=tmp_path, file=path)


def test_the_pipe_of_a_shells_process_substitution_is_a_configuration_file(tmp_path: Path) -> None:
    read, write_end = os.pipe()
    os.write(write_end, b"[run]\nseed = 7")
    os.close(write_end)
    try:
        assert load_config(cwd=tmp_path, file=Path(f"/dev/fd/{read}")).config.run.seed == 7
    finally:
        os.close(read)


def test_a_sink_both_added_and_left_out_is_a_contradiction(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--sink journal and --no-sink journal contradict each other"):
        load_config(cwd=tmp_path, add_sinks=["journal"], drop_sinks=["journal"])


def test_a_sink_that_the_list_names_and_that_is_left_out_is_a_contradiction(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--sinks console and --no-sink console contradict each other"):
        load_config(cwd=tmp_path, flags={"sinks": ["console"]}, drop_sinks=["console"])
    write(tmp_path, 'sinks = ["console"]')
    assert load_config(cwd=tmp_path, drop_sinks=["console"]).config.sinks == (), "the file's list is shortened"


def test_an_error_in_pyproject_names_its_table(tmp_path: Path) -> None:
    write(tmp_path, "[tool.esper.ppo]\nlerning_rate = 1", "pyproject.toml")
    with pytest.raises(ConfigError, match=r'^pyproject.toml: \[tool.esper.ppo\] unknown key "lerning_rate", did you'):
        load_config(cwd=tmp_path)


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"ESPER_PPO__TARGT_KL": "1"}, 'ESPER_PPO__TARGT_KL: unknown key "targt_kl", did you mean "target_kl"?'),
        ({"ESPER_PPO__TARGET_KL": "low"}, "ESPER_PPO__TARGET_KL: expected float, got str (is 'low')"),
        ({"ESPER_TARGET_KL": "1"}, 'ESPER_TARGET_KL: no such variable, did you mean "ESPER_PPO__TARGET_KL"?'),
        ({"ESPER_SINK": "x"}, 'ESPER_SINK: no such variable, did you mean "ESPER_SINKS"?'),
    ],
)
def test_an_error_names_the_variable(tmp_path: Path, env: dict[str, str], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(cwd=tmp_path, env=env)
    assert str(caught.value).startswith(expected)


def test_variables_of_others_are_left_alone(tmp_path: Path) -> None:
    assert (
        load_config(cwd=tmp_path, env={"ESPER_DEBUG": "1", "ESPER_HOME": "/x", "PPO__EPOCHS": "2"}).config is not None
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ppo.target_kl", "--set ppo.target_kl: expected KEY=VALUE\n  for example --set ppo.target_kl=0.01"),
        ("=3", "--set ...: expected KEY=VALUE"),
        ("ppo=3", "--set ppo: is a table\n  set one key of it: ppo.KEY"),
        ("ppo.epochs.x=3", '--set ppo.epochs.x: unknown key "x"\n  [ppo.epochs] is a single value, not a table'),
        ("ppo.epochs=many", "--set ppo.epochs: expected int, got str (is 'many')"),
    ],
)
def test_an_error_names_the_set_option(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(cwd=tmp_path, sets=[text])
    assert str(caught.value).startswith(expected)


def test_one_key_cannot_be_value_and_table(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--set sink\.otlp\.a\.b: sink.otlp.a is set as a single value elsewhere"):
        load_config(cwd=tmp_path, sets=["sink.otlp.a=1", "sink.otlp.a.b=2"])
    with pytest.raises(ConfigError, match=r"--set sink\.otlp\.a: is a table elsewhere"):
        load_config(cwd=tmp_path, sets=["sink.otlp.a.b=2", "sink.otlp.a=1"])


def test_a_file_that_is_named_must_be_readable(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml: cannot be read: No such file"):
        load_config(file=tmp_path / "absent.toml")
    (tmp_path / "latin.toml").write_bytes(b'preset = "\xff"')
    with pytest.raises(ConfigError, match=r"latin\.toml: not UTF-8"):
        load_config(file=tmp_path / "latin.toml")


# --- which file -----------------------------------------------------------------------------------


def test_the_nearest_file_of_the_repository_is_found(tmp_path: Path) -> None:
    outer = write(tmp_path, "[ppo]\nepochs = 2\n")
    repository = tmp_path / "repo"
    deep = repository / "a" / "b"
    deep.mkdir(parents=True)
    assert find_config_file(deep) is None
    subprocess.run(["git", "init", "-q", str(repository)], check=True)
    assert find_config_file(deep) is None
    shared = write(repository, "[tool.esper.ppo]\nepochs = 3\n", "pyproject.toml")
    write(repository / "a", "[project]\nname = 'x'\n", "pyproject.toml")
    assert find_config_file(deep) == shared.resolve()
    own = write(repository, "[ppo]\nepochs = 4\n")
    assert find_config_file(deep) == own.resolve()
    assert find_config_file(tmp_path) == outer.resolve()
    assert load_config(cwd=deep).config.ppo.epochs == 4
    assert load_config(cwd=deep, no_file=True).file is None


def test_paths_in_a_parents_file_are_relative_to_that_file(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    write(tmp_path, 'sinks = ["./mine.py:Mine", "journal"]\n[run]\ndir = "out"\n')
    deep = tmp_path / "deep"
    deep.mkdir()
    below = load_config(cwd=deep).config
    assert (below.run.dir, below.sinks) == (f"{tmp_path}/out", (f"{tmp_path}/mine.py:Mine", "journal"))
    beside = load_config(cwd=tmp_path).config
    assert (beside.run.dir, beside.sinks[0]) == ("out", "./mine.py:Mine")


def test_threads_may_read_the_first_configuration_at_once() -> None:
    code = """
import sys, threading
from esper_core.config.layers import load_config

sys.setswitchinterval(1e-6)
start = threading.Barrier(8)

def load():
    start.wait()
    load_config(no_file=True, keywords={})

threads = [threading.Thread(target=load) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""
    for _ in range(10):  # without the priming one process in five ended with SIGSEGV
        subprocess.run([sys.executable, "-c", code], check=True, timeout=250)


def test_a_whole_number_may_be_written_as_1e6_everywhere(tmp_path: Path) -> None:
    (tmp_path / "esper.toml").write_text("[run]\nsteps = 1e6\n")
    for resolved in (
        load_config(cwd=tmp_path),
        load_config(cwd=tmp_path, no_file=True, sets=["run.steps=1e6"]),
        load_config(cwd=tmp_path, no_file=True, env={"ESPER_RUN__STEPS": "1e6"}),
        load_config(cwd=tmp_path, no_file=True, keywords={"steps": 1e6}),
    ):
        assert resolved.config.run.steps == 10**6
        assert type(resolved.config.run.steps) is int
    with pytest.raises(ConfigError, match="expected"):
        load_config(cwd=tmp_path, no_file=True, sets=["run.steps=1.5"])
