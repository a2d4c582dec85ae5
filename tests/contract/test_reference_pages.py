"""Every public hook, event field, config key, metric and command is documented.

Hooks are called and fields travel (test_codec.py) one by one; of keys, options and flags some test has the name.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import inspect
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import msgspec
import pytest

from esper_core import events, hooks
from esper_core.cli._command import CORE_COMMANDS, load_core
from esper_core.config.schema import DeliveryConfig, EsperConfig
from esper_core.semconv.names import EVALUATION_GAUGES, GAUGES, METRICS
from esper_core.testing import SinkHarness, one_of_each

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference"
GIVEN = (hooks.SinkContext, hooks.EnvironmentPlugin)
RECORDS = (*events.PAYLOADS.values(), events.HeadStats, events.EarlyStop, events.SinkLoss, *GIVEN)
TABLES = {name: type(getattr(EsperConfig(), name)) for name in ("ppo", "env", "run", "otel")}
TABLES["delivery.NAME"] = DeliveryConfig


def _page(name: str) -> str:
    return (REFERENCE / name).read_text()


def _section(page: str, heading: str) -> str:
    """The text under one heading of the second level."""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    assert found, f"no section {heading!r}"
    return found[1]


def _entry_points(group: str) -> list[tuple[str, str]]:
    """Name and object of what this repository's plugins declare, whether or not they are installed."""
    projects = [tomllib.loads(path.read_text()) for path in sorted((ROOT / "plugins").glob("*/pyproject.toml"))]
    return [item for project in projects for item in project["project"]["entry-points"].get(group, {}).items()]


@cache
def _tests() -> str:
    """The text of every test of the repository, this file left out."""
    places = [ROOT / "tests", *(ROOT / "plugins").glob("*/tests"), *(ROOT / "docs" / "examples").glob("*/tests")]
    files = [path for place in places for path in place.rglob("*.py") if path != Path(__file__)]
    return "\n".join(path.read_text() for path in files)


def _tested(name: str) -> bool:
    """By its name, or by the flag that sets it."""
    return re.search(rf"\b({re.escape(name)}|{re.escape(name.replace('_', '-'))})\b", _tests()) is not None


def test_the_generated_pages_are_the_same_in_every_process() -> None:
    pages = [path for path in REFERENCE.glob("*.md") if "0x" in path.read_text()]
    assert not pages, "an address in memory"


@pytest.mark.parametrize("name", hooks.HOOK_NAMES)
def test_a_hook_is_documented(name: str) -> None:
    section = _section(_page("hooks.md"), name)
    assert section.split("```")[2].strip(), "its docstring"


@pytest.mark.parametrize("name", sorted(set(hooks.HOOK_NAMES) - {"esper_foreground", "esper_sink_cut_off"}))
def test_the_host_calls_a_hook_of_a_sink_that_has_no_other(name: str) -> None:
    """Through the real channel.

    ``esper_foreground`` needs a child run (tests/integration/test_cli_foreground.py), ``esper_sink_cut_off`` a sink
    that does not close in time (tests/integration/test_closing_sinks.py).
    """
    calls: list[Any] = []

    def implementation(self: object, **given: Any) -> list[Any]:
        calls.extend(given.values())
        return []

    argument = list(inspect.signature(getattr(hooks.SinkHooks, name)).parameters)[1]
    scope: dict[str, Any] = {"implementation": implementation}
    exec(f"def {name}(self, {argument}): return implementation(self, {argument}={argument})", scope)
    body = {name: hooks.hookimpl(scope[name])} | ({"event_kinds": "all"} if name == "esper_event" else {})
    with SinkHarness(type("OneHook", (), body)) as harness:
        if argument == "context" and name != "esper_sink_opened":
            harness.contributed(name)
        harness.send(*one_of_each())
        assert harness.drain()
    if argument == "event":
        kinds = list(events.EVENTS) if name == "esper_event" else [name.removeprefix("esper_")]
        assert [event.kind for event in calls] == kinds
    else:
        assert len(calls) == 1


