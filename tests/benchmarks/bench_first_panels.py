"""CPU seconds of ``esper ppo --sink tui`` until its line and its first panels stand, and of the training by then.

``python tests/benchmarks/bench_first_panels.py --rounds 5``: medians over rounds, each in a new pseudo-terminal.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import pty
import select
import signal
import statistics
import struct
import sys
import tempfile
import termios
import time
from pathlib import Path

MARKS = {"line": b"starting the training", "panels": b"POLICY HEALTH"}
RUN = b"LIVE"
GUARD_S = 250.0


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """Process ids of the children of a process."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def one_round(base: str) -> dict[str, float]:
    """Start the command, and measure until the run is live."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm-256color"
        words = ["ppo", "--sink", "tui", "--env", "CartPole-v1", "--dir", base]
        os.execv(sys.executable, [sys.executable, "-m", "esper_core", *words])  # this Python again
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 36, 120, 0, 0))
    seen, found = b"", dict[str, float]()
    deadline = time.monotonic() + GUARD_S
    while RUN not in seen and time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.02)[0]:
            seen += os.read(terminal, 65536)
        for name, mark in MARKS.items():
            if name not in found and mark in seen:
                found[name] = cpu_s(pid)
                found[f"training at the {name}"] = sum(map(cpu_s, children(pid)))
    found["training once it is live"] = sum(map(cpu_s, children(pid)))
    for process in [*children(pid), pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(terminal)
    return found


def main() -> None:
    """Print one line for each moment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as base:
        results = [one_round(base) for _ in range(rounds)]
    for name in results[0]:
        values = [result[name] for result in results if name in result]
        print(f"{name:<28} {statistics.median(values):.2f} s of CPU ({min(values):.2f} to {max(values):.2f})")


if __name__ == "__main__":
    main()
