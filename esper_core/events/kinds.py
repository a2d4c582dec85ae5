"""Every kind of event: one row a kind. Hooks, priorities, span names, attributes and pages are made of this table."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from esper_core.events import run, update

if TYPE_CHECKING:
    from esper_core.events._record import EventKind, Payload

__all__ = ["EVENTS", "PAYLOADS", "EventSpec", "Priority"]


class Priority(IntEnum):
    """What a full queue gives up first. An event displaces only its own kind or lesser ones."""

    FREQUENT = 0
    STATUS = 1
    CHANGE = 2
    UPDATE = 3
    LIFECYCLE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSpec:
    """One kind of event.

    Attributes:
        payload: its class, which names the kind and describes the fields.
        span: the name of its own span; it alone says the kind on the wire.
        namespace: what the names of its attributes begin with.
        priority: what a full queue gives up first.
        on_request: it is recorded only where the run asks for it (``[otel] episodes``).
    """

    payload: type[Payload]
    span: str
    namespace: str
    priority: Priority
    on_request: bool = False

    @property
    def kind(self) -> EventKind:
        """The payload's kind."""
        return self.payload.kind

    @property
    def hook(self) -> str:
        """The hook that carries it."""
        return f"esper_{self.kind}"


_ROWS: Final = (
    EventSpec(payload=run.RunStarted, span="esper.run.started", namespace="esper.run", priority=Priority.LIFECYCLE),
    EventSpec(
        payload=run.EpisodeFinished,
        span="esper.episode",
        namespace="esper.episode",
        priority=Priority.FREQUENT,
        on_request=True,
    ),
    EventSpec(
        payload=update.PPOUpdatePayload, span="esper.ppo.update", namespace="esper.ppo", priority=Priority.UPDATE
    ),
    EventSpec(
        payload=run.PolicyHealthChanged,
        span="esper.policy.health_changed",
        namespace="esper.policy",
        priority=Priority.CHANGE,
    ),
    EventSpec(payload=run.PolicyEvaluated, span="esper.eval", namespace="esper.eval", priority=Priority.CHANGE),
    EventSpec(
        payload=run.SinkStatusChanged, span="esper.sink.status", namespace="esper.sink", priority=Priority.STATUS
    ),
    EventSpec(payload=run.RunFinished, span="esper.run.finished", namespace="esper.run", priority=Priority.LIFECYCLE),
)
EVENTS: Final[dict[EventKind, EventSpec]] = {spec.kind: spec for spec in _ROWS}
"""The kinds in the order of a run."""
PAYLOADS: Final[dict[EventKind, type[Payload]]] = {kind: spec.payload for kind, spec in EVENTS.items()}
