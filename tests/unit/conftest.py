"""Fixtures of the unit tests. Nothing here imports torch before a test asks for it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from types import ModuleType


def _load(name: str) -> ModuleType:
    """A helper module beside this file; tests import nothing from each other by path."""
    spec = importlib.util.spec_from_file_location(f"esper_unit_{name}", Path(__file__).with_name(f"_{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


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
