"""When the span of an event has failed: a failed run, an update with NaN or Inf. Names of OpenTelemetry's own."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from esper_core.events import Payload, PPOUpdatePayload, RunFinished
from esper_core.health import HealthLevel, RunState

__all__ = [
    "ERROR_TYPE",
    "EXCEPTION",
    "EXCEPTION_MESSAGE",
    "EXCEPTION_TYPE",
    "FAILING",
    "NON_FINITE",
    "OTHER",
    "Failure",
    "failure",
]

ERROR_TYPE: Final = "error.type"
EXCEPTION: Final = "exception"
"""Name of the span event."""
EXCEPTION_TYPE: Final = "exception.type"
EXCEPTION_MESSAGE: Final = "exception.message"
NON_FINITE: Final = "non_finite"
"""``error.type`` of an update, or of a run, that ended with NaN or Inf."""
OTHER: Final = "_OTHER"
"""``error.type`` when no type is known: the conventions' fallback."""
FAILING: Final[dict[type[Payload], str]] = {
    PPOUpdatePayload: "If NaN or Inf appeared during the update.",
    RunFinished: "If the run failed.",
}
"""Payloads whose spans may have failed, and when they have."""
_RAISED: Final = re.compile(r"([A-Z]\w*)(?:: (.*))?", re.DOTALL)
"""How a session writes the exception that ended a run: its class, and its text if it has one."""


class Failure(NamedTuple):
    """What failed.

    Attributes:
        type: of few values: an exception's class, ``non_finite`` or ``_OTHER``.
        message: what happened, as text.
    """

    type: str
    message: str


def failure(payload: Payload) -> Failure | None:
    """Return why the payload's span has status ERROR; None when it has not. Derived, so that a replay agrees."""
    if isinstance(payload, PPOUpdatePayload):
        if not payload.non_finite and payload.health is not HealthLevel.NON_FINITE:
            return None
        return Failure(NON_FINITE, payload.reason or "NaN or Inf appeared during the update")
    if isinstance(payload, RunFinished) and payload.state is RunState.FAILED:
        raised = _RAISED.fullmatch(payload.reason)
        if raised is not None:
            return Failure(raised[1], raised[2] or raised[1])
        kind = NON_FINITE if payload.health is HealthLevel.NON_FINITE else OTHER
        return Failure(kind, payload.reason or "the run failed")
    return None
