"""The page ``docs/reference/plugins.md``, from the entry points that this repository's plugins declare."""

from __future__ import annotations

import importlib
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from esper_core.cli._parser import EsperParser
from esper_core.config.show import dump_toml, toml_value
from tables import key_table, parser_lines, sentence, summary, template

if TYPE_CHECKING:
    from collections.abc import Iterator

    from esper_core.hooks import EnvironmentPlugin
    from esper_core.monitoring.adapter import Adapter

PLUGINS: Final = Path(__file__).resolve().parents[2] / "plugins"


def plugins_page() -> str:
    """How plugins are named, and the options and commands that this repository's plugins bring."""
    parts = [template("plugins.md.txt")]
    parts += [_sink(*found) for found in _entry_points("esper.sinks")]
    parts += [_environment(*found) for found in _entry_points("esper.environments")]
    parts += [_adapter(*found) for found in _entry_points("esper.adapters")]
    parts += [_command(*found) for found in _entry_points("esper.commands")]
    return "".join(parts).rstrip() + "\n"


def _entry_points(group: str) -> Iterator[tuple[str, str, Any]]:
    """Distribution, name and object of every entry point of one group."""
    for path in sorted(PLUGINS.glob("*/pyproject.toml")):
        project = tomllib.loads(path.read_text())["project"]
        for name, value in project["entry-points"].get(group, {}).items():
            module, _, attribute = value.partition(":")
            yield project["name"], name, getattr(importlib.import_module(module), attribute)


def _sink(distribution: str, name: str, sink: Any) -> str:
    needs = ", ".join(f"`{other}`" for other in getattr(sink, "requires", ()))
    requires = f" Needs the sink {needs}." if needs else ""
    config = getattr(sink, "Config", None)
    keys = key_table(config, f"sink.{name}") if config is not None else "It takes no options.\n"
    kinds = getattr(sink, "event_kinds", None)
    named = kinds if kinds is None or isinstance(kinds, str) else ", ".join(sorted(kinds))
    alike = "" if named is None else f"Hears every kind of event alike, through `esper_event`: {named}.\n\n"
    return (
        f"\n## Sink `{name}`\n\n{summary(sink.__doc__).splitlines()[0]}\n\n"
        f"Distribution `{distribution}`; delivery `{getattr(sink, 'delivery', 'all')}`.{requires}\n\n{alike}{keys}"
    )


def _environment(distribution: str, name: str, plugin: EnvironmentPlugin) -> str:
    module = importlib.import_module(plugin.make.__module__)
    looks = " and ".join(f"`--{look}`" for look in ("show", "plot") if getattr(plugin, look) is not None)
    settings = ", ".join(f"`{key} = {toml_value(value)}`" for key, value in plugin.evaluation.items())
    parts = [f"\n## Environment `{name}`\n\n{summary(module.__doc__).splitlines()[0]}\n\n"]
    parts.append(f"Distribution `{distribution}`; default preset `{plugin.default_preset}`; `esper eval` has {looks}")
    parts.append(f" and evaluates with {settings}.\n" if settings else ".\n")
    for preset, tree in plugin.presets.items():
        parts.append(f"\n### Preset `{preset}`\n\n```toml\n{dump_toml(dict(tree))}```\n")
    return "".join(parts)


def _adapter(distribution: str, name: str, adapter: Adapter) -> str:
    module = importlib.import_module(distribution.replace("-", "_"))
    return (
        f"\n## Adapter `{name}`\n\n{summary(module.__doc__).splitlines()[0]}\n\n"
        f"Distribution `{distribution}`; stands on `{adapter.library}`, tested with `{adapter.tested}`; "
        f"`esper adapters check {name}` compares the numbers. [README](../../plugins/{name}/README.md).\n"
    )


def _command(distribution: str, name: str, command: Any) -> str:
    parser = EsperParser(prog=f"esper {name}", add_help=False)
    command.add_arguments(parser)
    arguments = "\n".join(parser_lines(parser, level=3))
    return f"\n## Command `esper {name}`\n\n{sentence(command.help)} Distribution `{distribution}`.\n\n{arguments}"
