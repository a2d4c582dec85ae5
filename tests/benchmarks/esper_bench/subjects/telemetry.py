"""What logging one update costs the training loop: Esper's event with spans, metrics, logs and journal; the peers get
the same numbers by name."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final

from esper_bench.peers import MLFLOW, TENSORBOARD, TENSORBOARDX, TRACKIO, WANDB
from esper_bench.row import Row
from esper_bench.subjects import _loggers as loggers

if TYPE_CHECKING:
    from contextlib import ExitStack

    from esper_bench.row import Party, Setup, Work

__all__ = ["ROWS"]

UPDATES: Final = {1: 400, 5: 200, 50: 40, 200: 10}
"""Heads -> updates a turn."""


def _esper(heads: int, updates: int) -> Setup:
    """The emitter's calls of one iteration, in a session with the journal and the SDK."""

    def setup(stack: ExitStack) -> Work:
        import bench_telemetry

        session = stack.enter_context(loggers.session(stack))
        iteration = bench_telemetry.updates(session.emitter, loggers.payload(heads))

        def work() -> int:
            for _ in range(updates):
                iteration()
            return updates

        return work

    return setup


def _peer(logger: loggers.Logger, heads: int, updates: int) -> Setup:
    def setup(stack: ExitStack) -> Work:
        log = logger(stack)
        found = loggers.numbers(loggers.payload(heads))
        step = iter(range(10**9))

        def work() -> int:
            for _ in range(updates):
                log(found, next(step))
            return updates

        return work

    return setup


def _peers(heads: int, updates: int) -> tuple[Party, ...]:
    doing = functools.partial(_peer, heads=heads, updates=updates)
    return (
        TENSORBOARDX.doing(doing(loggers.tensorboardx)),
        TENSORBOARD.doing(doing(loggers.tensorboard)),
        WANDB.doing(doing(loggers.wandb)),
        TRACKIO.doing(doing(loggers.trackio)),
        MLFLOW.doing(_peer(loggers.mlflow, heads, max(5, updates // 5))),
    )


def _row(heads: int) -> Row:
    return Row(
        f"telemetry, {heads} head{'s' if heads > 1 else ''}",
        "CPU time of the calling thread: what the training loop pays; everything else runs behind it",
        "µs",
        _esper(heads, UPDATES[heads]),
        _peers(heads, UPDATES[heads]),
        per="update",
        clock="thread",
        quick=heads == 5,
    )


ROWS: Final = (
    *(_row(heads) for heads in UPDATES),
    Row(
        "telemetry, 5 heads, all of it",
        "CPU time of the whole process and of every process it has started, such as a logger's service",
        "µs",
        _esper(5, 300),
        _peers(5, 300),
        per="update",
        clock="tree",
        rounds=5,
    ),
)
