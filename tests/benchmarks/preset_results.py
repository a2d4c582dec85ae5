"""What bench_presets.py trains, and the results that are there; docs/reference/presets.md is made of both."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from esper_core.config.layers import load_config
from esper_core.config.presets import PRESETS

__all__ = ["EPISODES", "LIBRARIES", "RESULTS", "TASKS", "Job", "Task", "keep", "known", "machine"]

RESULTS: Final = Path(__file__).with_name("results") / "presets.jsonl"
"""One line a result."""
EPISODES: Final = 20
"""Of an evaluation."""
LIBRARIES: Final = ("esper", "sb3")
_FEW_STEPS: Final = 300_000


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        env_id: what is trained.
        seed: of environment and policy.
        library: one of LIBRARIES.
        steps: the preset's, for both.
        digest: of the preset's values, so that another preset is another result; None for the peer.
    """

    env_id: str
    seed: int
    library: str
    steps: int
    digest: str | None


@dataclass(frozen=True)
class Task:
    """An environment and its preset.

    Attributes:
        env_id: as ``--env`` takes it.
        threshold: the return from which on Gymnasium calls it solved; None where it names none.
        named: the preset to name; None where the environment has one of its own.
    """

    env_id: str
    threshold: float | None
    named: str | None = None

    @property
    def preset(self) -> str:
        """Name of the preset that is in force."""
        return load_config(no_file=True, flags=self.flags).config.preset

    @property
    def flags(self) -> dict[str, Any]:
        """As :func:`esper_core.config.layers.load_config` takes them."""
        return {"env.id": self.env_id, "preset": self.named}

    @property
    def steps(self) -> int:
        """The preset's limit."""
        return load_config(no_file=True, flags=self.flags).config.run.steps

    @property
    def seeds(self) -> tuple[int, ...]:
        """Five up to 300 000 steps, else two."""
        return (1, 2, 3, 4, 5) if self.steps <= _FEW_STEPS else (1, 2)

    def job(self, seed: int, library: str) -> Job:
        """One training of it."""
        tables = PRESETS[self.preset]
        # Without the environment's id: the task says which one is trained.
        values = {**tables, "env": {key: value for key, value in tables["env"].items() if key != "id"}}
        written = json.dumps(values, sort_keys=True).encode()
        digest = hashlib.sha256(written).hexdigest()[:12] if library == "esper" else None
        return Job(self.env_id, seed, library, self.steps, digest)


TASKS: Final = (
    Task("CartPole-v1", 475),
    Task("Acrobot-v1", -100),
    Task("Pendulum-v1", None),
    Task("MountainCarContinuous-v0", 90),
    Task("MountainCar-v0", -110),
    Task("match:Match-v0", None, "multi-discrete"),
    Task("InvertedPendulum-v5", 950),
    Task("MinAtar/Breakout-v1", None),
    Task("LunarLander-v3", 200),
    Task("BipedalWalker-v3", 300),
    Task("HalfCheetah-v5", 4800),
)
"""What the page lists, in its order."""


def known(path: Path = RESULTS) -> dict[Job, dict[str, Any]]:
    """The results that are there; the last line of a job counts."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    rows = [json.loads(line) for line in lines]
    return {Job(*(row[key] for key in Job.__dataclass_fields__)): row for row in rows}


def keep(job: Job, result: dict[str, Any], path: Path = RESULTS) -> None:
    """Add one result."""
    path.parent.mkdir(exist_ok=True)
    result = {key: round(value, 2) if isinstance(value, float) else value for key, value in result.items()}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({**asdict(job), **result, "machine": machine()}) + "\n")


def machine() -> str:
    """Processor and versions."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, Python {platform.python_version()}, torch {version('torch')}"
