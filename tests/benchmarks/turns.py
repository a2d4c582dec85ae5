"""Turn by turn in one process: what the scripts share that compare one piece of work with a peer's.

``esper_bench`` gives each party a process of its own; here one process is enough, since both use torch.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["interleaved", "quartiles_of_ratios"]


def interleaved(cases: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of every case in every round, after one round that does not count."""
    for work in cases.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, work in cases.items():
            begun = time.process_time()
            work()
            seconds[name].append(time.process_time() - begun)
    return seconds


def quartiles_of_ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """First quartile, median and third quartile of the rounds' own ratios."""
    return statistics.quantiles([one / other for one, other in zip(above, below, strict=True)], n=4)
