"""Who is compared with, where it is installed, and in which version."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

from esper_bench.row import Party

if TYPE_CHECKING:
    from esper_bench.row import Setup

__all__ = [
    "MLFLOW",
    "SB3",
    "SBX",
    "TENSORBOARD",
    "TENSORBOARDX",
    "TIANSHOU",
    "TORCH",
    "TRACKIO",
    "WANDB",
    "Library",
    "interpreter_of",
    "version_of",
]

_PEERS: Final = Path(sys.prefix) / "peers" / "bin" / "python"
"""The interpreter of ``make bench-peers``' environment, which sees what this one has and adds what is large."""
_ASK: Final = """
import json, sys
from importlib import metadata
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Library:
    """A peer.

    Attributes:
        name: for the table.
        distribution: on PyPI.
        peers: it is not in the development environment; ``make bench-peers`` installs it.
    """

    name: str
    distribution: str
    peers: bool = True

    def doing(self, setup: Setup, detail: str = "") -> Party:
        """This library as a row's party; the detail tells two ways of one library apart."""
        install = "make bench-peers" if self.peers else f"pip install {self.distribution}"
        name = f"{self.name}, {detail}" if detail else self.name
        return Party(name, setup, self.distribution, install, peers=self.peers)


SB3: Final = Library("stable-baselines3", "stable-baselines3", peers=False)
TORCH: Final = Library("torch", "torch", peers=False)
TENSORBOARDX: Final = Library("tensorboardX", "tensorboardX", peers=False)
SBX: Final = Library("sbx", "sbx-rl")
TIANSHOU: Final = Library("tianshou", "tianshou")
TENSORBOARD: Final = Library("TensorBoard", "tensorboard")
WANDB: Final = Library("wandb offline", "wandb")
MLFLOW: Final = Library("mlflow", "mlflow-skinny")
TRACKIO: Final = Library("trackio", "trackio")
_LARGE: Final = (SBX, TIANSHOU, TENSORBOARD, WANDB, MLFLOW, TRACKIO)


def interpreter_of(party: Party) -> Path:
    """The Python that runs it."""
    return _PEERS if party.peers else Path(sys.executable)


def version_of(party: Party) -> str | None:
    """The installed version of its distribution, in the environment where it is run; None without one."""
    if party.peers:
        return _large_versions().get(party.distribution)
    try:
        return metadata.version(party.distribution)
    except metadata.PackageNotFoundError:
        return None


@functools.cache
def _large_versions() -> dict[str, str]:
    """Distribution -> version in the peers' environment; empty when there is none."""
    if not _PEERS.exists():
        return {}
    words = [str(_PEERS), "-c", _ASK, *(library.distribution for library in _LARGE)]
    found: dict[str, str] = json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return found
