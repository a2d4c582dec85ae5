"""The how-to on causal masks does what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from esper_core.reading import open_run

pytest.importorskip("esper_sink_journal", reason="a run on disk needs the journal")

pytestmark = pytest.mark.numeric

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "bring-your-own-causal-masks.md"


def test_the_page_trains(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code is not None
    assert len([line for line in code[1].splitlines() if line.strip()]) <= 30
    (tmp_path / "valves.py").write_text(code[1], encoding="utf-8")
    # The function that the page mentions at its end, and the same mask as the table's.
    (tmp_path / "my_masks.py").write_text(
        "import numpy as np\n\ndef counts(actions):\n"
        "    opened = actions[:, 2:] == 1\n    return np.concatenate([opened, opened, opened | True], 1)\n",
        encoding="utf-8",
    )
    command = re.search(r"\$ PYTHONPATH=\. (esper ppo --env valves.*)", text)
    assert command is not None
    found = []
    for name, extra in (("table", ()), ("function", ("--set", "env.causal_mask=my_masks:counts"))):
        words = command[1].replace("--updates 20", "--updates 2").split()[1:]
        done = subprocess.run(
            [sys.executable, "-m", "esper_core", *words, "--dir", str(tmp_path / name), "--sinks", "journal", *extra],
            cwd=tmp_path,
            env=dict(os.environ) | {"PYTHONPATH": "."},
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found.append([update.payload.heads for update in open_run("latest", base=tmp_path / name).updates()])
    table, function = found
    assert len(table) == 2
    valve, amount, operation = table[-1]
    assert [head.name for head in table[-1]] == ["valve", "amount", "operation"]
    # Where one valve alone can be opened, which one is no choice.
    assert 0 < valve.decisions <= amount.decisions < operation.decisions
    assert [head.decisions for head in function[0]] == [head.decisions for head in table[0]]
    assert [head.kl for head in function[0]] == [head.kl for head in table[0]]
