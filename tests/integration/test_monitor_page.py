"""docs/how-to/in-the-loop-you-have.md and the file that it names do what the page says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from esper_core import open_run
from esper_core.health import RunState

pytest.importorskip("esper_sink_journal", reason="the page's runs are journaled")

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "how-to" / "in-the-loop-you-have.md").read_text()
EXAMPLE = ROOT / "docs" / "examples" / "ppo_in_one_file.py"


def run_python(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_blocks_with_output_print_it(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n((?:(?!```).)*)```\n\n```text\n(.*?)```", PAGE, re.DOTALL)
    assert blocks
    for code, expected in blocks:
        (tmp_path / "block.py").write_text(code)
        assert run_python(tmp_path, "block.py") == expected


def test_the_file_is_as_short_as_the_page_says() -> None:
    lines = EXAMPLE.read_text().splitlines()
    said = re.search(r"ppo_in_one_file\.py\), (\d+) lines, six of them Esper's", PAGE)
    assert said is not None
    assert len(lines) == int(said[1]) < 150
    assert sum(line.endswith("# Esper") for line in lines) == 6
    assert not [line for line in lines if "esper_core" in line and not line.endswith("# Esper")]


def test_the_file_trains_and_leaves_a_run_like_any_other(tmp_path: Path) -> None:
    run_python(tmp_path, str(EXAMPLE), "--steps", "2048", "--rollout", "128")
    (path,) = (tmp_path / "runs").iterdir()
    run = open_run(path)
    updates = [event.payload for event in run.updates()]
    assert [update.update_id for update in updates] == [1, 2, 3, 4]
    assert run.record is not None
    assert run.record.state is RunState.DONE
    assert updates[-1].env_steps == 2048
    for update in updates:
        # In the first minibatch nothing has moved yet: old and new are the same numbers.
        assert update.kl_first_minibatch == pytest.approx(0.0, abs=1e-9)
        assert update.kl_divergence == update.kl_joint
        assert update.minibatches == 16 or update.early_stop is not None
        assert update.entropy is not None
        assert update.explained_variance is not None
    assert run.verdict().label in {"healthy", "warning", "critical"}
