"""The programs that a fleet sends to: started, measured and ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Program", "certificates", "own_metric", "ports", "start"]


@dataclass
class Program:
    """A running program, and what it has used."""

    process: subprocess.Popen[bytes]

    def cpu_s(self) -> float:
        """CPU seconds so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_mib(self) -> float:
        """Resident memory now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS"))

    def stop(self) -> None:
        """End it."""
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.process.kill()


def ports(count: int) -> list[int]:
    """Free loopback ports."""
    with contextlib.ExitStack() as stack:
        return [stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(count)]


def start(argv: list[str], home: Path, ready: str, env: dict[str, str] | None = None) -> Program:
    """Start a program and wait until it answers."""
    log = (home / f"{Path(argv[0]).name}-{len(list(home.glob('*.log')))}.log").open("wb")
    program = Program(subprocess.Popen(argv, cwd=home, env=os.environ | (env or {}), stdout=log, stderr=log))
    until = time.monotonic() + 20
    while time.monotonic() < until:
        with contextlib.suppress(OSError), urllib.request.urlopen(ready, timeout=1):
            return program
        time.sleep(0.05)
    program.stop()
    raise SystemExit(f"{argv[0]} did not start: {Path(log.name).read_text()[-2000:]}")


def certificates(home: Path) -> None:
    """A key and a certificate that is its own authority."""
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-keyout",
            "key.pem",
            "-out",
            "cert.pem",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
        ],
        cwd=home,
        check=True,
        capture_output=True,
    )


def own_metric(port: int, name: str) -> float:
    """A sum over one of the Collector's own metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.split("{")[0] in {name, f"{name}_total"})
