"""Fixtures of the unit tests. Nothing here imports torch before a test asks for it."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from loaded_file import load_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType


def _load(name: str) -> ModuleType:
    """A helper module beside this file; tests import nothing from each other by path."""
    return load_file(Path(__file__).with_name(f"_{name}.py"), f"esper_unit_{name}")


@pytest.fixture(scope="session")
def bandit() -> Any:
    """The five-head bandit with a closed-form KL, the yardstick: see ``_bandit.py`` beside this file."""
    import torch

    torch.set_num_threads(1)
    return _load("bandit").Bandit()


@pytest.fixture(scope="session")
def toys() -> Any:
    """Small environments whose every number is known: see ``_toys.py`` beside this file."""
    import torch

    torch.set_num_threads(1)
    return _load("toys")


@pytest.fixture(scope="session")
def ranks() -> Any:
    """Several ranks in threads: see ``_ranks.py`` beside this file."""
    return _load("ranks")


@pytest.fixture
def no_thread(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Called with a name: the system gives no thread of that name, as at its limit of threads."""

    def forbid(name: str) -> None:
        def refused(thread: threading.Thread) -> None:
            if thread.name == name:
                raise RuntimeError("can't start new thread")
            start(thread)

        start = threading.Thread.start
        monkeypatch.setattr(threading.Thread, "start", refused)

    return forbid


@pytest.fixture
def pipeline() -> Iterator[Any]:
    """The instrumentation with exporters in memory: see ``telemetry_pipeline.py`` in ``tests/shared``."""
    from telemetry_pipeline import Pipeline

    from esper_core.config.schema import OtelConfig

    found = Pipeline(OtelConfig())
    yield found
    found.instrumentation.close()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Install distributions that consist of one module and its entry points."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    def add(distribution: str, code: str, *, version: str = "1.0", group: str = "esper.sinks", **points: str) -> None:
        package = distribution.replace("-", "_")
        (tmp_path / f"{package}.py").write_text(code)
        monkeypatch.delitem(sys.modules, package, raising=False)
        info = tmp_path / f"{package}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        lines = "".join(f"{name} = {value}\n" for name, value in points.items())
        (info / "entry_points.txt").write_text(f"[{group}]\n{lines}")

    return add
