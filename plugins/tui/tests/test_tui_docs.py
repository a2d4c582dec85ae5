"""Sanctum's pages say what the program does: keys, verdicts, limits, commands, pictures."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from esper_core.health import HealthLevel, RunState, TUIThresholds, VerdictInput, VerdictKind, verdict
from esper_core.reading.document import document
from esper_core.reading.model import ScreenModel
from esper_core.reading.rows import METRICS
from esper_sink_tui.commands.sanctum import command
from esper_sink_tui.keys import help_markdown

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"
PAGES = [
    DOCS / "tutorial" / "sanctum.md",
    *(DOCS / "how-to" / f"{name}.md" for name in ("watch-over-ssh", "watch-a-cluster", "gate-ci-on-health")),
    DOCS / "reference" / "verdict.md",
    ROOT / "plugins" / "tui" / "README.md",
]
KEYS_INTRO = """# Sanctum: keys and signs

Made from the table that the bindings are made from (`plugins/tui/src/esper_sink_tui/keys.py`); a test keeps it so.

"""


def test_the_page_of_keys_is_the_table_of_keys() -> None:
    path = DOCS / "reference" / "sanctum-keys.md"
    if os.environ.get("UPDATE_GOLDENS"):
        path.write_text(KEYS_INTRO + help_markdown(), encoding="utf-8")
    assert path.read_text(encoding="utf-8") == KEYS_INTRO + help_markdown()


def seen(kind: VerdictKind) -> VerdictInput:
    """What makes each verdict."""
    calm = (HealthLevel.HEALTHY,) * 5
    states = {
        VerdictKind.CRASHED: RunState.CRASHED,
        VerdictKind.FAILED: RunState.FAILED,
        VerdictKind.STALE: RunState.STALE,
        VerdictKind.STALLED: RunState.STALLED,
    }
    levels = {
        VerdictKind.NON_FINITE: HealthLevel.NON_FINITE,
        VerdictKind.CRITICAL: HealthLevel.CRITICAL,
        VerdictKind.WARNING: HealthLevel.WARNING,
    }
    updates = {VerdictKind.WARM_UP: 2, VerdictKind.UNKNOWN: 0}.get(kind, 5)
    return VerdictInput(
        state=states.get(kind, RunState.LIVE),
        levels=() if kind is VerdictKind.UNKNOWN else (*calm, levels.get(kind, HealthLevel.HEALTHY)),
        updates=updates,
        journal_lost=int(kind is VerdictKind.LOSSY),
    )


def test_the_page_of_verdicts_is_true() -> None:
    text = (DOCS / "reference" / "verdict.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z-]+)` \|.*\| (\d) \|$", text, flags=re.MULTILINE)
    assert {VerdictKind(name) for name, _ in rows} == set(VerdictKind)
    for name, code in rows:
        judged = verdict(seen(VerdictKind(name)))
        assert (judged.kind.value, judged.exit_code) == (name, int(code))
    limits = text.partition("## The rows")[2]
    assert len(re.findall(r"^\| (?!row|---)", limits.partition("The medians")[0], flags=re.MULTILINE)) == len(METRICS)
    for value in (TUIThresholds.KL_WARNING, TUIThresholds.KL_CRITICAL):
        assert f">= {value:g} |" in limits
    for value in (TUIThresholds.CLIP_WARNING, TUIThresholds.CLIP_CRITICAL):
        assert f">= {value:.0%} |" in limits
    for value in (TUIThresholds.ENTROPY_WARNING, TUIThresholds.ENTROPY_CRITICAL, TUIThresholds.EXPLAINED_VAR_CRITICAL):
        assert f"<= {value:.2f} |" in limits


def sanctum_commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for block in re.findall(r"```(?:console|bash)?\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
            for item in block.splitlines():
                match = re.search(r"(esper sanctum[^#>|\"]*)", item)
                if match and " runs/2026" not in item:
                    found.append((page.name, match[1].strip()))
    return found


@pytest.mark.parametrize(("page", "words"), sanctum_commands())
def test_every_command_of_the_pages_can_be_parsed(page: str, words: str) -> None:
    parser = argparse.ArgumentParser(exit_on_error=False)
    command.add_arguments(parser)
    parser.parse_args(shlex.split(words)[2:])


def test_the_tutorials_commands_run_as_printed() -> None:
    for words, code in (("--once", 2), ("--once --json", 2)):
        done = subprocess.run(
            [sys.executable, "-m", "esper_core", "sanctum", "docs/examples/runs/drift", *words.split()],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (code, "")


def test_the_documented_keys_of_the_json_document_exist() -> None:
    text = (DOCS / "how-to" / "gate-ci-on-health.md").read_text(encoding="utf-8")
    table = text.partition("| key | holds |")[2].partition("## While")[0]
    named = set(re.findall(r"`([a-z_]+)`", "\n".join(line.split("|")[1] for line in table.splitlines() if "|" in line)))
    assert named | {"schema"} == set(document(ScreenModel()))
    for field in re.findall(r"`([a-z_]+)`", table.partition("`verdict` |")[2].splitlines()[0]):
        assert field in document(ScreenModel())["verdict"]


def test_the_pictures_are_there_and_are_sanctums() -> None:
    for page in PAGES:
        for name in re.findall(r"\]\([^)]*?([^/)]*\.svg)\)", page.read_text(encoding="utf-8")):
            text = (ROOT / "docs" / "images" / name).read_text(encoding="utf-8")
            assert text.startswith("<svg")
            assert "KL" in text