@pytest.mark.parametrize("record", RECORDS, ids=lambda cls: cls.__name__)
def test_an_event_field_is_documented(record: type) -> None:
    section = _section(_page("hooks.md" if record in GIVEN else "events.md"), record.__name__)
    meanings = dict(re.findall(r"^\| `(\w+)` \|.*\| (.*?) ?\|$", section, re.MULTILINE))
    for field in dataclasses.fields(record):
        assert len(meanings.get(field.name, "")) > 5, f"{field.name} has no meaning in the reference"


@pytest.mark.parametrize("table", TABLES)
def test_a_config_key_is_documented_and_tested(table: str) -> None:
    section = _section(_page("config.md"), f"`[{table}]`")
    meanings = dict(re.findall(r"^\| `(\w+)` \|.*\| (.*?) \| `ESPER_\w+` \|$", section, re.MULTILINE))
    for key in TABLES[table].__struct_fields__:
        assert len(meanings.get(key, "")) > 5, f"{table}.{key} has no meaning in the reference"
        assert _tested(key), key


@pytest.mark.parametrize(("name", "target"), _entry_points("esper.sinks"), ids=lambda value: value.split(":")[0])
def test_a_sinks_options_are_documented_and_tested(name: str, target: str) -> None:
    module, _, attribute = target.partition(":")
    pytest.importorskip(module)
    config = getattr(getattr(importlib.import_module(module), attribute), "Config", None)
    section = _section(_page("plugins.md"), f"Sink `{name}`")
    for key in () if config is None else [item.name for item in msgspec.structs.fields(config)]:
        row = re.search(rf"^\| `{key}` \|.*\| (.*?) \| `ESPER_\w+` \|$", section, re.MULTILINE)
        assert row is not None, key
        assert len(row[1]) > 5, f"sink.{name}.{key} has no description in its type"
        assert _tested(key), key
        assert get_type_hints(config)[key] is not None


@pytest.mark.parametrize("name", [*METRICS, *(gauge.name for gauge in (*GAUGES, *EVALUATION_GAUGES))])
def test_a_metric_is_documented(name: str) -> None:
    """That each is emitted, and no other, is shown with the SDK: test_instrumentation.py; its value, of the gauges:
    test_gauge_values.py."""
    assert f"`{name}`" in _page("telemetry.md")


def _parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from _parsers(child)


def _undocumented(parser: argparse.ArgumentParser, page: str) -> Iterator[str]:
    for part in _parsers(parser):
        for action in part._actions:
            skipped = isinstance(action, argparse._HelpAction | argparse._SubParsersAction)
            if skipped or action.help is argparse.SUPPRESS:
                continue
            flag = action.option_strings[-1] if action.option_strings else ""
            if not action.help or (flag and f"`{flag}" not in page):
                yield f"{part.prog} {flag or action.dest}"
            elif flag and not _tested(flag.lstrip("-")):
                yield f"{part.prog} {flag} is in no test"


@pytest.mark.parametrize("name", CORE_COMMANDS)
def test_a_command_and_its_options_are_documented_and_tested(name: str) -> None:
    parser = argparse.ArgumentParser(prog=f"esper {name}")
    load_core(name).add_arguments(parser)
    assert not list(_undocumented(parser, _section(_page("cli.md"), f"`esper {name}`")))
    assert f'"{name}"' in _tests()


@pytest.mark.parametrize(("name", "target"), _entry_points("esper.commands"), ids=lambda value: value.split(":")[0])
def test_a_plugins_command_and_its_options_are_documented_and_tested(name: str, target: str) -> None:
    module, _, attribute = target.partition(":")
    pytest.importorskip(module)
    parser = argparse.ArgumentParser(prog=f"esper {name}")
    getattr(importlib.import_module(module), attribute).add_arguments(parser)
    assert not list(_undocumented(parser, _section(_page("plugins.md"), f"Command `esper {name}`")))
    assert f'"{name}"' in _tests()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert name in extras, "an extra of its name: what an absent command's error tells to install"
