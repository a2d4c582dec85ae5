"""The only telemetry interface that the agent and the trainer use: see :class:`TelemetryEmitter`."""

from __future__ import annotations

from esper_core.emitter._emitter import TelemetryEmitter
from esper_core.emitter._ends import EndedEvent
from esper_core.emitter._spans import UpdateTimes

__all__ = ["EndedEvent", "TelemetryEmitter", "UpdateTimes"]
