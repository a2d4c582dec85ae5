"""``esper config show``: the configuration in force, each value with its origin, secrets masked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from esper_core.cli._output import note, say, say_text
from esper_core.cli._parser import EsperParser, add_config_arguments, add_sink_arguments, resolve_config
from esper_core.errors import EXIT_OK

if TYPE_CHECKING:
    import argparse

    from esper_core.config.layers import Resolved

__all__ = ["ConfigCommand", "command"]


class ConfigCommand:
    """Shows the configuration."""

    name = "config"
    help = "show the configuration in force and where it comes from"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare ``show`` and ``path``."""
        parts = parser.add_subparsers(dest="part", metavar="show|path", parser_class=EsperParser)
        show = parts.add_parser("show", help="print every value with its origin, secrets masked")
        form = show.add_mutually_exclusive_group()
        form.add_argument("--toml", action="store_true", help="as TOML, ready to be an esper.toml")
        form.add_argument("--json", action="store_true", help='as JSON: {"ppo.target_kl": {"value": .., "origin": ..}}')
        show.add_argument("--changed", action="store_true", help="only what is not a default")
        show.add_argument("--preset", metavar="NAME", help="as if this preset were named")
        show.add_argument("--env", metavar="ID", help="as if this environment were trained")
        add_config_arguments(show)
        add_sink_arguments(show)
        path = parts.add_parser("path", help="print the file in force")
        add_config_arguments(path)

    def run(self, args: argparse.Namespace) -> int:
        """Print the configuration, or the path of its file."""
        if args.part == "path":
            resolved = resolve_config(args)
            say(str(resolved.file) if resolved.file is not None else "no configuration file")
            return EXIT_OK
        if args.part is None:
            from esper_core.errors import UsageError

            raise UsageError("config: which part?", hint="esper config show, or esper config path")
        resolved = resolve_config(args, {"preset": args.preset, "env.id": args.env})
        from esper_core.host.load.selection import refuse_tables, table_notices

        say_text(self._text(resolved, args))
        refuse_tables(resolved.config, origins=resolved.origins)  # shown first: it is how the fault is found
        for notice in table_notices(resolved.config):
            note(f"esper: {notice}")
        return EXIT_OK

    def _text(self, resolved: Resolved, args: argparse.Namespace) -> str:
        from esper_core.config.show import config_lines, config_toml
        from esper_core.host.load.secrets import secret_keys

        secrets = secret_keys(resolved.config)
        if args.toml:
            return config_toml(resolved, secrets).rstrip("\n")
        lines = [line for line in config_lines(resolved, secrets) if not (args.changed and line.origin == "default")]
        if args.json:
            return json.dumps({line.path: {"value": line.value, "origin": line.origin} for line in lines}, indent=2)
        width = max((len(f"{line.path} = {line.toml}") for line in lines), default=0)
        width = min(width, 60)
        return "\n".join(f"{f'{line.path} = {line.toml}':<{width}}  ({line.origin})" for line in lines)


command = ConfigCommand()
