"""The command line itself: what it costs, which command it finds, and how errors read."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from esper_core.cli._command import CORE_COMMANDS, Command, load_core
from esper_core.cli._parser import EsperParser, whole_number
from esper_core.cli._words import limits_text, next_commands, program, start_lines, stop_text
from esper_core.cli.main import main
from esper_core.config.layers import load_config
from esper_core.config.schema import PPOConfig, RunConfig
from esper_core.errors import EXIT_FAILED, EXIT_OK, EXIT_SIGNAL, EXIT_USAGE, EsperError, UsageError
from esper_core.events import HeadStats
from esper_core.health import KLLimits
from esper_core.installed import Installed
from esper_core.testing import make_heads, make_update
from esper_core.version import __version__

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from esper_core.ppo.task import Task

HEAVY = ("torch", "textual", "opentelemetry.sdk", "numpy", "gymnasium", "rich")
ROOT = Path(__file__).parents[2]


def imports(words: list[str], cwd: Path) -> set[str]:
    """The heavy packages that a command has imported by its end, in a process of its own."""
    code = f"""
import sys
from esper_core.cli.main import main
code = main({words!r})
print(code, *[name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=cwd, capture_output=True, text=True, timeout=250, check=True
    )
    code_text, *names = done.stderr.split()
    assert code_text == "0", done.stderr
    return set(names)


@pytest.fixture
def plugin_command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Command], None]:
    """Make one installed plugin command be there."""
    from esper_core.host.load import discovery

    def install(command: Command) -> None:
        found = Installed(name=command.name, distribution="esper-sink-x", version="1", value="x:command")
        monkeypatch.setattr(discovery, "installed_commands", lambda: {command.name: found})
        monkeypatch.setattr(discovery, "load_command", lambda _: command)

    return install


class Speaking:
    """A plugin's command that does what it is told."""

    name = "speak"
    help = "say a word"

    def __init__(self, act: Callable[[argparse.Namespace], int]) -> None:
        self._act = act

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--word", default="hello")
        parser.add_argument("rest", nargs="*")

    def run(self, args: argparse.Namespace) -> int:
        return self._act(args)


# --- what it costs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["--help"], ["ppo", "--help"], ["config", "show"]])
def test_asking_imports_nothing_heavy(words: list[str], tmp_path: Path) -> None:
    found = imports(words, tmp_path)
    assert found == set()


def test_help_lists_every_command_and_imports_none(tmp_path: Path) -> None:
    code = """
import sys
from esper_core.cli.main import main
main(["--help"])
print([name for name in sys.modules if name.startswith("esper_core.cli.")], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "['esper_core.cli._command', 'esper_core.cli._output', 'esper_core.cli.main']"
    for name, entry in CORE_COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(entry.help)}$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("name", CORE_COMMANDS)
def test_the_table_says_what_the_command_says_of_itself(name: str) -> None:
    command = load_core(name)
    assert isinstance(command, Command)
    assert (command.name, command.help) == (name, CORE_COMMANDS[name].help)
    parser = EsperParser(prog=f"esper {name}")
    command.add_arguments(parser)
    assert parser.format_help()


def test_python_m_esper_core_equals_esper(tmp_path: Path) -> None:
    beside = Path(sys.executable).with_name("esper")
    one = subprocess.run([beside, "--version"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    other = subprocess.run(
        [sys.executable, "-m", "esper_core", "--version"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert one == other == f"esper {__version__}\n"


# --- finding a command --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["pppo"], 'unknown command "pppo", did you mean "ppo"?'),
        (["--versoin"], 'unknown option --versoin, did you mean "--version"?'),
        (["ppo", "--episods", "3"], 'ppo: unknown option --episods, did you mean "--episodes"?'),
        (["ppo", "20"], "ppo: unknown argument 20"),
        (["ppo", "--ep", "3"], "ppo: unknown option --ep"),
        (["ppo", "--seed"], "ppo: argument --seed: expected one argument"),
        (["config"], "config: which part?"),
        (["config", "shwo"], "config: argument"),
        (["config", "show", "--tmol"], 'config: unknown option --tmol, did you mean "--toml"?'),
    ],
)
def test_wrong_use_names_the_nearest_and_exits_with_64(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == EXIT_USAGE
    error = capsys.readouterr().err
    assert error.startswith(f"esper: {expected}")
    assert len(error.splitlines()) <= 2


def test_help_of_a_command_in_both_forms(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "config"]) == EXIT_OK
    one = capsys.readouterr().out
    assert main(["config", "--help"]) == EXIT_OK
    assert capsys.readouterr().out == one
    assert "usage: esper config" in one


def test_an_absent_plugin_is_named_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from esper_core.host.load import discovery

    monkeypatch.setattr(discovery, "installed_commands", dict)
    assert main(["sanctum"]) == EXIT_USAGE
    assert "pip install 'esper-core[sanctum]'" in capsys.readouterr().err


def test_a_plugins_command_is_found_run_and_listed(
    plugin_command: Callable[[Command], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def say(args: argparse.Namespace) -> int:
        print(args.word, args.rest, args.words)
        return 7

    plugin_command(Speaking(say))
    assert main(["speak", "--word", "hi", "--", "--debug"]) == 7
    assert capsys.readouterr().out == "hi ['--debug'] ['speak', '--word', 'hi', '--', '--debug']\n"
    assert main(["--help"]) == EXIT_OK
    assert re.search(r"^  speak .*\(esper-sink-x\)$", capsys.readouterr().out, re.MULTILINE)


# --- errors and endings -------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _own_interrupt() -> Iterator[None]:
    """An interrupted command gives Ctrl-C back to the system; the test runner wants its own again."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def _raise(error: BaseException) -> Callable[[argparse.Namespace], int]:
    def act(_: argparse.Namespace) -> int:
        raise error

    return act


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (UsageError("this is wrong", hint="do that"), EXIT_USAGE, "esper: this is wrong\n  do that\n"),
        (EsperError("it failed"), EXIT_FAILED, "esper: it failed\n"),
        (KeyboardInterrupt(), EXIT_SIGNAL + 2, ""),
        (KeyError("x"), EXIT_FAILED, "esper: KeyError: 'x'\n  in "),
        (SystemExit(3), EXIT_FAILED, "esper: exit(3) was called\n  in "),
    ],
)
def test_an_error_is_words_and_a_code(
    plugin_command: Callable[[Command], None],
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    text: str,
) -> None:
    plugin_command(Speaking(_raise(error)))
    assert main(["speak"]) == code
    said = capsys.readouterr().err
    if text.endswith("in "):  # an error that is none of ours names the line it comes from
        assert said.startswith(text + __file__)
        assert "act(); --debug shows the way there" in said
    else:
        assert said == text


