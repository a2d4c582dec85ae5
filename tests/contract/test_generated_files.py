"""Generated files are up to date, and the one tool that writes them says which are not."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from command_pages import cli_page, config_page
from esper_core.cli._command import CORE_COMMANDS
from esper_core.config.schema import EsperConfig
from files import main, outputs

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def _plugins() -> None:
    """One page is made of the plugins."""
    for path in (ROOT / "plugins").glob("*/pyproject.toml"):
        for group in tomllib.loads(path.read_text())["project"]["entry-points"].values():
            for target in group.values():
                pytest.importorskip(target.partition(":")[0])


@pytest.mark.usefixtures("_plugins")
def test_every_generated_file_is_up_to_date() -> None:
    words = [sys.executable, "docs/generate", "--check"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("_plugins")
def test_a_stale_file_is_named_and_then_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = ["--root", str(tmp_path)]
    assert main([*there, "--check"]) == 1
    assert not list(tmp_path.iterdir()), "--check writes nothing"
    assert main(there) == 0
    assert main([*there, "--check"]) == 0
    page = tmp_path / "docs" / "reference" / "cli.md"
    page.write_text(page.read_text() + "an edit by hand\n")
    capsys.readouterr()
    assert main([*there, "--check"]) == 1
    assert capsys.readouterr().err == "docs/reference/cli.md is out of date: run make docs\n"
    assert main(there) == 0
    assert page.read_text() == outputs()["docs/reference/cli.md"]


def test_every_key_and_every_option_stands_in_the_reference() -> None:
    page = config_page()
    for table in ("ppo", "health", "env", "run", "otel"):
        for key in type(getattr(EsperConfig(), table)).__struct_fields__:
            assert f"| `{key}` |" in page
            assert f"`ESPER_{table.upper()}__{key.upper()}`" in page
    commands = cli_page()
    for name in CORE_COMMANDS:
        assert f"## `esper {name}`" in commands
    for option in ("--episodes N", "--causal-mask MODULE:FUNCTION", "--set KEY=VALUE", "--to NAME"):
        assert f"`{option}".replace("|", "\\|") in commands
