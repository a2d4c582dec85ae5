"""Values whose types say that they may be missing, where a test says that they are there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from esper_core.events import Payload, TelemetryEvent

__all__ = ["attributes_of", "creator", "payloads_of", "present"]

Value = TypeVar("Value")
Kind = TypeVar("Kind", bound="Payload")


class Attributed(Protocol):
    """A span, an event of one, a log record or a point of the SDK."""

    @property
    def attributes(self) -> Mapping[str, Any] | None: ...


def present(value: Value | None) -> Value:
    assert value is not None
    return value


def attributes_of(told: Attributed) -> Mapping[str, Any]:
    """The attributes of what an SDK holds; the type of each is the test's to say."""
    return present(told.attributes)


def payloads_of(kind: type[Kind], events: Iterable[TelemetryEvent[Payload]]) -> list[Kind]:
    """The payloads of events, each of which is of that kind."""
    found = [event.payload for event in events]
    of_kind = [payload for payload in found if isinstance(payload, kind)]
    assert len(of_kind) == len(found)
    return of_kind


def creator(build: Callable[..., Any]) -> Callable[..., Any]:
    """An environment's class or maker as ``gymnasium.register`` types it: called with any keywords."""
    return build
