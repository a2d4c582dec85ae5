"""Sinks by name: metadata first, imports only of what is selected, and one clear error for everything else."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from esper_core.config.schema import DeliveryConfig, EsperConfig
from esper_core.errors import ConfigError, SinkError, UsageError
from esper_core.hooks import Secret
from esper_core.host.load.discovery import installed_commands, installed_sinks, load_command, load_sink
from esper_core.host.load.options import create_sink, sink_options
from esper_core.host.load.selection import CHILD_VARIABLE, foreground_sink, refuse_tables, select_sinks, table_notices

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Install = Callable[..., None]

GOOD = """
from esper_core.hooks import hookimpl
class Sink:
    @hookimpl
    def esper_ppo_updated(self, event): pass
"""


def test_listing_reads_metadata_and_imports_nothing(install: Install) -> None:
    install("sink-loud", "raise RuntimeError('imported')", version="2.3", loud="sink_loud:Sink")
    found = installed_sinks()["loud"]
    assert (found.distribution, found.version, found.value) == ("sink-loud", "2.3", "sink_loud:Sink")
    assert "sink_loud" not in sys.modules


def test_only_what_is_selected_is_imported(install: Install) -> None:
    install("sink-good", GOOD, good="sink_good:Sink")
    install("sink-other", "raise RuntimeError('imported')", other="sink_other:Sink")
    selection = select_sinks(EsperConfig(sinks=("good",)))
    assert [sink.name for sink in selection.sinks] == ["good"]
    assert "sink_other" not in sys.modules
    assert (selection.sinks[0].distribution, selection.sinks[0].version) == ("sink-good", "1.0")


def test_an_unknown_name_says_what_is_installed_and_the_nearest(install: Install) -> None:
    install("sink-good", GOOD, statsd="sink_good:Sink")
    with pytest.raises(SinkError) as caught:
        load_sink("statds")
    assert str(caught.value).startswith('no sink named "statds" is installed, did you mean "statsd"?\n  installed: ')
    with pytest.raises(SinkError, match="pip install esper-sink-otlp"):
        _without_installed("otlp")


def _without_installed(name: str) -> None:
    from unittest.mock import patch

    with patch("esper_core.host.load.discovery.installed_sinks", return_value={}):
        load_sink(name)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("x = 1", "AttributeError"),
        ("def broken(:", "SyntaxError"),
    ],
)
def test_an_import_that_fails_names_the_distribution(install: Install, code: str, words: str) -> None:
    install("sink-bad", code, version="0.9", bad="sink_bad:Sink")
    with pytest.raises(SinkError) as caught:
        load_sink("bad")
    assert 'sink "bad" (sink-bad 0.9) cannot be imported from sink_bad:Sink' in caught.value.message
    assert words in caught.value.message
    assert "`--no-sink bad` (in Python: without it in `sinks`)" in (caught.value.hint or "")


def test_a_name_claimed_twice_is_refused_and_names_both(install: Install) -> None:
    install("sink-one", GOOD, same="sink_one:Sink")
    install("sink-two", GOOD, same="sink_two:Sink")
    with pytest.raises(SinkError, match=r"claimed by 2 distributions: sink-one \(.*\), sink-two \(.*\)"):
        load_sink("same")


HOOK = "from esper_core.hooks import hookimpl, SinkHooks\n"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("class Sink:\n    def esper_ppo_updated(self, event): pass", "method esper_ppo_updated lacks @hookimpl"),
        ("class Sink:\n    def esper_ppo_update(self, event): pass", 'did you mean "esper_ppo_updated"?'),
        ("class Sink:\n    @hookimpl\n    def esper_ppo_update(self, event): pass", "implements no known hook"),
        (
            "class Sink:\n    @hookimpl\n    def esper_ppo_updated(self, evnt): pass",
            'asks for argument "evnt", did you',
        ),
        (
            "class Sink:\n    @hookimpl\n    def esper_ppo_updated(self, event=None): pass",
            "so it would never be filled",
        ),
        ("class Sink:\n    @hookimpl(wrapper=True)\n    def esper_ppo_updated(self, event): yield", "is a wrapper"),
        ("class Sink:\n    @hookimpl\n    async def esper_ppo_updated(self, event): pass", "nobody awaits it"),
        (
            "class Sink:\n    @hookimpl\n    async def esper_ppo_updated(self, event): yield",
            "esper_ppo_updated is async",
        ),
        ("class Sink:\n    @hookimpl\n    def esper_event(self, event): yield", "esper_event is a generator"),
        (
            "class Sink:\n    @hookimpl\n    async def esper_sink_closed(self, reason): pass",
            "esper_sink_closed is async",
        ),
        ("class Sink: pass", "implements no hook"),
        ("Sink = 7", "is int, not a class"),
        (
            "class Sink:\n    delivery = 'inlin'\n    @hookimpl\n    def esper_ppo_updated(self, event): pass",
            '"inline"?',
        ),
        (
            "class Sink:\n    Config = dict\n    @hookimpl\n    def esper_ppo_updated(self, event): pass",
            "msgspec.Struct",
        ),
        (
            "class Sink:\n    requires = 'journal'\n    @hookimpl\n    def esper_ppo_updated(self, event): pass",
            "requires",
        ),
        (
            "class Sink:\n    keeps_record = 'yes'\n    @hookimpl\n    def esper_ppo_updated(self, event): pass",
            "keeps_record",
        ),
    ],
)
def test_what_pluggy_would_accept_in_silence_is_refused(tmp_path: Path, body: str, words: str) -> None:
    file = tmp_path / "my_sink.py"
    file.write_text(HOOK + body)
    with pytest.raises(SinkError) as caught:
        load_sink(f"{file}:Sink")
    assert words in str(caught.value)


def test_subclassing_the_specification_implements_only_what_is_overridden(tmp_path: Path) -> None:
    file = tmp_path / "my_sink.py"
    file.write_text(HOOK + "class Sink(SinkHooks):\n    @hookimpl\n    def esper_run_started(self, event): pass")
    assert load_sink(f"{file}:Sink").hooks == {"esper_run_started"}


def test_a_hook_of_a_newer_core_may_be_optional(tmp_path: Path) -> None:
    file = tmp_path / "my_sink.py"
    file.write_text(
        HOOK + "class Sink:\n    @hookimpl\n    def esper_ppo_updated(self): pass\n"
        "    @hookimpl(optionalhook=True)\n    def esper_dreamt(self, event): pass"
    )
    assert load_sink(f"{file}:Sink").hooks == {"esper_ppo_updated"}


def test_a_file_that_is_not_there_and_a_class_that_is_not_in_it(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="no such file"):
        load_sink(f"{tmp_path}/nothing.py:Sink")
    (tmp_path / "my_sink.py").write_text(GOOD)
    with pytest.raises(SinkError, match='has no class "Snk", did you mean "Sink"'):
        load_sink(f"{tmp_path}/my_sink.py:Snk")


def test_a_missing_default_is_one_line_and_a_missing_named_one_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esper_core.host.load.discovery.installed_sinks", dict)
    monkeypatch.setattr("esper_core.host.load.selection.installed_sinks", dict)
    selection = select_sinks(EsperConfig())
    assert selection.sinks == ()
    (notice,) = selection.notices
    assert notice.startswith('default sinks "console" and "journal" are not installed, going on without them (')
    assert "pip install esper-sink-console esper-sink-journal; pip install 'esper-core[default]' brings" in notice
    for origin in ("esper.toml", "ESPER_SINKS", "--sinks", "esper.toml, --sink"):
        with pytest.raises(SinkError, match='no sink named "console"'):
            select_sinks(EsperConfig(), origins={"sinks": origin})
    assert len(select_sinks(EsperConfig(), origins={"sinks": "--no-sink"}).notices) == 1


def test_required_sinks_are_added_and_said(install: Install) -> None:
    needy = GOOD.replace("class Sink:", "class Sink:\n    requires = ('base',)")
    install("sink-needy", needy, needy="sink_needy:Sink")
    with pytest.raises(SinkError, match=r'"needy" .* requires sink "base": no sink named "base"'):
        select_sinks(EsperConfig(sinks=("needy",)))
    install("sink-base", GOOD, base="sink_base:Sink")
    selection = select_sinks(EsperConfig(sinks=("needy",)))
    assert [sink.name for sink in selection.sinks] == ["needy", "base"]
    assert selection.notices == ('sink "base" is on too: sink "needy" requires it',)


def test_a_required_sink_that_was_left_out_by_name_is_a_contradiction(install: Install) -> None:
    needy = GOOD.replace("class Sink:", "class Sink:\n    requires = ('base',)")
    install("sink-needy", needy, needy="sink_needy:Sink")
    install("sink-base", GOOD, base="sink_base:Sink")
    with pytest.raises(
        SinkError, match=r'"needy" .* requires sink "base", which `--no-sink base` leaves out'
    ) as caught:
        select_sinks(EsperConfig(sinks=("needy",)), dropped=("base",))
    assert caught.value.hint == "leave out `--no-sink base`, or add `--no-sink needy`"
    assert len(select_sinks(EsperConfig(sinks=("needy",)), dropped=("other",)).sinks) == 2


def test_only_one_sink_owns_the_terminal_and_none_in_a_child(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = HOOK + "class Sink:\n    @hookimpl\n    def esper_foreground(self, child): return True\n"
    install("sink-a", screen, a="sink_a:Sink")
    install("sink-b", screen, b="sink_b:Sink")
    with pytest.raises(SinkError, match="only one sink can own the terminal"):
        select_sinks(EsperConfig(sinks=("a", "b")))
    selection = select_sinks(EsperConfig(sinks=("a",)))
    assert foreground_sink(selection.sinks) is selection.sinks[0]
    monkeypatch.setenv(CHILD_VARIABLE, "7")
    assert select_sinks(EsperConfig(sinks=("a",))).sinks == ()


def test_a_table_that_nearly_names_a_sink_is_a_slip(install: Install) -> None:
    install("sink-good", GOOD, statsd="sink_good:Sink")
    for config in (
        EsperConfig(sinks=("statsd",), sink={"statds": {}}),
        EsperConfig(sinks=("statsd",), delivery={"statds": DeliveryConfig()}),
    ):
        with pytest.raises(ConfigError, match=r'statds\]: no sink of this name .*, did you mean "statsd"'):
            select_sinks(config)
        with pytest.raises(ConfigError, match='did you mean "statsd"'):
            refuse_tables(config)  # how `esper config show` ends


def test_a_table_of_a_sink_that_is_not_here_is_named_at_the_start(install: Install, tmp_path: Path) -> None:
    install("sink-good", GOOD, statsd="sink_good:Sink")
    (tmp_path / "s.py").write_text(GOOD)
    strange = EsperConfig(sinks=("statsd", f"{tmp_path}/s.py:Sink"), sink={"graphite": {"x": 1}, "Sink": {}})
    (notice,) = select_sinks(strange).notices
    assert notice.startswith("[sink.graphite]: no sink of this name is selected or installed; known: Sink, ")
    assert table_notices(strange) == (notice,)
    assert not table_notices(EsperConfig(sinks=(), sink={"statsd": {}}))  # installed, only not selected


def test_an_empty_name_is_said_to_be_empty() -> None:
    with pytest.raises(SinkError, match="the name of a sink is empty"):
        load_sink("")


CONFIGURED = """
from pathlib import Path
import msgspec
from esper_core.hooks import Secret, hookimpl
class Config(msgspec.Struct):
    port: int = 8125
    token: Secret = Secret("")
    folder: Path = Path(".")
