"""What ``esper_core.monitor`` costs a loop: CPU time of the calling thread, per minibatch and per update.

Bounds (issue 17): 60 µs a minibatch of 64 x 5, 0.7 ms an update of 2048 x 5 with a journal. Run with
``python tests/benchmarks/bench_monitor.py``; it exits 1 when a bound is broken. The peer is the KL
of one minibatch as CleanRL computes it, in the same run.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

import torch

from esper_core import monitor

if TYPE_CHECKING:
    from collections.abc import Callable

HEADS = ("a", "b", "c", "d", "e")
BOUNDS_US = {"too_far 64 x 5": 60.0, "ppo_update 2048 x 5": 700.0}


def cpu_us(call: Callable[[], Any], repeats: int) -> list[float]:
    """CPU time of this thread for each call, microseconds."""
    times = []
    for _ in range(repeats):
        begun = time.thread_time_ns()
        call()
        times.append((time.thread_time_ns() - begun) / 1e3)
    return times


def main() -> int:
    """Measure, print, and compare with the bounds."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    old = -torch.rand(2048, 5, generator=generator)
    new = old + 0.02 * torch.randn(2048, 5, generator=generator)
    mask = torch.rand(2048, 5, generator=generator) < 0.7
    small = (new - old)[:64]
    small_mask = mask[:64]
    column = torch.randn(2048, generator=generator)

    def naive() -> float:
        return float(((small.exp() - 1) - small).mean())

    with tempfile.TemporaryDirectory() as folder:
        run = monitor("bench", heads=HEADS, sinks=["journal"], clip_range=0.2, settings={"run": {"dir": folder}})
        rows = {
            "CleanRL's approx_kl 64 x 5": naive,
            "too_far 64 x 5": lambda: run.too_far(small, mask=small_mask),
            "ppo_update 2048 x 5": lambda: run.ppo_update(
                old=old, new=new, mask=mask, advantages=column, returns=column, values=0.5 * column
            ),
        }
        for call in rows.values():
            cpu_us(call, 30)
        broken = False
        for name, call in rows.items():
            times = cpu_us(call, 400 if "update" in name else 2000)
            low, middle, high = statistics.quantiles(times, n=4)
            bound = BOUNDS_US.get(name)
            broken = broken or (bound is not None and middle > bound)
            said = f"   bound {bound:.0f}" if bound is not None else ""
            print(f"{name:<28} {middle:8.1f} µs   quartiles {low:.1f} to {high:.1f}{said}")
        run.close()
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
