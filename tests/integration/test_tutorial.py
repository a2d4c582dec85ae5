"""The tutorial's commands run as printed, and what the page promises happens."""

from __future__ import annotations

import csv
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from esper_core.health import HealthLevel
from esper_core.reading import open_run
from esper_core.runs import list_runs

pytest.importorskip("esper_sink_journal", reason="a run on disk needs the journal")
pytest.importorskip("esper_sink_console", reason="the lines of updates are the console's")

pytestmark = pytest.mark.numeric

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tutorial" / "first-run.md"


def _commands() -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Run every command of the page in one empty folder; return it and each command's output."""
    folder = tmp_path_factory.mktemp("tutorial")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    outputs = {}
    for command in _commands():
        result = subprocess.run(
            shlex.split(command),
            cwd=folder,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        outputs[command] = result.stdout + result.stderr
    return folder, outputs


def _levels(folder: Path, name: str) -> list[HealthLevel]:
    run = next(run for run in list_runs(folder / "runs") if f"-{name}-" in run.run_id)
    return [event.payload.health for event in open_run(run.path).updates()]


def test_the_page_has_the_records_manual_steps() -> None:
    text = " ".join(_commands())
    assert "--episodes 20" in text
    assert "learning_rate" in text
    assert "target_kl" in text


def test_twenty_episodes_make_at_least_ten_updates(walked: tuple[Path, dict[str, str]]) -> None:
    assert len(_levels(walked[0], "first")) >= 10


def test_a_high_learning_rate_passes_both_limits(walked: tuple[Path, dict[str, str]]) -> None:
    """One update at CRITICAL is asked for. Another processor plays another run; twelve seeds had five or more of 15."""
    folder, outputs = walked
    assert HealthLevel.CRITICAL in _levels(folder, "too-fast")
    said = next(text for command, text in outputs.items() if "too-fast" in command).lower()
    assert "critical" in said
    assert "learning_rate" in said


def test_a_low_target_stops_updates_early_and_says_so(walked: tuple[Path, dict[str, str]]) -> None:
    folder, outputs = walked
    run = next(run for run in list_runs(folder / "runs") if "-stopped-" in run.run_id)
    stops = [event.payload for event in open_run(run.path).updates() if event.payload.early_stop is not None]
    assert stops
    assert all(stop.minibatches < stop.minibatches_planned for stop in stops)
    said = next(text for command, text in outputs.items() if "--run-name stopped" in command).lower()
    assert "stop" in said


def test_the_export_has_one_row_per_update(walked: tuple[Path, dict[str, str]]) -> None:
    folder, _ = walked
    with (folder / "updates.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(_levels(folder, "first"))
    assert all(float(row["kl_divergence"]) >= 0 for row in rows)
