"""Sinks that raise, wait at a gate or never close, and the hub that delivers to them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from esper_core.hooks import CloseReason, SinkContext, hookimpl
from esper_core.host.deliver.hub import ActiveSink, Hub
from esper_core.host.load.discovery import LoadedSink
from esper_core.host.load.inspection import inspect_sink
from esper_core.testing import make_event, make_update

__all__ = [
    "CLOSE_S",
    "CUT_S",
    "UPDATES",
    "Asked",
    "Clock",
    "Gated",
    "HungClose",
    "Raising",
    "active_sink",
    "open_hub",
    "play_to_gated",
    "play_updates",
    "shut_hub",
]

if TYPE_CHECKING:
    from collections.abc import Callable

    from esper_core.config.schema import DeliveryConfig


UPDATES = 60
CLOSE_S = 60.0
"""Time to close for sinks that do close: a guard against hanging."""
CUT_S = 2.0
"""Time to close beside sinks that never do. The others have nothing left to deliver by then."""


class Raising:
    @hookimpl
    def esper_ppo_updated(self, event: Any) -> None:
        raise RuntimeError("no")


class Gated:
    """A sink whose first update blocks until the gate opens; later updates return at once."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.seen: list[int] = []

    @hookimpl
    def esper_ppo_updated(self, event: Any) -> None:
        self.entered.set()
        self.gate.wait(CLOSE_S)
        self.seen.append(event.payload.update_id)


class HungClose:
    def __init__(self) -> None:
        self.gate = threading.Event()

    @hookimpl
    def esper_ppo_updated(self, event: Any) -> None:
        """Take it."""

    @hookimpl
    def esper_sink_closed(self, reason: CloseReason) -> None:
        self.gate.wait(CLOSE_S)


class Clock:
    """A clock in seconds that only the test advances."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Asked(threading.Condition):
    """A channel's condition that records its timeouts: the waits for room, and those before another attempt."""

    def __init__(self) -> None:
        super().__init__(threading.Lock())
        self.waits: list[float | None] = []
        self.rests: list[float] = []

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        self.waits.append(timeout)
        return super().wait_for(predicate, timeout)

    def wait(self, timeout: float | None = None) -> bool:
        if timeout is not None:
            self.rests.append(timeout)
        return super().wait(timeout)

    @classmethod
    def of(cls, hub: Hub, name: str) -> Asked:
        """Put one into a channel that is not open yet."""
        asked = hub._channels[name]._wake = cls()  # type: ignore[attr-defined]  # looking inside
        return asked


def active_sink(instance: object, name: str, *, named: bool = True) -> ActiveSink:
    seen = inspect_sink(type(instance), name)
    delivery = getattr(instance, "delivery", seen.delivery)
    loaded = LoadedSink(
        name=name,
        spec=name,
        factory=type(instance),
        distribution=f"esper-sink-{name}",
        version="1.0",
        hooks=seen.hooks,
        delivery=delivery,
        named=named,
    )
    return ActiveSink(loaded=loaded, instance=instance)


def shut_hub(sinks: dict[str, object], *, clock: Clock | None = None, **delivery: DeliveryConfig) -> Hub:
    options: dict[str, Any] = {"clock": clock} if clock is not None else {}
    return Hub([active_sink(sink, name) for name, sink in sinks.items()], SinkContext(run_id="r"), delivery, **options)


def open_hub(sinks: dict[str, object], **delivery: DeliveryConfig) -> Hub:
    hub = shut_hub(sinks, clock=None, **delivery)
    hub.open(timeout_s=CLOSE_S)
    return hub


def play_updates(hub: Hub, count: int = UPDATES, *, first: int = 1) -> None:
    """Emit updates."""
    for number in range(first, count + 1):
        hub.hooks.esper_ppo_updated(event=make_event(make_update(number)))


def play_to_gated(hub: Hub, sink: Gated, count: int) -> None:
    """Emit updates, the second one once the sink blocks in the first."""
    play_updates(hub, 1)
    assert sink.entered.wait(CLOSE_S)
    play_updates(hub, count, first=2)
