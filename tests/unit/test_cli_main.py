"""The command line itself: what it costs, which command it finds, and how errors read."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from esper_core.cli._command import CORE_COMMANDS, Command, load_core
from esper_core.cli._parser import EsperParser, whole_number
from esper_core.cli.main import main
from esper_core.errors import EXIT_FAILED, EXIT_OK, EXIT_SIGNAL, EXIT_USAGE, EsperError, UsageError
from esper_core.installed import Installed
from esper_core.version import __version__

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator


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
