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


PUBLISHED = [ROOT / "README.md", *sorted((ROOT / "plugins").glob("*/README.md"))]
"""The pages of the distributions in a package index, where a relative link leads nowhere."""
OURS = re.compile(
    r"https://(?:github\.com/esper-core/esper/(?:blob|tree)|raw\.githubusercontent\.com/esper-core/esper)/main/"
)


@pytest.mark.parametrize("page", PUBLISHED, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_of_published_pages_hold_anywhere(page: Path) -> None:
    links = re.findall(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if "://" not in link] == []
    into_the_repository = [OURS.sub("", link) for link in links if OURS.match(link)]
    assert [path for path in into_the_repository if not (ROOT / path).exists()] == []
    assert [link for link in links if "esper-core/esper" in link and not OURS.match(link)] == []


def test_readme_names_only_commands_that_exist() -> None:
    named = set(re.findall(r"^esper ([a-z]+)", (ROOT / "README.md").read_text(), flags=re.MULTILINE))
    assert named
    projects = [tomllib.loads(path.read_text())["project"] for path in (ROOT / "plugins").glob("*/pyproject.toml")]
    brought = {name for project in projects for name in project["entry-points"].get("esper.commands", {})}
    assert named <= set(CORE_COMMANDS) | brought
