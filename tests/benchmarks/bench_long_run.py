"""What reading a long run takes: report, compare and export of 100,000 updates, CPU seconds and memory.

The run is written by ``monitor`` with two heads and one episode an update. Usage: ``python
tests/benchmarks/bench_long_run.py [--updates N]``. The CPU time of a process does not depend on what else runs on the
machine as much as its wall-clock time, which is not shown.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from esper_core import monitor


def write(folder: Path, updates: int) -> Path:
    """A run of so many updates."""
    settings = {"run": {"dir": str(folder)}}
    draw = random.Random(0)
    with monitor("Toy", name="long", heads=("a", "b"), target_kl=0.02, sinks=["journal"], settings=settings) as run:
        for update in range(1, updates + 1):
            run.episode(float(update % 500))
            kl = 0.005 + 0.004 * draw.random()
            run.ppo_update(kl=[[kl, kl / 2]], env_steps=100 * update)
    assert run.path is not None
    return run.path


def spent(*words: str) -> tuple[float, float]:
    """CPU seconds and largest memory in MiB of one command."""
    process = subprocess.Popen([sys.executable, "-m", "esper_core", *words], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"esper {' '.join(words)} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=100_000, metavar="N", help="default %(default)s")
    updates: int = parser.parse_args().updates
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = str(write(folder / "runs", updates))
        size = sum(item.stat().st_size for item in Path(run, "telemetry").iterdir())
        print(f"{updates:,} updates, journal {size / 1e6:.0f} MB\n")
        print("| command | CPU s | memory MiB | writes MB |\n| --- | ---: | ---: | ---: |")
        outputs = {
            "report": ("-o", folder / "report.html"),
            "compare": (),
            "export --csv": ("-o", folder / "updates.csv"),
            "export --jsonl": ("-o", folder / "updates.jsonl"),
            "export --sqlite": (folder / "updates.sqlite",),
            "export --parquet": (folder / "updates.parquet",),
        }
        for words, target in outputs.items():
            if "parquet" in words and importlib.util.find_spec("duckdb") is None:
                print("| `export --parquet` | duckdb is not installed |  |  |")
                continue
            command, *form = words.split()
            cpu, memory = spent(command, run, *form, *map(str, target))
            written = f"{target[-1].stat().st_size / 1e6:.2f}" if target and isinstance(target[-1], Path) else ""
            print(f"| `{words}` | {cpu:.1f} | {memory:.0f} | {written} |")


if __name__ == "__main__":
    main()
