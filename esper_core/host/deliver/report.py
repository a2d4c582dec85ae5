"""The report on every sink at the end of a session: counters, and lines of text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from esper_core.reading.account import SinkAccount

__all__ = ["SessionReport"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionReport:
    """The final counters of every sink, valid once the session has ended.

    Attributes:
        sinks: one account a sink, then one for each span processor and metric reader that sinks contributed.
        close_s: seconds that closing took.
    """

    sinks: tuple[SinkAccount, ...] = ()
    close_s: float = 0.0

    @property
    def lost_total(self) -> int:
        """Events lost, over all sinks."""
        return sum(sink.lost for sink in self.sinks)

    @property
    def cut_off(self) -> tuple[str, ...]:
        """Names of the sinks that had not closed at the deadline."""
        return tuple(sink.name for sink in self.sinks if sink.cut_off)

    def lines(self) -> tuple[str, ...]:
        """One line for each sink that lost an event, failed or was cut off; no line when none did."""
        found = []
        for sink in self.sinks:
            if not (sink.lost or sink.failures or sink.cut_off or sink.state == "disabled"):
                continue
            origin = f" ({sink.distribution} {sink.version})" if sink.distribution else ""
            took = "handed over" if sink.delivery.endswith("processor") else "delivered"  # a queue's is no arrival
            what = [f"{sink.delivered} {took}", f"{sink.lost} lost"]
            if sink.failures:
                what.append(f"{sink.failures} failures")
            why = f": {sink.message}" if sink.message else ""
            found.append(f"sink {sink.name}{origin} {sink.state}: {', '.join(what)}{why}")
        return tuple(found)
