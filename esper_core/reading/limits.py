"""The limits that a run on disk is judged by."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING

import msgspec

from esper_core.config.schema import HealthConfig
from esper_core.events import RunStarted
from esper_core.health import DEFAULT_KL_LIMITS, KLLimits
from esper_core.reading.attempts import first_events
from esper_core.runs.files import read_text

if TYPE_CHECKING:
    from esper_core.runs.layout import RunDir

__all__ = ["run_limits"]


def run_limits(run: RunDir) -> KLLimits:
    """The limits of a run's newest attempt.

    As its first event tells them, else as ``config.toml`` does; a run that tells neither has the defaults.
    """
    started = [event for event in first_events(run) if isinstance(event.payload, RunStarted)]
    if started:
        newest = max(started, key=lambda event: event.attempt).payload
        return newest.limits if isinstance(newest, RunStarted) else DEFAULT_KL_LIMITS
    try:
        table = tomllib.loads(read_text(run.config_path)).get("health", {})
        found = msgspec.convert(table, HealthConfig).limits
    except (OSError, ValueError, RecursionError, msgspec.ValidationError):
        return DEFAULT_KL_LIMITS
    return DEFAULT_KL_LIMITS if found.fault else found
