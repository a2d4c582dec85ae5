"""The wheels that every test of this folder installs."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STATSD = ROOT / "docs" / "examples" / "esper-sink-statsd"
PLUGINS = sorted(path.parent for path in (ROOT / "plugins").glob("*/pyproject.toml"))


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheels of the core, of every plugin of this repository and of the example sink, made once for all workers."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return _made(tmp_path_factory.mktemp("wheels"))
    shared = tmp_path_factory.getbasetemp().parent / "wheels"
    shared.mkdir(exist_ok=True)
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the first makes them, and the others wait
        target = shared / "made"
        if not target.exists():
            _made(shared / "begun").rename(target)
    return target


def _made(target: Path) -> Path:
    target.mkdir(exist_ok=True)
    words = ("-q", "--disable-pip-version-check", "--no-color", "--no-deps", "--no-build-isolation", "--no-index")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *words, "-w", target, ROOT, *PLUGINS, STATSD],
        cwd=target,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return target
