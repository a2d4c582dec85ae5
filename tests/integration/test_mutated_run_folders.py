"""A small part of ``tests/benchmarks/fuzz_runs.py``: on mutated run folders no command crashes and none hangs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FUZZ = Path(__file__).parents[1] / "benchmarks" / "fuzz_runs.py"


def test_no_command_crashes_or_hangs_on_mutated_run_folders() -> None:
    words = ["--seed", "7", "--count", "40", "--jobs", "1", "--real", "0"]
    done = subprocess.run([sys.executable, str(FUZZ), *words], capture_output=True, text=True, timeout=500, check=False)
    assert done.stdout.splitlines()[-1:] == ["crashes 0, hangs 0"], done.stdout + done.stderr
    assert done.returncode == 0
