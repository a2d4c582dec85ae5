"""One PPO update on a GPU: eager, captured (``ppo.compile``) and Stable-Baselines3's, over heads and batches.

Wall time, since most of what an update costs there is waiting or launching; each time the GPU is waited for. A round
runs every case once. ``waits`` is how often Esper's update waits for the GPU; one a minibatch is the stop check's.
Usage: ``python tests/benchmarks/bench_gpu.py [--rounds 5] [ROW ...]``; needs a CUDA device and stable-baselines3.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from bench_update import EPOCHS, Row, esper_update, sb3_update
from gpu_waits import waits

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS = {
    "1 head, 2048 in 64": Row((2,), 2048, 64, (64, 64), None),
    "5 heads, 2048 in 64": Row((3, 5, 3, 3, 4), 2048, 64, (64, 64), None),
    "20 heads, 2048 in 64": Row((4,) * 20, 2048, 64, (64, 64), None),
    "1 head, 16384 in 4096": Row((2,), 16384, 4096, (256, 256), None),
    "5 heads, 16384 in 4096": Row((3, 5, 3, 3, 4), 16384, 4096, (256, 256), None),
    "20 heads, 16384 in 4096": Row((4,) * 20, 16384, 4096, (256, 256), None),
    "5 heads, 131072 in 16384": Row((3, 5, 3, 3, 4), 131072, 16384, (256, 256), None),
    "5 heads, 524288 in 65536": Row((3, 5, 3, 3, 4), 524288, 65536, (256, 256), None),
}
"""Samples of a rollout and of a minibatch; layers of 64x64 or 256x256."""

PEER_MOST = 16384
"""Samples that Stable-Baselines3 is asked to collect before it learns: its rollout is one environment's."""


def wall(work: Callable[[], object]) -> float:
    """Seconds until the GPU has done the work."""
    torch.cuda.synchronize()
    begun = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - begun


def cases_of(row: Row) -> dict[str, Callable[[], object]]:
    """What takes turns in a row."""
    cases = {
        "eager": esper_update(row, device="cuda"),
        "captured": esper_update(replace(row, compile=True), device="cuda"),
    }
    if row.samples <= PEER_MOST:
        cases |= {"sb3": sb3_update(row, device="cuda"), "cpu": esper_update(row)}
    return cases


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("torch finds no CUDA device here: nothing was measured")
        return
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}")
    columns = "".join(f"{column:>9s}" for column in ("SB3", "eager", "captured", "CPU"))
    print(f"{'one update, ms':26s}{columns}  minibatches  waits (eager, captured)")
    for name in args.rows or ROWS:
        row = ROWS[name]
        cases = cases_of(row)
        for work in cases.values():
            work()
        seconds: dict[str, list[float]] = {case: [] for case in cases}
        for _ in range(args.rounds):
            for case, work in cases.items():
                seconds[case].append(wall(work))
        shown = [
            f"{statistics.median(seconds[case]) * 1e3:9.1f}" if case in seconds else f"{'-':>9s}"
            for case in ("sb3", "eager", "captured", "cpu")
        ]
        minibatches = EPOCHS * row.samples // row.minibatch
        waited = ", ".join(str(waits(cases[case])) for case in ("eager", "captured"))
        print(f"{name:26s}{''.join(shown)}{minibatches:13d}  {waited}", flush=True)


if __name__ == "__main__":
    main()
