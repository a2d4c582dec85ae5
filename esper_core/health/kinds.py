"""The one word a screen shows for a run."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["VerdictKind"]


class VerdictKind(StrEnum):
    """The one word a screen shows for a run, worst first."""

    CRASHED = "crashed"
    FAILED = "failed"
    NON_FINITE = "non-finite"
    STALE = "stale"
    STALLED = "stalled"
    LOSSY = "lossy"
    CRITICAL = "critical"
    WARNING = "warning"
    WARM_UP = "warm-up"
    UNKNOWN = "unknown"
    HEALTHY = "healthy"
