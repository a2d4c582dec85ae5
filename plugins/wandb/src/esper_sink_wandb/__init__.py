"""Esper's ``wandb`` sink: a run of Weights & Biases."""

from __future__ import annotations

from esper_sink_wandb.config import WandbConfig
from esper_sink_wandb.sink import WandbSink

__all__ = ["WandbConfig", "WandbSink"]
