"""``esper compare``: runs grouped by configuration, seeds as mean and spread, and what differs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from esper_core.cli._columns import aligned
from esper_core.cli._output import say, say_text
from esper_core.cli._parser import add_config_arguments, runs_dir
from esper_core.errors import EXIT_OK, EsperError, UsageError
from esper_core.reading.numbers import plain

if TYPE_CHECKING:
    import argparse

    from esper_core.reading.compare import ComparedRun, Comparison, Group, Stat

__all__ = ["CompareCommand", "command"]

_FORMATS: Final = (".png", ".svg", ".pdf")


class CompareCommand:
    """Compares runs."""

    name = "compare"
    help = "compare runs: grouped by configuration, seeds as mean and spread, what differs"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("runs", nargs="+", metavar="RUN", help="path, id, unique part of one, or latest")
        parser.add_argument("--json", action="store_true", help="one JSON document; NaN is null")
        parser.add_argument(
            "--plot", type=Path, metavar="FILE.png|svg", help="return and KL over environment steps, a band a group"
        )
        parser.add_argument("--dir", metavar="DIR", help="folder that holds the runs; default run.dir, which is runs")
        add_config_arguments(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Print the table, or the document; draw the plot."""
        from esper_core.cli._progress import followed
        from esper_core.reading import open_run
        from esper_core.reading.compare import compare

        if args.plot is not None and args.plot.suffix not in _FORMATS:
            raise UsageError(f"--plot {args.plot}: expected a file that ends in {', '.join(_FORMATS)}")
        base = runs_dir(args)
        found = compare([open_run(spec, base) for spec in args.runs], follow=followed)
        if args.json:
            say_text(json.dumps(_document(found), indent=2))
        else:
            say(*_lines(found))
        if args.plot is not None:
            _draw(found, args.plot)
            if not args.json:
                say(f"plot written to {args.plot}")
        return EXIT_OK


def _draw(found: Comparison, path: Path) -> None:
    try:
        from esper_core.cli._compare_plot import draw
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--plot needs {error.name}, which is not installed", hint="pip install 'esper-core[plot]'"
        ) from error
    try:
        draw(found, path)
    except OSError as error:
        raise EsperError(f"cannot write {path}: {error.strerror or error}") from error


# --- for people -----------------------------------------------------------------------------------


def _lines(found: Comparison) -> list[str]:
    on = {run.kl_on for group in found.groups for run in group.runs}
    kl = "JOINT KL" if on == {"joint"} else "KL"
    rows: list[tuple[str, ...]] = [("GROUP", "RUNS", "VERDICTS", "UPDATES", "RETURN", kl, "STOPPED", "SEEDS")]
    rows += [_row(group) for group in found.groups]
    lines = aligned(rows, frozenset({1, 3, 4, 5, 6}))
    lines += ["", "RETURN and KL: mean over seeds ± standard deviation; KL in nats, over each run's last 10 updates"]
    for group in found.groups:
        lines.append(f"{group.name}: {', '.join(run.run_id for run in group.runs)}")
    if found.differing:
        lines += ["", "what differs:"]
        heading = ("KEY", *(group.name for group in found.groups))
        lines += aligned([heading, *((key, *map(_value, values)) for key, values in found.differing.items())])
    elif len(found.groups) == 1 and len(found.groups[0].runs) > 1:
        lines += ["", "all runs have the same configuration, apart from seed and name"]
    return [*lines, *(f"note: {note}" for note in found.notes)]


def _row(group: Group) -> tuple[str, ...]:
    verdicts: dict[str, int] = {}
    for run in group.runs:
        verdicts[run.verdict] = verdicts.get(run.verdict, 0) + 1
    seeds = [str(run.seed) if run.seed is not None else "?" for run in group.runs]
    return (
        group.name,
        str(len(group.runs)),
        ", ".join(name if count == 1 else f"{count} {name}" for name, count in verdicts.items()),
        _span([run.updates for run in group.runs]),
        _stat(group.stat(_last_return), 1),
        _stat(group.stat(_last_kl), 4),
        _percent(group.stat(_stopped)),
        ", ".join(seeds),
    )


def _last_return(run: ComparedRun) -> float | None:
    return run.last_return


def _last_kl(run: ComparedRun) -> float | None:
    return run.last_kl


def _stopped(run: ComparedRun) -> float | None:
    return run.stopped_share


def _span(counts: list[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def _stat(stat: Stat, digits: int) -> str:
    spread = f" ± {plain(stat.deviation, digits)}" if stat.deviation is not None else ""
    return f"{plain(stat.mean, digits)}{spread}"


def _percent(stat: Stat) -> str:
    return "—" if stat.mean is None else f"{100 * stat.mean:.0f}%"


def _value(value: Any) -> str:
    from esper_core.reading.settings import setting_text

    return "—" if value is None else setting_text(value)


# --- for programs ---------------------------------------------------------------------------------


def _document(found: Comparison) -> dict[str, Any]:
    return {
        "groups": [
            {
                "group": group.name,
                "return_mean_100": _plain(group.stat(_last_return)),
                "kl_last_10": _plain(group.stat(_last_kl)),
                "early_stopped": _plain(group.stat(_stopped)),
                "runs": [
                    {
                        "run": run.run_id,
                        "seed": run.seed,
                        "state": run.state,
                        "verdict": run.verdict,
                        "kl_on": run.kl_on,
                        "updates": run.updates,
                        "early_stops": run.early_stops,
                        "env_steps": list(run.env_steps),
                        "kl": [_finite(value) for value in run.kl],
                        "returns": [_finite(value) for value in run.returns],
                    }
                    for run in group.runs
                ],
            }
            for group in found.groups
        ],
        "differing": {
            key: dict(zip((group.name for group in found.groups), values, strict=True))
            for key, values in found.differing.items()
        },
        "notes": list(found.notes),
    }


def _plain(stat: Stat) -> dict[str, float | int | None]:
    return {"mean": stat.mean, "deviation": stat.deviation, "runs": stat.count}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


command = CompareCommand()
