"""The example in the docstring of Session runs as it is printed."""

from __future__ import annotations

import inspect
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from esper_core import Session

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("esper_sink_journal", reason="the example writes a journal")


LIMITS = "[health]\nkl_warning = 0.6\nkl_critical = 0.9\n"


@pytest.mark.parametrize(
    ("config", "kl", "verdict"),
    [("", 0.5, "critical"), ("", 0.001, "healthy"), (LIMITS, 0.5, "healthy"), (LIMITS, 0.9, "critical")],
)
def test_a_loop_of_ones_own_is_judged_by_the_kl_it_emits_and_by_its_limits(
    config: str, kl: float, verdict: str, tmp_path: Path
) -> None:
    (tmp_path / "esper.toml").write_text(config)
    text = inspect.getdoc(Session) or ""
    example = text.partition("::\n")[2].partition("\nArgs:")[0]
    program = tmp_path / "program.py"
    program.write_text(f"def my_update(): return {kl}\n{textwrap.dedent(example)}")
    done = subprocess.run(
        [sys.executable, "-W", "error", program.name],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"0 {verdict}\n"
