"""Without wandb: one clear error before training."""

from __future__ import annotations

import sys
import types

import pytest

from esper_core.errors import SinkError
from esper_core.testing import SinkHarness
from esper_sink_wandb import WandbSink
from esper_sink_wandb.library import load


def test_without_the_library_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(SinkError, match=r"sink .wandb. needs wandb, which (?s:.*)pip install 'esper-core\[wandb\]'"):
        SinkHarness(WandbSink)


def test_a_library_older_than_tested_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", types.ModuleType("wandb"))
    monkeypatch.setattr("esper_sink_wandb.library.version", lambda name: "0.18.7")
    with pytest.raises(SinkError, match=r"wandb 0\.18\.7 is older than"):
        load()