class Sink:
    Config = Config
    def __init__(self, config): self.config = config
    @hookimpl
    def esper_ppo_updated(self, event): pass
"""


def test_options_are_validated_by_the_sinks_own_type(tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text(CONFIGURED)
    loaded = load_sink(f"{tmp_path}/s.py:Sink")
    sink = create_sink(loaded, {"port": 1, "token": "canary-7", "folder": "/tmp"})
    assert (sink.config.port, sink.config.token.reveal(), sink.config.folder.name) == (1, "canary-7", "tmp")
    assert "canary-7" not in repr(sink.config)
    assert isinstance(sink.config.token, Secret)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"prot": 1}, 'esper.toml: [sink.Sink] unknown key "prot", did you mean "port"?'),
        ({"port": "x"}, "esper.toml: [sink.Sink] port: expected `int`, got `str`"),
        ({"token": 5}, "esper.toml: [sink.Sink] token: expected `str` (a secret), got `int`"),
    ],
)
def test_a_wrong_option_names_file_table_and_key(tmp_path: Path, table: dict[str, object], words: str) -> None:
    (tmp_path / "s.py").write_text(CONFIGURED)
    loaded = load_sink(f"{tmp_path}/s.py:Sink")
    origins = {f"sink.Sink.{key}": "esper.toml" for key in table}
    with pytest.raises(ConfigError) as caught:
        sink_options(loaded, table, origins=origins)
    assert caught.value.message == words


def test_a_sink_without_options_takes_none_and_may_take_no_argument(tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text(GOOD)
    loaded = load_sink(f"{tmp_path}/s.py:Sink")
    assert create_sink(loaded) is not None
    with pytest.raises(ConfigError, match="takes no options"):
        create_sink(loaded, {"x": 1})


def test_a_constructor_that_raises_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text(GOOD + "    def __init__(self, config): raise ValueError('no such host')\n")
    with pytest.raises(SinkError, match='sink "Sink" cannot be created: ValueError: no such host'):
        create_sink(load_sink(f"{tmp_path}/s.py:Sink"))


def test_commands_of_plugins_by_name(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("cmd-x", "command = object()", group="esper.commands", xcmd="cmd_x:command")
    install("cmd-y", "import no_such_module", group="esper.commands", ycmd="cmd_y:command")
    assert installed_commands()["xcmd"].distribution == "cmd-x"
    assert load_command("xcmd") is sys.modules["cmd_x"].command
    with pytest.raises(UsageError, match=r'command "ycmd" \(cmd-y 1.0\) cannot be imported'):
        load_command("ycmd")
    monkeypatch.setattr("esper_core.host.load.discovery.installed_commands", dict)
    with pytest.raises(UsageError, match=r"pip install 'esper-core\[sanctum\]'"):
        load_command("sanctum")
