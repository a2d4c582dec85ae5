"""Runs something in a forked child, and waits for its end."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["GUARD_S", "exit_code_of", "run_in_child"]

GUARD_S = 250.0


def run_in_child(work: Callable[[], Any]) -> int:
    """Run something in a forked child; return its exit code: 0 when it returned something true."""
    pid = os.fork()
    if pid == 0:
        code = 3
        try:
            code = 0 if work() else 2
        finally:
            os._exit(code)
    return exit_code_of(pid)


def exit_code_of(pid: int) -> int:
    until = time.monotonic() + GUARD_S
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    pytest.fail("the child never ended")
