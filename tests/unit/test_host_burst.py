"""A burst of any kind of event: what was emitted was delivered, or replaced by a newer one, or counted as lost."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from esper_core.emitter import TelemetryEmitter
from esper_core.events import EVENTS, TelemetryEvent
from esper_core.hooks import CloseReason, SinkContext, hookimpl
from esper_core.host.deliver.hub import ActiveSink, Hub
from esper_core.host.load.discovery import LoadedSink
from esper_core.ppo.episodes import EpisodeTracker
from esper_core.testing import one_of_each

BURST = 3000
"""More than a queue holds: 1,024 events."""
FIRST = {event.payload.kind: event.payload for event in one_of_each()}


class Held:
    """Takes every event, once it may."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.seen = 0
        self.kinds: dict[str, int] = {}
        """Kind -> how many events had come when the last one of it came."""

    @hookimpl
    def esper_event(self, event: TelemetryEvent[Any]) -> None:  # the hook's signature
        """Count it."""
        self.go_on.wait(250)
        self.seen += 1
        self.kinds[event.payload.kind] = self.seen


def opened(sinks: dict[str, Held]) -> Hub:
    """A hub with a sink of each kind of delivery."""
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
    return hub


def held() -> dict[str, Held]:
    """Sinks by their delivery; the inline one goes on at once."""
    sinks = {delivery: Held() for delivery in ("inline", "all", "latest")}
    sinks["inline"].go_on.set()
    return sinks


@pytest.mark.parametrize("kind", EVENTS)
def test_a_burst_of_any_kind_is_delivered_or_counted(kind: str) -> None:
    sinks = held()
    hub = opened(sinks)
    emitter = TelemetryEmitter(hub.hooks, heard=hub.heard)
    payload = next(item for name, item in FIRST.items() if name == kind)
    for _ in range(BURST):
        if kind == "ppo_updated":
            emitter.emit_ppo_update(payload)
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


def test_a_burst_of_episodes_told_from_a_thread_comes_before_the_update_and_is_delivered_or_counted() -> None:
    sinks, steps = held(), 250
    hub = opened(sinks)
    emitter = TelemetryEmitter(hub.hooks, heard=hub.heard, behind=True)
    tracker, ended, cut = EpisodeTracker(80), np.ones(80, dtype=bool), np.zeros(80, dtype=bool)
    emitter.begin_rollout(1)
    for step in range(steps):
        emitter.emit_episodes(tracker.step(np.ones(80), ended, cut, env_steps=step))
    emitter.emit_ppo_update(FIRST["ppo_updated"])
    emitter.close()
    for sink in sinks.values():
        sink.go_on.set()
    accounts = {account.name: account for account in hub.close(CloseReason.DONE, 250.0)}
    assert tracker.episodes == 20_000
    assert sinks["inline"].kinds["episode_finished"] == 20_000
    assert sinks["inline"].kinds["ppo_updated"] == 20_001
    for name, account in accounts.items():
        changed = int("policy_health_changed" in sinks["inline"].kinds)
        assert account.delivered + account.lost + account.coalesced == 20_001 + changed, name
        assert sinks[name].seen == account.delivered, name
    assert accounts["inline"].lost == 0


@pytest.mark.parametrize(
    ("delivery", "any_thread", "one_thread"), [("inline", False, True), ("inline", True, False), ("all", False, False)]
)
def test_an_inline_sink_that_hears_episodes_has_its_calls_from_one_thread_unless_it_bears_others(
    delivery: str, *, any_thread: bool, one_thread: bool
) -> None:
    for hook in ("esper_episode_finished", "esper_ppo_updated"):
        loaded = LoadedSink(
            name="it",
            spec="it",
            factory=Held,
            hooks=frozenset({hook}),
            delivery=delivery,  # type: ignore[arg-type]  # one of the three
            any_thread=any_thread,
        )
        hub = Hub([ActiveSink(loaded=loaded, instance=Held())], SinkContext(run_id="r"))
        assert hub.one_thread is (one_thread and hook == "esper_episode_finished")
