"""Without MLflow: one clear error before training."""

from __future__ import annotations

import sys
import types

import pytest

from esper_core.errors import SinkError
from esper_core.testing import SinkHarness
from esper_sink_mlflow import MlflowSink
from esper_sink_mlflow.library import load


def test_without_the_library_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(SinkError, match=r"sink .mlflow. needs mlflow, which (?s:.*)pip install 'esper-core\[mlflow\]'"):
        SinkHarness(MlflowSink)


def test_a_library_older_than_tested_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mlflow", "mlflow.tracking"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setattr("esper_sink_mlflow.library.version", lambda name: "2.22.0")
    with pytest.raises(SinkError, match=r"mlflow 2\.22\.0 is older than"):
        load()
