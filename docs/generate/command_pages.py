"""The pages ``docs/reference/config.md`` and ``docs/reference/cli.md``, from the schema and the parsers."""

from __future__ import annotations

from typing import Final, get_type_hints

import msgspec

from esper_core.cli._command import CORE_COMMANDS, load_core
from esper_core.cli._parser import EsperParser
from esper_core.config._check import strip_annotation
from esper_core.config.schema import DeliveryConfig, EsperConfig
from esper_core.errors import EXIT_FAILED, EXIT_LOSSY, EXIT_OK, EXIT_SIGNAL, EXIT_USAGE
from tables import key_table, parser_lines, sentence, template

_SINK_TABLE: Final = """Belongs to the sink called NAME and is checked by that sink's own `Config` when it is loaded;
[plugins](plugins.md) lists the keys. A file may hold tables of sinks that are not selected.
"""

_PRESETS: Final = """[Presets](presets.md) has what each preset of the core sets beneath the file, and what it learns;
[plugins](plugins.md) has those of environment plugins.
"""


def config_page() -> str:
    """The reference of every key, from ``esper_core/config/schema.py``."""
    parts = [template("config.md.txt"), "## Top level\n", key_table(EsperConfig, "", skip_tables=True)]
    hints = get_type_hints(EsperConfig, include_extras=True)
    for name, hint in hints.items():
        inner = strip_annotation(hint)
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            parts += [f"## `[{name}]`\n", _purpose(inner), key_table(inner, name)]
    parts += ["## `[delivery.NAME]`\n", _purpose(DeliveryConfig), key_table(DeliveryConfig, "delivery.NAME")]
    parts += [
        "## `[sink.NAME]`\n",
        _SINK_TABLE,
        "## Presets\n",
        _PRESETS,
    ]
    return "\n".join(parts)


def _purpose(struct: type) -> str:
    text = (struct.__doc__ or "").partition(":")[2].strip().replace("``", "`")
    return f"{text[:1].upper()}{text[1:]}\n"


def cli_page() -> str:
    """The reference of every core command, from the parsers themselves."""
    parts = [
        template("cli.md.txt"),
        "| exit code | meaning |\n|---|---|",
        f"| {EXIT_OK} | done |",
        f"| {EXIT_FAILED} | the run, a check or a verification failed |",
        f"| {EXIT_LOSSY} | telemetry was lost and `--strict-telemetry` was given |",
        f"| {EXIT_USAGE} | wrong use or configuration |",
        f"| {EXIT_SIGNAL} + signal | ended by that signal (130: SIGINT, 143: SIGTERM, 129: SIGHUP) |\n",
    ]
    for name, entry in CORE_COMMANDS.items():
        command = load_core(name)
        parser = EsperParser(prog=f"esper {name}", add_help=False)
        command.add_arguments(parser)
        parts.append(f"## `esper {name}`\n")
        parts.append(sentence(entry.help) + "\n")
        parts += parser_lines(parser, level=3)
    return "\n".join(parts).rstrip() + "\n"
