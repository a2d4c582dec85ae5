"""Every relative link of the documentation leads somewhere, and the README's commands exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from esper_core.cli._command import CORE_COMMANDS

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "plugins").glob("*/README.md"),
        ROOT / "collector-config" / "README.md",
    ]
)
LINK = re.compile(r"(?<!`)\[[^\]`]*\]\(([^)#\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    targets = [link for link in LINK.findall(page.read_text()) if "://" not in link and not link.startswith("mailto:")]
    missing = [link for link in targets if not (page.parent / link).exists()]
    assert not missing


def test_readme_names_only_commands_that_exist() -> None:
    named = set(re.findall(r"^esper ([a-z]+)", (ROOT / "README.md").read_text(), flags=re.MULTILINE))
    assert named
    projects = [tomllib.loads(path.read_text())["project"] for path in (ROOT / "plugins").glob("*/pyproject.toml")]
    brought = {name for project in projects for name in project["entry-points"].get("esper.commands", {})}
    assert named <= set(CORE_COMMANDS) | brought
