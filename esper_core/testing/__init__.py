"""Helpers for tests of sinks: example events, a harness that runs a sink as the host does, and a contract to pass.

::

    class TestMySink(SinkContract):
        sink = MySink
        config = {"port": 8125}

Needs pytest only when the tests run; imports neither torch nor the OpenTelemetry SDK.
"""

from __future__ import annotations

from esper_core.testing._contract import SinkContract
from esper_core.testing._events import (
    awkward_updates,
    make_event,
    make_heads,
    make_update,
    one_of_each,
)
from esper_core.testing._harness import RecordingSink, SinkHarness

__all__ = [
    "RecordingSink",
    "SinkContract",
    "SinkHarness",
    "awkward_updates",
    "make_event",
    "make_heads",
    "make_update",
    "one_of_each",
]
