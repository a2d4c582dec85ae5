"""One PPO update: the same sizes and hyperparameters; Esper's stop check, report and final pass are on."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

from esper_bench.peers import SB3, SBX, TIANSHOU
from esper_bench.row import Row

if TYPE_CHECKING:
    from contextlib import ExitStack

    from esper_bench.row import Setup, Work

__all__ = ["ROWS"]


def _esper(size: str) -> Setup:
    def setup(_: ExitStack) -> Work:
        import bench_update

        return _turn(bench_update.esper_update(bench_update.ROWS[size]))

    return setup


def _sb3(size: str) -> Setup:
    def setup(_: ExitStack) -> Work:
        import bench_update

        return _turn(bench_update.sb3_update(bench_update.ROWS[size]))

    return setup


def _sbx(size: str) -> Setup:
    """JAX: one compiled call a minibatch, and nothing stops an update."""

    def setup(_: ExitStack) -> Work:
        import bench_update
        import sbx

        return _turn(bench_update.sb3_update(bench_update.ROWS[size], algorithm=sbx.PPO))

    return setup


def _tianshou(size: str) -> Setup:
    def setup(_: ExitStack) -> Work:
        import bench_update

        from esper_bench.subjects._tianshou import tianshou_update

        return _turn(tianshou_update(bench_update.ROWS[size]))

    return setup


def _turn(update: Any) -> Work:
    import torch

    torch.set_num_threads(1)

    def work() -> int:
        update()
        return 1

    return work


_row: Final = functools.partial(Row, unit="ms", per="update")
_COMPILED: Final = tuple(
    _row(
        f"update, {size}, compiled",
        f"Esper with `[ppo] compile = true`, built before the turns that count; the peers as in update, {size}",
        ours=_esper(f"{size} compiled"),
        others=others,
        rounds=rounds,
    )
    for size, rounds, others in (
        ("small", 9, (SB3.doing(_sb3("small")), SBX.doing(_sbx("small")))),
        ("five heads", 9, (SB3.doing(_sb3("five heads")), SBX.doing(_sbx("five heads")))),
        ("256x256", 4, (SB3.doing(_sb3("256x256")), SBX.doing(_sbx("256x256")))),
    )
)

ROWS: Final = (
    _row(
        "update, small",
        "4 observations, 2 actions, 2 x 64 tanh; 2048 steps, minibatch 64, 10 epochs: 320 optimizer steps",
        ours=_esper("small"),
        others=(SB3.doing(_sb3("small")), SBX.doing(_sbx("small")), TIANSHOU.doing(_tianshou("small"))),
        quick=True,
    ),
    _row(
        "update, five heads",
        "the same with MultiDiscrete(3, 5, 3, 3, 4)",
        ours=_esper("five heads"),
        others=(SB3.doing(_sb3("five heads")), SBX.doing(_sbx("five heads"))),
    ),
    _row(
        "update, 256x256",
        "2 x 256 tanh; 16,384 steps, minibatch 4096, 10 epochs: 40 optimizer steps",
        ours=_esper("256x256"),
        others=(SB3.doing(_sb3("256x256")), SBX.doing(_sbx("256x256")), TIANSHOU.doing(_tianshou("256x256"))),
        rounds=4,
    ),
    *_COMPILED,
)
