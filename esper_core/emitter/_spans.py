"""Spans that are open: their ids and times for the journal, with an SDK and without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from opentelemetry import context as otel_context
from opentelemetry import trace as otel_trace

from esper_core import ids
from esper_core.events import LinkRef, SpanRef
from esper_core.semconv.attributes import UPDATE_ID, int64
from esper_core.semconv.identity import LOCAL, REMOTE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from opentelemetry.context import Context
    from opentelemetry.trace import Link, Span, Tracer

    from esper_core.semconv.attributes import AttributeValue

__all__ = ["OpenSpan", "SpanOpener", "UpdateTimes", "inside"]


class inside:  # noqa: N801  # reads as a word in ``with inside(span)``
    """Make a span the current one.

    The API's own ``use_span`` is slower, and marks the span as failed when a hook raises, although the update did not.
    """

    __slots__ = ("_span", "_token")

    def __init__(self, span: Span) -> None:
        self._span = span

    def __enter__(self) -> None:
        self._token = otel_context.attach(otel_trace.set_span_in_context(self._span))

    def __exit__(self, *_: object) -> None:
        otel_context.detach(self._token)


@dataclass(slots=True)
class OpenSpan:
    """A span that has begun: the SDK's span, and its ids and times for the journal."""

    span: Span
    name: str
    trace_id: str
    span_id: str
    parent_span_id: str | None
    start_ns: int
    end_ns: int | None = None
    """Fixed before the span ends, so that its own payload can carry it."""
    attributes: Mapping[str, AttributeValue] | None = None
    """What is still to be set on it: an SDK takes as long for four values as for a span without any."""
    ended: bool = False
    links: tuple[LinkRef, ...] = ()

    def ref(self, end_ns: int) -> SpanRef:
        return SpanRef(
            name=self.name,
            span_id=self.span_id,
            parent_span_id=self.parent_span_id,
            start_ns=self.start_ns,
            end_ns=self.end_ns if self.end_ns is not None else end_ns,
        )

    def describe(self) -> None:
        """Set the attributes that it was not opened with."""
        if self.attributes is not None:
            self.span.set_attributes(self.attributes)
            self.attributes = None

    def end(self, end_ns: int) -> None:
        """End it, at ``end_ns`` unless its end was fixed before."""
        if not self.ended:
            self.ended = True
            self.describe()
            if self.end_ns is None:
                self.end_ns = end_ns
            self.span.end(end_time=self.end_ns)


@dataclass(frozen=True, slots=True)
class UpdateTimes:
    """The durations of an iteration.

    Attributes:
        rollout_s: seconds spent collecting; None when no rollout was begun.
        update_s: seconds spent in the update.
    """

    rollout_s: float | None
    update_s: float

    def rate(self, steps: int) -> float | None:
        """Environment steps per second, over rollout and update together; None without steps."""
        total_s = self.update_s + (self.rollout_s or 0.0)
        return steps / total_s if steps and total_s > 0 else None


class SpanOpener:
    """Opens spans; without an SDK they are no-ops, with ids that Esper generates.

    A span that begins a trace has the common attributes from its start, for samplers; those beneath it, which belong to
    the same trace, get them when they end.

    Args:
        tracer: opens the SDK's spans; None is a no-op.
        links: added to every span that begins a trace.
        common: attributes of every span.
    """

    def __init__(self, tracer: Tracer | None, links: Iterable[Link], common: Mapping[str, AttributeValue]) -> None:
        self._tracer = tracer if tracer is not None else otel_trace.NoOpTracer()
        self._links = tuple(links)
        self._link_refs = tuple(map(_link_ref, self._links))
        self._common = common
        self._withheld = False

    def withhold_updates(self) -> None:
        """Let no SDK see the spans of updates from now on."""
        self._withheld = True

    def mute(self) -> None:
        """Let no SDK see a span from now on."""
        self._tracer = otel_trace.NoOpTracer()

    def open(self, name: str, parent: OpenSpan | None, now: int, update_id: int | None = None) -> OpenSpan:
        context: Context | None = otel_trace.set_span_in_context(parent.span) if parent is not None else None
        attributes = dict(self._common)
        if update_id is not None:
            attributes[UPDATE_ID] = int64(update_id)
        tracer = otel_trace.NoOpTracer() if self._withheld and update_id is not None else self._tracer
        span = tracer.start_span(
            name,
            context=context,
            attributes=attributes if parent is None else None,
            links=self._links if parent is None else None,
            start_time=now,
        )
        current = span.get_span_context()
        # Without an SDK the API returns the context of the enclosing span: its id must not be used for a second span.
        enclosing = (parent.span if parent is not None else otel_trace.get_current_span()).get_span_context()
        if not current.is_valid or current.span_id == enclosing.span_id:
            return self.unrecorded(name, parent, now, span)
        return OpenSpan(
            span=span,
            name=name,
            trace_id=f"{current.trace_id:032x}",
            span_id=f"{current.span_id:016x}",
            parent_span_id=parent.span_id if parent is not None else _current_parent(current.trace_id),
            start_ns=now,
            attributes=attributes if parent is not None else None,
            links=self._link_refs if parent is None else (),
        )

    def unrecorded(self, name: str, parent: OpenSpan | None, now: int, span: Span | None = None) -> OpenSpan:
        """A span that no SDK records, with ids that Esper generates."""
        return OpenSpan(
            span=span if span is not None else otel_trace.INVALID_SPAN,
            name=name,
            trace_id=parent.trace_id if parent is not None else f"{ids.new_trace_id():032x}",
            span_id=f"{ids.new_span_id():016x}",
            parent_span_id=parent.span_id if parent is not None else None,
            start_ns=now,
            links=self._link_refs if parent is None else (),
        )


def _link_ref(link: Link) -> LinkRef:
    """A link as the journal keeps it."""
    other = link.context
    return LinkRef(
        trace_id=f"{other.trace_id:032x}",
        span_id=f"{other.span_id:016x}",
        trace_state=other.trace_state.to_header(),
        flags=other.trace_flags | (REMOTE if other.is_remote else LOCAL),
    )


def _current_parent(trace_id: int) -> str | None:
    """The application's own current span, when the new one was opened beneath it."""
    outer = otel_trace.get_current_span().get_span_context()
    return f"{outer.span_id:016x}" if outer.is_valid and outer.trace_id == trace_id else None
