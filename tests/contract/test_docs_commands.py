"""Every `esper ...` line of the documentation is one that the command line takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from esper_core.cli._command import CORE_COMMANDS, Command, load_core
from esper_core.cli._parser import EsperParser
from esper_core.errors import UsageError
from esper_core.host.load.discovery import installed_commands, load_command

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "plugins").glob("*/README.md")]
PAGES.append(ROOT / "collector-config" / "README.md")
FENCE = re.compile(r"^```[a-z]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINE = re.compile(r"^(?:\$ )?(esper .*)$", re.MULTILINE)


def _printed(page: Path) -> list[str]:
    """The command lines in a page's code blocks, continued lines joined."""
    blocks = [block.replace("\\\n", " ") for block in FENCE.findall(page.read_text())]
    return [line for block in blocks for line in LINE.findall(block)]


def _lines() -> list[tuple[str, str]]:
    return [(str(page.relative_to(ROOT)), line) for page in sorted(PAGES) for line in _printed(page)]


def _words(line: str) -> list[str]:
    """The arguments, up to what belongs to the shell."""
    words = shlex.split(line, comments=True)[1:]
    shell = [index for index, word in enumerate(words) if word in {"|", "||", "&&", "&", ";"} or ">" in word]
    return words[: shell[0]] if shell else words


def _command(name: str) -> Command | None:
    if name in CORE_COMMANDS:
        return load_core(name)
    return load_command(name) if name in installed_commands() else None


@pytest.mark.parametrize(("page", "line"), _lines())
def test_a_printed_command_is_taken(page: str, line: str) -> None:
    words = _words(line)
    if words[0].startswith("-"):
        assert words[0] in {"--help", "--version"}
        return
    command = _command(words[0])
    if command is None:
        pytest.skip(f"the plugin that brings esper {words[0]} is not installed")
    parser = EsperParser(prog=f"esper {words[0]}")
    command.add_arguments(parser)
    parser.parse_strict(words[1:])


def test_a_line_that_went_stale_is_noticed() -> None:
    parser = EsperParser(prog="esper ppo")
    load_core("ppo").add_arguments(parser)
    with pytest.raises(UsageError, match="--episods"):
        parser.parse_strict(_words("esper ppo --episods 20  # as a page might say")[1:])


def test_the_pages_hold_commands() -> None:
    assert {"README.md", "docs/tutorial/first-run.md", "docs/how-to/write-a-sink.md"} <= {page for page, _ in _lines()}