@pytest.mark.parametrize("how", ["flag before", "flag behind", "variable"])
def test_debug_shows_the_traceback(
    plugin_command: Callable[[Command], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    how: str,
) -> None:
    plugin_command(Speaking(_raise(UsageError("this is wrong"))))
    words = {"flag before": ["--debug", "speak"], "flag behind": ["speak", "--debug"]}.get(how, ["speak"])
    monkeypatch.setenv("ESPER_DEBUG", "1" if how == "variable" else "0")
    assert main(words) == EXIT_USAGE
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert said.endswith("esper: this is wrong\n")


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    code = "import sys; from esper_core.cli.main import main; sys.exit(main(['config', 'show']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    error = process.stderr.read()
    process.stderr.close()
    assert process.wait(250) == EXIT_SIGNAL + 13
    assert error == b""


DRIFT = Path(__file__).resolve().parents[2] / "docs" / "examples" / "runs" / "drift"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
@pytest.mark.parametrize("buffered", ["", "1"])
@pytest.mark.parametrize(("where", "why"), [(">&-", "Bad file descriptor"), (">/dev/full", "No space left on device")])
@pytest.mark.parametrize(
    "words",
    ["--version", f"runs --dir {DRIFT.parent}", f"replay {DRIFT}", f"export {DRIFT}", f"sanctum {DRIFT} --once"],
)
def test_an_output_that_cannot_be_written_is_one_sentence(
    words: str, where: str, why: str, buffered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if words.startswith("sanctum"):
        pytest.importorskip("esper_sink_tui")
    monkeypatch.setenv("PYTHONUNBUFFERED", buffered)
    done = subprocess.run(
        ["sh", "-c", f"'{sys.executable}' -m esper_core {words} {where}"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, f"esper: cannot write the output: {why}\n")


# --- esper config -------------------------------------------------------------------------------------


def test_config_show_prints_values_with_origins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "esper.toml").write_text('[ppo]\nepochs = 7\n[sink.otlp]\napi_token = "canary"\n')
    monkeypatch.setenv("ESPER_PPO__GAMMA", "0.5")
    assert main(["config", "show", "--changed", "--set", "run.seed=3", "--no-sink", "console"]) == EXIT_OK
    shown = capsys.readouterr().out
    for line in (
        r'sinks = \["journal"\] +\(--no-sink\)',
        r"ppo.epochs = 7 +\(esper.toml\)",
        r"ppo.gamma = 0.5 +\(ESPER_PPO__GAMMA\)",
        r"run.seed = 3 +\(--set\)",
        r'sink.otlp.api_token = "\*\*\*" +\(esper.toml\)',
    ):
        assert re.search(f"^{line}$", shown, re.MULTILINE), line
    assert "canary" not in shown
    assert "default" not in shown
    assert main(["config", "show", "--json"]) == EXIT_OK
    assert json.loads(capsys.readouterr().out)["ppo.epochs"] == {"value": 7, "origin": "esper.toml"}
    assert main(["config", "path"]) == EXIT_OK
    assert capsys.readouterr().out == f"{tmp_path}/esper.toml\n"


def test_config_show_toml_can_be_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["config", "show", "--toml", "--set", "ppo.epochs=7"]) == EXIT_OK
    (tmp_path / "esper.toml").write_text(capsys.readouterr().out)
    assert main(["config", "show", "--json"]) == EXIT_OK
    assert json.loads(capsys.readouterr().out)["ppo.epochs"] == {"value": 7, "origin": "esper.toml"}


# --- words --------------------------------------------------------------------------------------------


def test_the_stop_is_told_as_both_kls() -> None:
    assert stop_text(PPOConfig(target_kl=0.02), 1).startswith("early stop: KL above 0.03 nats")
    five = stop_text(PPOConfig(target_kl=0.02), 5)
    assert "KL above 0.03 nats a decision" in five
    assert "as a joint KL 0.15 with all 5 heads active" in five
    assert "as a joint KL 0.06 with 2.0 of 5 heads usually active" in stop_text(PPOConfig(target_kl=0.02), 5, 2.0)
    joint = stop_text(PPOConfig(target_kl=0.02, stop_on="joint"), 5, 2.0)
    assert "joint KL above 0.03 nats a step" in joint
    assert "0.015 a decision" in joint
    assert stop_text(PPOConfig(target_kl=0), 5) == "early stop: off (target_kl = 0)"


@pytest.mark.parametrize("on", ["weighted", "joint"])
def test_heads_with_one_choice_do_not_count_in_the_lines_of_the_start(tmp_path: Path, on: str) -> None:
    resolved = load_config(no_file=True, sets=[f"ppo.stop_on={on}", f"health.kl_on={on}"], cwd=tmp_path)
    single = {"move": 4} | {f"fixed{index}": 1 for index in range(4)}
    text = "\n".join(start_lines(resolved, heads=single, run="runs/x", sinks=()))
    assert "with one head that chooses, per decision and per step are the same" in text
    assert "active" not in text
    two = "\n".join(start_lines(resolved, heads=single | {"slot": 3}, run="runs/x", sinks=()))
    assert "with all 2 heads active" in two
    assert "with 2.0 of 2 heads active" in two


def test_heads_with_one_choice_are_not_usually_active() -> None:
    from esper_core.ppo.heads import HeadSpec
    from esper_core.training.attempt import _usually_active

    class Fixed:
        heads = (HeadSpec("operation", 2), HeadSpec("fixed", 1), HeadSpec("slot", 3))
        causal_table = ((True, True, False), (True, True, True))

    assert _usually_active(cast("Task", Fixed())) == 1.5


def test_the_end_sets_no_joint_kl_beside_the_same_number() -> None:
    from esper_core.cli import _words

    heads = (HeadStats(name="move", kl=0.01, decisions=64, share=1.0, weight=1.0), HeadStats(name="fixed"))
    last = make_update(1, 0.01, heads=heads)
    assert "joint" not in _words._kl_text(last, KLLimits())
    assert "carries" not in _words._kl_text(last, KLLimits())


@pytest.mark.parametrize(
    ("joint_stops", "heads", "on", "line"),
    [
        (29, 5, "weighted", "1 early stop; on the joint KL the same limit would have stopped 29 updates"),
        (1, 5, "weighted", "1 early stop; on the joint KL the same limit would have stopped 1 update"),
        (29, 5, "joint", "1 early stop"),
        (1, 1, "weighted", "1 early stop"),
        (None, 5, "weighted", "1 early stop"),
    ],
)
@pytest.mark.parametrize("more", [(), (HeadStats(name="fixed"),)])
def test_the_end_says_how_often_the_joint_rule_would_have_stopped(
    joint_stops: int | None, heads: int, on: str, line: str, more: tuple[HeadStats, ...]
) -> None:
    """A head with one choice changes nothing: it decides nothing."""
    from esper_core.cli import _words
    from esper_core.health import RunState
    from esper_core.ppo.train_result import TrainResult

    made = (*make_heads(names=[f"head{index}" for index in range(heads)]), *more)
    result = TrainResult(
        state=RunState.DONE,
        reason="150 updates",
        updates=150,
        env_steps=1,
        episodes=0,
        early_stops=1,
        joint_stops=joint_stops,
        return_mean_100=None,
        last=make_update(150, heads=made, stop_on=on),
    )
    assert _words._stops_text(result) == line


def test_the_factor_of_the_stop_is_the_agents(monkeypatch: pytest.MonkeyPatch) -> None:
    """The words derive from the one constant."""
    from esper_core.cli import _words
    from esper_core.kl import stop

    monkeypatch.setattr(stop, "STOP_FACTOR", 2.5)
    monkeypatch.setattr(_words, "STOP_FACTOR", stop.STOP_FACTOR)
    assert "early stop: KL above 0.05 nats (2.5 x target_kl 0.02)" in _words.stop_text(PPOConfig(target_kl=0.02), 1)


@pytest.mark.parametrize(
    ("run", "text"),
    [
        (RunConfig(episodes=20), "until 20 episodes"),
        (RunConfig(episodes=20, updates=5), "until 20 episodes or 5 updates"),
        (RunConfig(), "until it is stopped"),
    ],
)
def test_the_limits_are_told(run: RunConfig, text: str) -> None:
    assert limits_text(run) == text


def test_commands_are_printed_as_this_shell_can_run_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    beside = Path(sys.executable).parent
    monkeypatch.setenv("PATH", f"{beside}{os.pathsep}/usr/bin")
    assert program() == "esper"
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    assert program() == str(beside / "esper")
    monkeypatch.chdir(beside.parent.parent)
    assert program() == os.path.relpath(beside / "esper")
    monkeypatch.chdir("/")  # as an environment may have done: what counts is the folder of the shell
    assert program(tmp_path) == str(beside / "esper")
    again = next_commands("runs/x", has_checkpoint=True, has_journal=False, commands={}, start=tmp_path)
    assert again[0][0] == f"{beside / 'esper'} eval runs/x"
    printed = next_commands("runs/my run", has_checkpoint=True, has_journal=True, commands={"sanctum": "look at it"})
    assert [command.split("'")[0].split()[-1] for command, _ in printed] == ["sanctum", "replay", "export", "eval"]
    assert all("'runs/my run'" in command for command, _ in printed)
    assert next_commands("r", has_checkpoint=False, has_journal=False, commands={"sanctum": "look at it"}) == []


# --- esper sinks new --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "camel"),
    [("my_sink", "MySink"), ("my_redis", "MyRedisSink"), ("sink", "Sink"), ("kitchensink", "KitchensinkSink")],
)
def test_the_class_of_a_new_sink_is_called_sink_once(
    name: str, camel: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sinks", "new", name, "--dir", str(tmp_path / "new")]) == EXIT_OK
    assert f"class {camel} in" in capsys.readouterr().out
    assert f"class {camel}:" in (tmp_path / "new" / "src" / f"esper_sink_{name}" / "__init__.py").read_text()


@pytest.mark.parametrize(
    ("text", "number"),
    [("1000000", 10**6), ("1_000_000", 10**6), ("1e6", 10**6), ("2.5e3", 2500), ("0", 0), ("-3", -3)],
)
def test_a_count_may_be_written_in_any_way(text: str, number: int) -> None:
    assert whole_number(text) == number


@pytest.mark.parametrize("text", ["1.5", "1e-3", "inf", "nan", "1e999999", "", "six", "1M"])
def test_what_is_no_whole_number_is_said(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ppo", f"--steps={text}"]) == 64
    assert f"argument --steps: {text!r} is no whole number, such as 1000000 or 1e6" in capsys.readouterr().err


def test_the_way_back_is_the_first_next_command_of_a_stopped_run() -> None:
    kept: dict[str, Any] = {"has_checkpoint": True, "has_journal": True, "commands": {}}
    stopped = next_commands("runs/x", stopped=True, **kept)
    assert stopped[0][0].endswith("ppo --resume runs/x")
    assert stopped[1:] == next_commands("runs/x", **kept)
    assert [
        words.split()[-2:] for words, _ in next_commands("x", has_checkpoint=True, has_journal=False, commands={})
    ] == [["eval", "x"]]


def test_command_in_a_deleted_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert main(["runs"]) == EXIT_FAILED
    assert capsys.readouterr().err.splitlines() == [
        "esper: the folder that this shell is in was deleted",
        "  cd to another, then try again",
    ]


@pytest.mark.parametrize(
    "raised",
    [asyncio.CancelledError("late"), GeneratorExit(), BaseExceptionGroup("two", [KeyboardInterrupt()])],
    ids=type,
)
def test_what_is_no_exception_ends_as_a_message_too(
    raised: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Raising:
        name = "runs"
        help = "raises"

        def add_arguments(self, _: object) -> None:
            return

        def run(self, _: object) -> int:
            raise raised

    monkeypatch.setattr("esper_core.cli.main.load_core", lambda _: Raising())
    assert main(["runs"]) == EXIT_FAILED
    assert capsys.readouterr().err.startswith("esper: ")
