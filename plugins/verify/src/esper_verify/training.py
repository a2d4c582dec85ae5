"""Runs a short real training in another process; the emitter's check reads its updates."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from esper_core.reading import open_run
from esper_core.runs import list_runs
from esper_core.runs.layout import journal_files
from esper_core.runs.segments import read_segment

if TYPE_CHECKING:
    from pathlib import Path

    from esper_core.events import PPOUpdatePayload

__all__ = ["Evidence", "train"]

UPDATES: Final = 3
_TIMEOUT_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Evidence:
    """The results of a training.

    Attributes:
        updates: its PPO updates.
        lines: the lines of its journal, as bytes on disk.
        problem: why there is no journal; empty when the training succeeded.
    """

    updates: tuple[PPOUpdatePayload, ...] = ()
    lines: bytes = b""
    problem: str = ""


def train(folder: Path) -> Evidence:
    """Train CartPole-v1 for three updates through the command line, and read what it journaled."""
    argv = ["ppo", "--env", "CartPole-v1", "--updates", str(UPDATES), "--sinks", "journal", "--dir", str(folder)]
    argv += ["--set", "ppo.rollout_steps=64", "--set", "ppo.minibatch_size=64"]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "esper_core", *argv],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
            cwd=folder,
        )
    except subprocess.TimeoutExpired:
        return Evidence(problem=f"the training took more than {_TIMEOUT_S:.0f} s")
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        return Evidence(problem=f"the training exited with {done.returncode}: {said[-1] if said else 'no output'}")
    runs = list_runs(folder)
    if not runs:
        return Evidence(problem="the training left no run")
    updates = tuple(event.payload for event in open_run(runs[0].path).updates())
    lines = b"".join(read_segment(item.path) for item in journal_files(runs[0]))
    return Evidence(updates=updates, lines=lines)
