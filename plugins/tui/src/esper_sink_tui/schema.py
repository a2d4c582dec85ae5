"""The data a screen shows, under the name that the telemetry records give it; it lives in ``esper_core.reading``."""

from __future__ import annotations

from esper_core.reading.snapshot import SanctumSnapshot
from esper_core.reading.tamiyo import TamiyoState

__all__ = ["SanctumSnapshot", "TamiyoState"]
