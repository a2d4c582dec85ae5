"""Names that all telemetry carries: instrumentation scope, schema, and the attributes of run, attempt and rank."""

from __future__ import annotations

from dataclasses import fields
from typing import Final

from esper_core.events import TelemetryEvent, about_field

__all__ = [
    "ALGORITHM",
    "ATTEMPT",
    "ENVIRONMENT",
    "FORMER_NAMES",
    "IDENTITY",
    "ITERATION_SPAN",
    "LOCAL",
    "MARKED",
    "RANK",
    "REMOTE",
    "ROLLOUT_SPAN",
    "RUN_ID",
    "SCHEMA_URL",
    "SCOPE_NAME",
]

SCOPE_NAME: Final = "esper_core"
"""Name of the instrumentation scope; its version is esper-core's."""
SCHEMA_URL: Final = "https://github.com/esper-core/esper/schemas/0.1.0"

ITERATION_SPAN: Final = "esper.iteration"
ROLLOUT_SPAN: Final = "esper.rollout"
LOCAL: Final = 0x100
"""Of OTLP's flags of a link: whether its span is of another process is known, and it is not."""
REMOTE: Final = 0x300
"""Likewise, and it is."""

IDENTITY: Final = {item.name: key for item in fields(TelemetryEvent) if (key := about_field(item).key)}
"""Envelope field -> attribute name."""
RUN_ID: Final = IDENTITY["run_id"]
ATTEMPT: Final = IDENTITY["attempt"]
RANK: Final = IDENTITY["rank"]
MARKED: Final = IDENTITY["marked"]

ENVIRONMENT: Final = "esper.run.environment"
ALGORITHM: Final = "esper.run.algorithm"
"""On the resource and on the span of the run's start, under one name."""
FORMER_NAMES: Final = {"esper.environment": ENVIRONMENT, "esper.algorithm": ALGORITHM}
"""Names that resource attributes had in older journals."""
