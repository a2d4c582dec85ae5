"""Delivers the recorded events of a replay, and waits for sinks that are slower than the journal is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from esper_core.events import EVENTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from esper_core.events import Payload, TelemetryEvent
    from esper_core.host.deliver.hub import Hub
    from esper_core.host.otel.providers import Providers
    from esper_core.host.otel.resource import ResourceValue
    from esper_core.host.process.signals import StopFlag
    from esper_core.runs.resources import JournalResources

__all__ = ["PlayedEvents"]

_REPLAY_STILL_S: Final = 30.0
"""Seconds. A replay waits for slow sinks as long as an event is delivered within this time."""


class PlayedEvents:
    """Calls the hook of each recorded event, and passes its rebuilt spans and log events to the sinks' processors.

    Args:
        hub: calls the sinks.
        providers: hold the sinks' processors.
        resource: of the events' spans, when the journal's own is not known.
        journaled: the resource that the journal holds of each event; None when there is no journal.
        with_events: whether spans carry span events.
    """

    def __init__(
        self,
        hub: Hub,
        providers: Providers,
        *,
        resource: Mapping[str, ResourceValue],
        journaled: JournalResources | None,
        with_events: bool,
    ) -> None:
        self._hub = hub
        self._providers = providers
        self._resource = resource
        self._journaled = journaled
        self._with_events = with_events

    def deliver(self, event: TelemetryEvent[Payload]) -> None:
        """Deliver one event."""
        getattr(self._hub.hooks, EVENTS[event.kind].hook)(event=event)
        providers = self._providers
        if not providers.processors and not providers.log_processors:
            return
        resource = self._journaled.of(event) if self._journaled else self._resource
        if providers.processors:
            from esper_core.host.otel.played import ended_spans  # noqa: PLC0415  # needs the SDK

            for span in ended_spans(event, resource, with_events=self._with_events):
                for processor in providers.processors:
                    processor.on_end(span)
        if providers.log_processors:
            from esper_core.host.otel.log_records import played_records  # noqa: PLC0415  # needs the SDK

            for record in played_records(event, resource):
                for log_processor in providers.log_processors:
                    log_processor.on_emit(record)

    def drain(self, stop: StopFlag) -> None:
        """Wait until everything is delivered and exported, as long as that goes on, unless the user asks to stop."""
        if stop.requested:
            return
        self._hub.drain(_REPLAY_STILL_S, should_stop=stop)
        for processor in (*self._providers.processors, *self._providers.log_processors):
            processor.force_flush(int(_REPLAY_STILL_S * 1000))
