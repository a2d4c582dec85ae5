"""From sums to a ``PPOUpdatePayload``: the one door for Esper's agent and for any other loop."""

from __future__ import annotations

from esper_core.updates.recorder import LOOP_FIELDS, UpdateRecorder
from esper_core.updates.records import (
    EpisodeSummary,
    FinalPass,
    Mean,
    Measured,
    MinibatchSeen,
    UpdateSettings,
    finite_mean,
)

__all__ = [
    "LOOP_FIELDS",
    "EpisodeSummary",
    "FinalPass",
    "Mean",
    "Measured",
    "MinibatchSeen",
    "UpdateRecorder",
    "UpdateSettings",
    "finite_mean",
]
