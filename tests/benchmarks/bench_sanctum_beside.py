"""What a viewer beside it costs the training: interleaved pairs, with and without, median and confidence interval.

    python tests/benchmarks/bench_sanctum_beside.py [--pairs 20] [--updates 40] [-- words for esper ppo]

Each pair is one training alone and one with ``esper sanctum`` attached on a pseudo-terminal, in alternating order.
The figure is the ratio of their environment steps per second; the interval is a bootstrap over the pairs. The ratio of
the trainers' own CPU seconds stands beside it: other load on the machine moves it less.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from bench_sanctum import Viewer

from esper_core.reading import open_run
from esper_core.runs import list_runs


def train(base: Path, words: list[str], *, watched: bool) -> dict[str, float]:
    """One training: steps per second over its last two thirds, and CPU seconds of its own process."""
    before = _children_cpu()
    trainer = subprocess.Popen(
        [sys.executable, "-m", "esper_core", "ppo", "--dir", str(base), "--sinks", "journal", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    viewer = None
    while trainer.poll() is None and not list_runs(base):
        time.sleep(0.02)
    if watched and trainer.poll() is None:
        viewer = Viewer(list_runs(base)[0])
        viewer.keep = False
    _, said = trainer.communicate()
    if trainer.returncode:
        raise SystemExit(said.decode())
    cpu = _children_cpu() - before  # the viewer has not been waited for yet, so this is the trainer's alone
    if viewer is not None:
        viewer.close()
    run = list_runs(base)[0]
    updates = list(open_run(run.path).updates())
    # The viewer starts within the first third; what it costs while it watches is the rest.
    first, last = updates[len(updates) // 3], updates[-1]
    seconds = (last.time_ns - first.time_ns) / 1e9
    return {
        "steps_per_s": (last.payload.env_steps - first.payload.env_steps) / seconds,
        "cpu_s": cpu,
    }


def _children_cpu() -> float:
    """CPU seconds of the children that have been waited for."""
    usage = os.times()
    return usage.children_user + usage.children_system


def interval(ratios: list[float], draws: int = 4000) -> tuple[float, float]:
    """95 % of the medians of resampled pairs."""
    rnd = random.Random(7)
    medians = sorted(statistics.median(rnd.choices(ratios, k=len(ratios))) for _ in range(draws))
    return medians[int(draws * 0.025)], medians[int(draws * 0.975)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--updates", type=int, default=40)
    parser.add_argument("words", nargs="*", help="further words for esper ppo")
    args = parser.parse_args()
    words = ["--updates", str(args.updates), *args.words]
    ratios, cpu_ratios, alone_speeds = [], [], []
    for pair in range(args.pairs):
        seen = {}
        for watched in (False, True) if pair % 2 == 0 else (True, False):
            with tempfile.TemporaryDirectory(prefix="esper-bench-") as folder:
                seen[watched] = train(Path(folder), words, watched=watched)
        speeds = {watched: found["steps_per_s"] for watched, found in seen.items()}
        ratios.append(speeds[True] / speeds[False])
        cpu_ratios.append(seen[True]["cpu_s"] / seen[False]["cpu_s"])
        alone_speeds.append(speeds[False])
        print(f"pair {pair + 1:2d}: alone {speeds[False]:8.1f}  watched {speeds[True]:8.1f} steps/s", file=sys.stderr)
    low, high = interval(ratios)
    cpu_low, cpu_high = interval(cpu_ratios)
    print(
        json.dumps(
            {
                "pairs": len(ratios),
                "steps_per_s_alone_median": round(statistics.median(alone_speeds), 1),
                "speed_with_viewer_median_percent": round(statistics.median(ratios) * 100, 2),
                "confidence_95_percent": [round(low * 100, 2), round(high * 100, 2)],
                "trainer_cpu_with_viewer_median_percent": round(statistics.median(cpu_ratios) * 100, 2),
                "cpu_confidence_95_percent": [round(cpu_low * 100, 2), round(cpu_high * 100, 2)],
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
