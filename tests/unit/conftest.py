"""Fixtures of the unit tests. Nothing here imports torch before a test asks for it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def bandit() -> Any:
    """The five-head bandit with a closed-form KL, the yardstick: see ``_bandit.py`` beside this file."""
    import torch

    torch.set_num_threads(1)
    spec = importlib.util.spec_from_file_location("esper_bandit", Path(__file__).with_name("_bandit.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.Bandit()
