"""The table of docs/reference/presets.md holds what ran with the presets as they are, and says what did not run."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from presets_page import benchmark, measured

if TYPE_CHECKING:
    from pathlib import Path

RESULT = {"steps_taken": 1, "cpu_s": 2.0, "last_100": 3.0, "greedy": 4.0}


def test_results_are_kept_and_come_back_and_those_of_older_values_leave_the_table(tmp_path: Path) -> None:
    found = benchmark()
    task = found.TASKS[0]
    file = tmp_path / "results" / "presets.jsonl"
    assert found.known(file) == {}
    now = task.job(1, "esper")
    for job, greedy in ((now, 490.004), (task.job(2, "esper"), 500.0), (task.job(1, "sb3"), 480.0)):
        found.keep(job, {**RESULT, "greedy": greedy}, file)
    for older in ({"digest": "of older values"}, {"steps": 1}):
        found.keep(dataclasses.replace(now, **older), {**RESULT, "greedy": -1e6}, file)
    known = found.known(file)
    assert known[now]["greedy"] == 490.0
    assert len(known) == 5
    table = measured([task], known)
    assert "| Esper | 2 | 495.0 ± 7.1 | 3.0 ± 0.0 | 2 ± 0 |" in table
    assert "| SB3 | 1 | 480.0 | 3.0 | 2 |" in table
    assert "were not run" in table


def test_a_task_without_results_is_in_the_table_as_not_run() -> None:
    task = benchmark().TASKS[0]
    table = measured([task], {})
    assert "| Esper | 0 | not run | not run | not run |" in table
    assert "| SB3 | 0 | not run | not run | not run |" in table
    assert "`make bench-presets ARGS=ENVIRONMENT` runs them" in table
