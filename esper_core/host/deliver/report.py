"""What became of every sink, in numbers and in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from esper_core.events import SinkState

__all__ = ["SessionReport", "SinkReport"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkReport:
    """What became of one sink (or of one span processor or metric reader, named ``sink/Class``).

    Attributes:
        name: the sink's name.
        distribution: the distribution it came from; empty for a file.
        version: that distribution's version.
        delivery: inline, all or latest; ``span processor`` or ``metric reader`` for what a sink contributed.
        state: ok, failing, recovered, disabled, closed or cut_off.
        delivered: events that its hooks took without raising.
        lost: events that reached it not at all, or that made it raise, or that it reported lost itself.
        coalesced: events replaced by a newer one before delivery (``latest`` only); not losses.
        failures: calls that raised.
        queued: events waiting now.
        capacity: events its queue holds; 0 without a queue.
        lag_s: age of the oldest waiting event, seconds.
        slowest_s: longest single call, seconds.
        cut_off: True when it had not closed at the deadline.
        message: what happened last, in words.
    """

    name: str
    distribution: str = ""
    version: str = ""
    delivery: str = "all"
    state: SinkState = "ok"
    delivered: int = 0
    lost: int = 0
    coalesced: int = 0
    failures: int = 0
    queued: int = 0
    capacity: int = 0
    lag_s: float = 0.0
    slowest_s: float = 0.0
    cut_off: bool = False
    message: str = ""

    @property
    def sink(self) -> str:
        """The name, as ``SinkStatusChanged`` calls it."""
        return self.name

    @property
    def queue(self) -> int:
        """Events waiting, as the metric ``esper.sink.queue`` calls it."""
        return self.queued


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionReport:
    """What became of every sink, valid once the session has ended.

    Attributes:
        sinks: one report a sink, then one for each span processor and metric reader that sinks contributed.
        close_s: seconds that closing took.
    """

    sinks: tuple[SinkReport, ...] = ()
    close_s: float = 0.0

    @property
    def lost_total(self) -> int:
        """Events lost, over all sinks."""
        return sum(sink.lost for sink in self.sinks)

    @property
    def cut_off(self) -> tuple[str, ...]:
        """Names of those that had not closed at the deadline."""
        return tuple(sink.name for sink in self.sinks if sink.cut_off)

    def lines(self) -> tuple[str, ...]:
        """One line for each sink that lost something, failed or was cut off; none when all is well."""
        found = []
        for sink in self.sinks:
            if not (sink.lost or sink.failures or sink.cut_off or sink.state == "disabled"):
                continue
            origin = f" ({sink.distribution} {sink.version})" if sink.distribution else ""
            what = [f"{sink.delivered} delivered", f"{sink.lost} lost"]
            if sink.failures:
                what.append(f"{sink.failures} failures")
            why = f": {sink.message}" if sink.message else ""
            found.append(f"sink {sink.name}{origin} {sink.state}: {', '.join(what)}{why}")
        return tuple(found)
