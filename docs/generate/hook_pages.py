"""The pages ``events.md``, ``hooks.md`` and ``plugins.md`` of ``docs/reference/``, from docstrings and entry points."""

from __future__ import annotations

import importlib
import inspect
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from esper_core import events, hooks
from esper_core.cli._parser import EsperParser
from tables import class_table, key_table, markdown, parser_lines, summary

if TYPE_CHECKING:
    from collections.abc import Iterator

PLUGINS: Final = Path(__file__).resolve().parents[2] / "plugins"


def events_page() -> str:
    """The reference of every event and its fields."""
    parts = ["# Events\n\n", f"{summary(events.__doc__)}\n"]
    order: list[type] = [events.TelemetryEvent, events.TraceRef, events.SpanRef, *events.PAYLOADS.values()]
    order += [events.HeadStats, events.EarlyStop, events.SinkLoss]
    for cls in order:
        kind = getattr(cls, "kind", None)
        hook = f"\n\nHook: `esper_{kind}`." if isinstance(kind, str) else ""
        parts.append(f"\n## {cls.__name__}\n\n{summary(cls.__doc__)}{hook}\n\n{class_table(cls)}\n")
    return "".join(parts)


def hooks_page() -> str:
    """The reference of every hook and of what a sink is given."""
    parts = ["# Hooks\n\n", f"Hook API {hooks.HOOK_API}. {summary(hooks.__doc__)}\n"]
    for name in hooks.HOOK_NAMES:
        method = getattr(hooks.SinkHooks, name)
        signature = str(inspect.signature(method)).replace("'", "").replace("(self, ", "(")
        parts.append(f"\n## {name}\n\n```python\n{name}{signature}\n```\n\n{summary(method.__doc__)}\n")
    parts.append(f"\n## SinkContext\n\n{summary(hooks.SinkContext.__doc__)}\n\n{class_table(hooks.SinkContext)}\n")
    parts.append(f"\n## Secret\n\n{summary(hooks.Secret.__doc__)}\n")
    reasons = ", ".join(f"`{reason.value}`" for reason in hooks.CloseReason)
    parts.append(f"\n## CloseReason\n\n{summary(hooks.CloseReason.__doc__)} One of {reasons}.\n")
    parts.append(f"\n## ChildRun\n\n{summary(hooks.ChildRun.__doc__)}\n\n")
    for name in ("run_dir", "pid", "poll", "request_stop"):
        member = vars(hooks.ChildRun)[name]
        parts.append(f"- `{name}`: {summary(member.__doc__)}\n")
    report = hooks.StatusReport.__call__
    given = list(inspect.signature(report).parameters.values())[1:]
    signature = ", ".join(
        f"{item.name}: {item.annotation}" + (f" = {item.default}" if item.default is not item.empty else "")
        for item in given
    )
    text = inspect.cleandoc(report.__doc__ or "").split("\n\nArgs:\n")
    parts.append(f"\n## StatusReport\n\n{summary(hooks.StatusReport.__doc__)}\n\n")
    parts.append(f"```python\ncontext.report({signature}) -> None\n```\n\n{text[0]}\n\n")
    parts += [f"- {markdown(line.strip())}\n" for line in text[1].splitlines()]
    return "".join(parts)


def _entry_points(group: str) -> Iterator[tuple[str, str, Any]]:
    """Plugin folder, name and object of every entry point that this repository's plugins declare."""
    for path in sorted(PLUGINS.glob("*/pyproject.toml")):
        declared = tomllib.loads(path.read_text())["project"]["entry-points"].get(group, {})
        for name, value in declared.items():
            module, _, attribute = value.partition(":")
            yield path.parent.name, name, getattr(importlib.import_module(module), attribute)


def plugins_page() -> str:
    """The reference of the options and commands that this repository's plugins bring."""
    parts = ["# Plugins\n\n", "Options and commands of the plugins in this repository.\n"]
    for folder, name, sink in _entry_points("esper.sinks"):
        parts.append(f"\n## Sink `{name}`\n\n{summary(sink.__doc__).split(chr(10))[0]}\n\n")
        needs = ", ".join(f"`{other}`" for other in getattr(sink, "requires", ()))
        requires = f" Needs the sink {needs}." if needs else ""
        parts.append(
            f"Distribution `esper-sink-{folder}`; delivery `{getattr(sink, 'delivery', 'all')}`.{requires}\n\n"
        )
        if (kinds := getattr(sink, "event_kinds", None)) is not None:
            named = kinds if isinstance(kinds, str) else ", ".join(sorted(kinds))
            parts.append(f"Hears every kind of event alike, through `esper_event`: {named}.\n\n")
        config = getattr(sink, "Config", None)
        parts.append(key_table(config, f"sink.{name}") if config is not None else "It takes no options.\n")
    for folder, name, command in _entry_points("esper.commands"):
        parser = EsperParser(prog=f"esper {name}", add_help=False)
        command.add_arguments(parser)
        parts.append(f"\n## Command `esper {name}`\n\n{command.help[:1].upper()}{command.help[1:]}.")
        parts.append(f" Distribution `esper-sink-{folder}`.\n\n" + "\n".join(parser_lines(parser, level=3)))
    return "".join(parts).rstrip() + "\n"
