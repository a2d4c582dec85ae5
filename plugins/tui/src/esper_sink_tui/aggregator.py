"""The aggregator, under the name that the telemetry records give it; it is defined in ``esper_core.reading``."""

from __future__ import annotations

from esper_core.reading.aggregator import SanctumAggregator

__all__ = ["SanctumAggregator"]
