"""Esper's ``tensorboard`` sink: event files that TensorBoard shows."""

from __future__ import annotations

from esper_sink_tensorboard.sink import TensorboardConfig, TensorboardSink

__all__ = ["TensorboardConfig", "TensorboardSink"]
