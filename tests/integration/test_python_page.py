"""Every block of docs/how-to/train-and-read-from-python.md runs, in order, and prints what the page says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("esper_sink_journal", reason="the page's runs are journaled")

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "train-and-read-from-python.md"
BLOCKS = re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", PAGE.read_text(), re.DOTALL)
_END = "--- end of a block ---"


def test_every_block_runs_and_prints_what_the_page_says(tmp_path: Path) -> None:
    script = tmp_path / "page.py"
    script.write_text("\n".join(f"{code}\nprint({_END!r})" for code, _ in BLOCKS))
    done = subprocess.run(
        [sys.executable, "-W", "error", script.name],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    printed = done.stdout.split(f"{_END}\n")
    assert len(BLOCKS) > 8
    for (code, expected), words in zip(BLOCKS, printed, strict=False):
        assert not expected or words == expected, code
