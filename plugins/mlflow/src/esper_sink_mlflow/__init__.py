"""Esper's ``mlflow`` sink: a run of MLflow."""

from __future__ import annotations

from esper_sink_mlflow.config import MlflowConfig
from esper_sink_mlflow.sink import MlflowSink

__all__ = ["MlflowConfig", "MlflowSink"]
