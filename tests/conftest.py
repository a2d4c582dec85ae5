"""Shared fixtures: a clean environment, and subprocesses that end with the test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# A test runner that was started in the background ignores these, and every process that a test starts would inherit
# that. A handler, unlike an ignored signal, ends at exec: the child then has the default.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

_FOREIGN = ("ESPER_", "OTEL_")
_SINGLE = ("TRACEPARENT", "TRACESTATE")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables of the person who runs the tests change nothing."""
    for name in list(os.environ):
        if name.startswith(_FOREIGN) or name in _SINGLE:
            monkeypatch.delenv(name)


@pytest.fixture
def eventually() -> Callable[..., Any]:
    """Wait until a check holds and return what it said.

    The time is a guard against hanging, far longer than any machine needs: no test is about how fast something is.
    """

    def wait(check: Callable[[], Any], timeout_s: float = 250.0) -> Any:
        until = time.monotonic() + timeout_s
        while not (found := check()):
            assert time.monotonic() < until, "it never came"
            time.sleep(0.005)
        return found

    return wait


@pytest.fixture
def start_python() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start ``python -c SCRIPT``; whatever still runs at the end of the test is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(script: str, *, cwd: Path | None = None, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", script],
            cwd=cwd,
            env=dict(os.environ) | (env or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
