"""The KL of one minibatch of 64 steps, per head, as numbers of Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from esper_bench.peers import TORCH
from esper_bench.row import Row

if TYPE_CHECKING:
    from contextlib import ExitStack

    from esper_bench.row import Setup, Work

__all__ = ["ROWS"]

CALLS: Final = 400


def _minibatch(heads: int) -> tuple[Any, Any]:
    """Log-ratios (64, heads) in nats, and which heads decided, seven of ten."""
    import torch

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    return 0.1 * torch.randn(64, heads, generator=generator), torch.rand(64, heads, generator=generator) < 0.7


def _esper(heads: int) -> Setup:
    def setup(_: ExitStack) -> Work:
        from esper_core.kl.torch import k3_sums

        log_ratio, active = _minibatch(heads)

        def work() -> int:
            for _ in range(CALLS):
                k3_sums(log_ratio, active).tolist()
            return CALLS

        return work

    return setup


def _loop(heads: int) -> Setup:
    """The usual way to have it per head: a Python loop with a transfer for every number."""

    def setup(_: ExitStack) -> Work:
        import bench_ppo

        log_ratio, active = _minibatch(heads)

        def work() -> int:
            for _ in range(CALLS):
                bench_ppo.naive_kl(log_ratio, active)
            return CALLS

        return work

    return setup


def _joint(heads: int) -> Setup:
    """SB3's statements for its approx_kl: one number of the joint ratio, without heads or masks."""

    def setup(_: ExitStack) -> Work:
        import torch

        log_ratio, _active = _minibatch(heads)

        def work() -> int:
            for _ in range(CALLS):
                with torch.no_grad():
                    joint = log_ratio.sum(-1)
                    torch.mean((torch.exp(joint) - 1) - joint).cpu().numpy()
            return CALLS

        return work

    return setup


def _row(heads: int) -> Row:
    return Row(
        f"KL, {heads} head{'s' if heads > 1 else ''}",
        "64 steps; Esper: every head's k3 with masks; the loop: the same by head; joint: one number, no heads",
        "µs",
        _esper(heads),
        (TORCH.doing(_loop(heads), "a loop over heads"), TORCH.doing(_joint(heads), "SB3's joint formula")),
        per="minibatch",
        quick=heads == 5,
    )


ROWS: Final = tuple(_row(heads) for heads in (1, 5, 50))
