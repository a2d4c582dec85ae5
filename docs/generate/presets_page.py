"""The page ``docs/reference/presets.md``: every preset, and what ``make bench-presets`` measured of it."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from esper_core.config.show import dump_toml
from esper_core.config.tuned import TUNED
from modules import load_module
from tables import template

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import ModuleType

_BENCHMARKS: Final = Path(__file__).resolve().parents[2] / "tests" / "benchmarks"
_LIBRARIES: Final = {"esper": "Esper", "sb3": "SB3"}
_MEASURES: Final = {"greedy": 1, "last_100": 1, "cpu_s": 0}
"""Column -> decimals."""


def presets_page() -> str:
    """What was measured, then every preset as TOML."""
    results = benchmark()
    table = measured(results.TASKS, results.known())
    parts = [template("presets.md.txt").replace("{measured}", table.rstrip()).rstrip(), ""]
    for preset in TUNED:
        ids = ", ".join(f"`{pattern}`" for pattern in preset.environments)
        parts += [f"## `{preset.name}`", "", f"For {ids}." if ids else "For none by itself: name it.", ""]
        parts += ["```toml", dump_toml(dict(preset.tables)).rstrip(), "```", ""]
    return "\n".join(parts)


def benchmark() -> ModuleType:
    """What the benchmark trains and found: ``tests/benchmarks/preset_results.py``."""
    path = _BENCHMARKS / "preset_results.py"
    found = load_module(path)
    if found is None:
        raise FileNotFoundError(path)
    return found


def measured(tasks: Sequence[Any], known: Mapping[Any, Mapping[str, Any]]) -> str:
    """The table of results, then the machines.

    Args:
        tasks: the benchmark's; those without results are in the table too.
        known: its results by job; those of another number of steps, or of values that the preset had once, are not.
    """
    lines = [
        "| environment (solved at) | steps | library | seeds | greedy return | last 100 episodes | CPU s |",
        "|---|---|---|---|---|---|---|",
    ]
    machines: dict[str, None] = {}
    missing = False
    for task in tasks:
        for library, label in _LIBRARIES.items():
            rows = _rows(known, task, library)
            machines |= dict.fromkeys(row["machine"] for row in rows)
            lines.append(f"| {_heading(task) if library == 'esper' else ' | '} | {label} | {_cells(rows)} |")
            missing |= len(rows) < len(task.seeds)
    said = f"\nMeasured on {'; '.join(machines)}.\n" if machines else ""
    if missing:
        said += "\nSeeds that do not stand here were not run: `make bench-presets ARGS=ENVIRONMENT` runs them.\n"
    return "\n".join(lines) + "\n" + said


def _rows(known: Mapping[Any, Mapping[str, Any]], task: Any, library: str) -> list[Mapping[str, Any]]:
    """The results of a task's preset as it is now, all seeds."""
    current = task.job(0, library)
    return [row for job, row in known.items() if _same(job, current)]


def _same(job: Any, other: Any) -> bool:
    return all(getattr(job, key) == getattr(other, key) for key in ("env_id", "library", "steps", "digest"))


def _heading(task: Any) -> str:
    solved = "" if task.threshold is None else f" ({task.threshold:g})"
    preset = f", preset `{task.named}`" if task.named else ""
    return f"`{task.env_id}`{preset}{solved} | {task.steps:,}"


def _cells(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "0 | not run | not run | not run"
    cells = [_spread([row[key] for row in rows if row[key] is not None], places) for key, places in _MEASURES.items()]
    return f"{len(rows)} | {' | '.join(cells)}"


def _spread(values: Iterable[float], places: int) -> str:
    """Mean, and the sample's standard deviation where there is one."""
    found = list(values)
    if not found:
        return "none finished"
    mean = f"{statistics.fmean(found):.{places}f}"
    return mean if len(found) == 1 else f"{mean} ± {statistics.stdev(found):.{places}f}"
