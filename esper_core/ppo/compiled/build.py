"""Builds a step in a process of its own: ``python -m esper_core.ppo.compiled.build PLAN FILE``.

A process of its own, since the compiler takes 200 MB, threads and settings of the whole process, may be interrupted
anywhere, and must not take the run with it when it fails.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Final

import msgspec
import torch

from esper_core.ppo.adam import FlatAdam
from esper_core.ppo.compiled.graph import STATE, samples_of, step_of
from esper_core.ppo.compiled.plan import Plan

__all__ = ["build"]

_MOST: Final = 2**31 - 1
"""Samples of a minibatch."""


def build(plan: Plan, file: Path) -> None:
    """Trace the step of a plan, compile it, and write it as a package of AOTInductor."""
    from torch._inductor import aoti_compile_and_package  # noqa: PLC0415  # imports torch's compiler

    program = _program(plan)
    _set(cpp_cache_precompile_headers=False)  # which pays from the third program on
    _set("aot_inductor", precompile_headers=False)
    try:
        _set("cpp", vec_isa_ok=True)  # not tried one by one, which takes half of the time
        aoti_compile_and_package(program, package_path=str(file))
    except Exception:  # noqa: BLE001  # a compiler that does not know them all
        _set("cpp", vec_isa_ok=None)
        aoti_compile_and_package(program, package_path=str(file))


def _program(plan: Plan) -> torch.export.ExportedProgram:
    from torch.fx.experimental.proxy_tensor import make_fx  # noqa: PLC0415  # as above

    policy = plan.policy()
    state = FlatAdam(policy.learned(), 1e-3).state()
    if state is None:
        raise TypeError("the policy is not one vector of float32 on the CPU")
    samples = samples_of(plan.minibatch())
    inputs = (*(part.detach().clone() for part in state[:STATE]), torch.ones(7), *samples)
    with torch.no_grad():
        # Twice: the first trace takes autograd's operations in, and the second makes a program of them.
        # The policy's buffers (which heads choose, what is padding) are no inputs, but constants of the program.
        trace = make_fx(step_of(policy, plan.config), tracing_mode="symbolic", _allow_non_fake_inputs=True)
        traced = trace(*inputs)
        many = torch.export.Dim("samples", min=2, max=_MOST)
        shapes = (*(None,) * (STATE + 1), *({0: many} for _ in samples))
        return torch.export.export(traced, inputs, dynamic_shapes=shapes, strict=False)


def _set(table: str = "", **settings: object) -> None:
    """Set what torch's compiler knows of these settings; another version may not have them."""
    from torch._inductor import config  # noqa: PLC0415  # as above

    target = getattr(config, table) if table else config
    for name, value in settings.items():
        if hasattr(target, name):
            setattr(target, name, value)


def _end_with_parent() -> None:
    """End this process and its compilers when standard input closes: whoever waits for the step has ended."""
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _plan, _file = map(Path, sys.argv[1:])
    build(msgspec.msgpack.decode(_plan.read_bytes(), type=Plan), _file)
