"""Completes and ends the spans of events after their hooks, in a thread of its own: no cost of the training loop.

An SDK checks every value that it is given, which takes longer than all else that an update's telemetry does. Nothing
waits for it: the journal has the event by then, and a span's exporter sends in batches, seconds later.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from esper_core.emitter._spans import inside
from esper_core.semconv.attributes import shared_attributes, span_events

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from opentelemetry.trace import Span

    from esper_core.emitter._spans import OpenSpan
    from esper_core.events import TelemetryEvent
    from esper_core.semconv.attributes import AttributeValue, SpanEventData

__all__ = ["EndedEvent", "SpanEnds"]

_logger: Final = logging.getLogger("esper.emitter")
_LINGER_S: Final = 0.05
"""Seconds after which the thread ends what waits: each time that it wakes, it takes Python's lock from the loop."""


class EndedEvent(NamedTuple):
    """An event whose hooks have returned and whose own span is about to end.

    Attributes:
        event: the event.
        span: its own span; one that records nothing without an SDK.
        attributes: of the span, as the journal has them: do not modify them.
        events: the span's events.
    """

    event: TelemetryEvent[Any]
    span: Span
    attributes: Mapping[str, AttributeValue]
    events: tuple[SpanEventData, ...]


class SpanEnds:
    """Completes and ends spans, one event after the other, at once.

    Args:
        complete: sets on an event's own span what it tells; called inside that span, just before it ends.
    """

    def __init__(self, complete: Callable[[EndedEvent], object] | None) -> None:
        self._complete = complete

    def put(self, event: TelemetryEvent[Any], spans: Sequence[OpenSpan], end_ns: int) -> None:
        """Take an event and the spans that end with it, inner ones first and its own before all."""
        self._end(self._ended(event, spans), spans, end_ns)

    def close(self, timeout_s: float) -> None:
        """End what waits. Events can still be put."""

    def _ended(self, event: TelemetryEvent[Any], spans: Sequence[OpenSpan]) -> EndedEvent | None:
        if self._complete is None:
            return None
        return EndedEvent(event, spans[0].span, shared_attributes(event), span_events(event))

    def _end(self, ended: EndedEvent | None, spans: Sequence[OpenSpan], end_ns: int) -> None:
        try:
            if ended is not None and self._complete is not None:
                spans[0].describe()
                with inside(ended.span):
                    self._complete(ended)
        except (Exception, SystemExit) as error:  # noqa: BLE001  # an application's own SDK may raise anything
            _failed(error)
        for span in spans:
            try:
                span.end(end_ns)
            except (Exception, SystemExit) as error:  # noqa: BLE001  # so may its processors
                _failed(error)


class LateSpanEnds(SpanEnds):
    """Does it in a thread, up to 50 ms later. Any thread may put, also a span's processor that emits.

    When ``MOST`` events wait, who puts one more ends the oldest: none is dropped. So an application's processor that
    never returns holds the loop then, as it would at once without the thread. Where the system gives no thread, spans
    end at once.

    Args:
        complete: as above.
    """

    MOST: Final = 256

    def __init__(self, complete: Callable[[EndedEvent], object] | None) -> None:
        super().__init__(complete)
        self._waiting: deque[tuple[EndedEvent | None, Sequence[OpenSpan], int]] = deque()
        self._one = threading.RLock()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def put(self, event: TelemetryEvent[Any], spans: Sequence[OpenSpan], end_ns: int) -> None:
        """As above; what the event tells is worked out here, because the journal has just done so."""
        self._waiting.append((self._ended(event, spans), spans, end_ns))
        if self._closing.is_set():
            self._end_all()
            return
        if len(self._waiting) > self.MOST:
            self._end_one()
        if not self._wake.is_set():
            self._wake.set()
            self._start()

    def close(self, timeout_s: float) -> None:
        """End what waits, and the thread; what is put from now on is ended at once."""
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                _logger.warning("a span processor takes too long: %d events' spans wait for it", len(self._waiting) + 1)
                return
            self._thread = None
        self._end_all()

    def _start(self) -> None:
        with self._one:
            if self._thread is not None or self._closing.is_set():
                return
            thread = threading.Thread(target=self._run, name="esper-spans", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the system's limit of threads, or the interpreter ends
                _logger.warning("spans are ended in the training loop: %s", error)
                self._closing.set()
                self._end_all()
            else:
                self._thread = thread

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.wait()
            self._closing.wait(_LINGER_S)
            self._wake.clear()
            self._end_all()
        self._end_all()

    def _end_all(self) -> None:
        while self._waiting:
            self._end_one()

    def _end_one(self) -> None:
        with self._one:
            if self._waiting:
                self._end(*self._waiting.popleft())


def _failed(error: BaseException) -> None:
    _logger.warning("a span was not recorded whole: %s", error, exc_info=error)
