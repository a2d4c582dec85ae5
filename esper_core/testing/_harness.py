"""Runs one sink as the host does: with the same guard, channel, thread and deadline."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from esper_core.config.schema import DeliveryConfig
from esper_core.errors import SinkError
from esper_core.events import EVENTS, TelemetryEvent
from esper_core.hooks import CloseReason, Delivery, EventKinds, SinkContext, hookimpl
from esper_core.host.deliver.hub import ActiveSink, Hub
from esper_core.host.load.discovery import LoadedSink, load_sink
from esper_core.host.load.inspection import inspect_sink
from esper_core.host.load.options import create_sink
from esper_core.testing._events import make_event

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from esper_core.events import Payload, SinkStatusChanged
    from esper_core.hooks import SinkMode
    from esper_core.reading.account import SinkAccount

__all__ = ["RecordingSink", "SinkHarness"]


class RecordingSink:
    """A sink that stores every event it receives.

    Attributes:
        events: the events, in order of delivery.
        context: the context it was opened with, or None.
        closed: the reason it was closed with, or None.
    """

    delivery: ClassVar[Delivery] = "all"
    event_kinds: ClassVar[EventKinds] = "all"

    def __init__(self, config: object = None) -> None:
        self.config = config
        self.events: list[TelemetryEvent[Any]] = []
        self.context: SinkContext | None = None
        self.closed: CloseReason | None = None

    @property
    def kinds(self) -> list[str]:
        """The kinds of the events, in order."""
        return [event.kind for event in self.events]

    @hookimpl
    def esper_sink_opened(self, context: SinkContext) -> None:
        """Store the context."""
        self.context = context

    @hookimpl
    def esper_sink_closed(self, reason: CloseReason) -> None:
        """Store the reason."""
        self.closed = reason

    @hookimpl
    def esper_event(self, event: TelemetryEvent[Any]) -> None:
        """Store the event."""
        self.events.append(event)


class SinkHarness:
    """Opens one sink, sends events to it, closes it, and reports its counters.

    ::

        with SinkHarness(MySink, {"port": 8125}) as harness:
            harness.send(make_update(1))
            harness.drain()
        assert harness.report.lost == 0

    Args:
        sink: the class, an instance, an installed name, or ``./file.py:Class``.
        table: its ``[sink.NAME]``; not for an instance.
        name: its name in the configuration.
        delivery: replaces the delivery that the sink declares.
        queue_size: the number of events that its channel holds.
        mode: the ``mode`` of its context.
        run_dir: the ``run_dir`` of its context.
        deadline_s: seconds within which it has to close.
    """

    def __init__(
        self,
        sink: object,
        table: Mapping[str, Any] | None = None,
        *,
        name: str = "",
        delivery: Delivery | None = None,
        queue_size: int = 1024,
        mode: SinkMode = "live",
        run_dir: Path | None = None,
        deadline_s: float = 3.0,
    ) -> None:
        loaded, instance = _resolve(sink, name)
        self.sink: Any = create_sink(loaded, table) if instance is None else instance
        self._deadline_s = deadline_s
        options = DeliveryConfig(mode=delivery or "default", queue_size=queue_size)
        context = SinkContext(
            run_id="test-run",
            run_dir=run_dir,
            mode=mode,
            resource={"service.name": "esper", "esper.run.id": "test-run"},
        )
        self._name = loaded.name
        self._hub = Hub([ActiveSink(loaded=loaded, instance=self.sink)], context, {loaded.name: options})
        self._final: SinkAccount | None = None

    def __enter__(self) -> Self:
        self._hub.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(self, *items: Payload | TelemetryEvent[Any]) -> None:
        """Emit payloads or events, in order. Returns when the emitter would: they are queued, not yet delivered."""
        for item in items:
            event = item if isinstance(item, TelemetryEvent) else make_event(item)
            getattr(self._hub.hooks, EVENTS[event.kind].hook)(event=event)

    def drain(self, timeout_s: float = 5.0) -> bool:
        """Wait until the sink handled every event; False when it handled none for longer than the time."""
        return self._hub.drain(timeout_s)

    def contributed(self, hook: str) -> list[Any]:
        """Call a hook that contributes, for example ``esper_span_processors``; return the sink's result."""
        return self._hub.call(self._name, hook)

    def statuses(self) -> Iterable[SinkStatusChanged]:
        """Changes of the sink's state since the last call."""
        return self._hub.drain_status()

    def close(self, reason: CloseReason = CloseReason.DONE) -> SinkAccount:
        """Close the sink within the deadline; a second call changes nothing."""
        if self._final is None:
            (self._final,) = self._hub.close(reason, self._deadline_s)
        return self._final

    @property
    def report(self) -> SinkAccount:
        """The sink's counters: now, or at the end once it is closed."""
        if self._final is not None:
            return self._final
        (now,) = self._hub.statuses()
        return now


def _resolve(sink: object, name: str) -> tuple[LoadedSink, object | None]:
    if isinstance(sink, str):
        loaded = load_sink(sink)
        return (replace(loaded, name=name) if name else loaded), None
    factory, instance = (sink, None) if isinstance(sink, type) else (type(sink), sink)
    seen = inspect_sink(factory, f"sink {factory.__name__}")
    if not name and not factory.__name__:
        raise SinkError("a sink needs a name")
    loaded = LoadedSink(
        name=name or factory.__name__,
        spec=factory.__name__,
        factory=factory,
        hooks=seen.hooks,
        config_type=seen.config_type,
        delivery=getattr(sink, "delivery", seen.delivery),
        requires=seen.requires,
        keeps_record=seen.keeps_record,
    )
    return loaded, instance
