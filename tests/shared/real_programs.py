"""Real programs for one test: found on PATH, on free loopback ports, in own directories, with bounded waits.

A program that is not on PATH skips the test with the reason; under ``CI=true`` it fails, so that CI cannot quietly
stop testing what it promises. Nothing here knows where programs come from.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["READY_S", "Program", "free_ports", "get_json", "require", "wait_for"]

READY_S = 250.0
_NOT_YET = (OSError, http.client.HTTPException)
"""What a server may do that has not begun, or is ending: refuse, reset, or answer half a line."""


def require(program: str) -> str:
    """Path of a program, or a skip that says what is missing; a failure in CI."""
    found = shutil.which(program)
    if found is None:
        reason = f"{program} is not on PATH (collector-config/README.md says where to get it)"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return found


def free_ports(count: int) -> list[int]:
    """Free loopback ports; all are bound while they are chosen, so that they differ.

    By chance from those that no system gives out by itself: a port from the ephemeral range may be some client's, or
    some other test's port 0, before the program that is told of it listens.
    """
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        while len(found) < count:
            port = _chance.randrange(*_NOT_EPHEMERAL)
            with contextlib.suppress(OSError):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
                found.append(port)
    return found


_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 4
_NOT_EPHEMERAL = (12_000 + 5_000 * _worker, 17_000 + 5_000 * _worker)
"""Each of four workers has its own: a server that is away for a while has its port back when it returns."""
_chance = random.SystemRandom()


def get_json(url: str, timeout_s: float = READY_S) -> Any:
    """A JSON document; an HTTP error has its text in it."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{url}: {error.code} {error.read()[:500].decode()}") from error


def wait_for(check: Callable[[], Any], what: str, timeout_s: float = READY_S, every_s: float = 0.05) -> Any:
    """Poll until ``check`` returns something true; the last error or value is in the failure."""
    until = time.monotonic() + timeout_s
    last: object = None
    while time.monotonic() < until:
        try:
            last = check()
        except (*_NOT_YET, AssertionError) as error:
            last = error
        else:
            if last:
                return last
        time.sleep(every_s)
    pytest.fail(f"waited {timeout_s:g} s for {what}, which did not happen; last: {last!r}", pytrace=False)


@dataclass
class Program:
    """A running program with its own directory and log."""

    name: str
    argv: list[str]
    home: Path
    ready_url: str
    env: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.home / f"{self.name}.log"

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.argv,
                cwd=self.home,
                env={**os.environ, **self.env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        until = time.monotonic() + READY_S
        while time.monotonic() < until:
            if self.process.poll() is not None:
                pytest.fail(f"{self.name} ended with {self.process.returncode}:\n{self.tail()}", pytrace=False)
            with contextlib.suppress(*_NOT_YET), urllib.request.urlopen(self.ready_url, timeout=1) as answer:
                if answer.status == 200:
                    return
            time.sleep(0.05)
        pytest.fail(f"{self.name} was not ready within {READY_S:g} s:\n{self.tail()}", pytrace=False)

    def tail(self, lines: int = 30) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self) -> None:
        """End it in order: it sends what it holds."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash does."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(number)
        try:
            self.process.wait(READY_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(READY_S)

    def rss_mib(self) -> float:
        """Resident memory now."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS"))

    def cpu_s(self) -> float:
        """CPU seconds so far."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
