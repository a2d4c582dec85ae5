"""A burst of any kind of event: what was emitted was delivered, or replaced by a newer one, or counted as lost."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from esper_core.emitter import TelemetryEmitter
from esper_core.events import EVENTS, TelemetryEvent
from esper_core.hooks import CloseReason, SinkContext, hookimpl
from esper_core.host.deliver.hub import ActiveSink, Hub
from esper_core.host.load.discovery import LoadedSink
from esper_core.testing import one_of_each

BURST = 3000
"""More than a queue holds: 1,024 events."""
FIRST = {event.payload.kind: event.payload for event in one_of_each()}


class Held:
    """Takes every event, once it may."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.seen = 0

    @hookimpl
    def esper_event(self, event: TelemetryEvent[Any]) -> None:  # the hook's signature
        """Count it."""
        self.go_on.wait(250)
        self.seen += 1


@pytest.mark.parametrize("kind", EVENTS)
def test_a_burst_of_any_kind_is_delivered_or_counted(kind: str) -> None:
    sinks = {delivery: Held() for delivery in ("inline", "all", "latest")}
    sinks["inline"].go_on.set()
    hooks = frozenset(spec.hook for spec in EVENTS.values())
    hub = Hub(
        [
            ActiveSink(
                loaded=LoadedSink(name=name, spec=name, factory=Held, hooks=hooks, delivery=name),  # type: ignore[arg-type]  # one of the three
                instance=sink,
            )
            for name, sink in sinks.items()
        ],
        SinkContext(run_id="r"),
    )
    hub.open()
    emitter = TelemetryEmitter(hub.hooks, heard=hub.heard)  # type: ignore[arg-type]  # kinds
    payload = next(item for name, item in FIRST.items() if name == kind)
    for _ in range(BURST):
        if kind == "ppo_updated":
            emitter.emit_ppo_update(payload)  # type: ignore[arg-type]  # the update's
        else:
            emitter.emit(payload)
    for sink in sinks.values():
        sink.go_on.set()
    accounts = {account.name: account for account in hub.close(CloseReason.DONE, 250.0)}
    for name, account in accounts.items():
        own_kind = account.delivered + account.lost + account.coalesced
        others = own_kind - BURST  # an update's level may change: that is an event too
        assert 0 <= others <= (2 if kind == "ppo_updated" else 0), (name, account)
        assert sinks[name].seen == account.delivered, (name, account)
        assert account.queued in {None, 0}, (name, account)
    assert accounts["inline"].lost == accounts["latest"].lost == 0
    assert accounts["all"].lost > 0
    assert accounts["all"].delivered >= 1024
