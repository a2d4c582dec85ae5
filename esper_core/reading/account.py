"""One sink's account: the one type in which host, ``run.json``, summary and viewers count what became of a sink.

The event (``SinkStatusChanged``) and the file format (``SinkRecord``) keep their own shapes; the functions here are
the only translators.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from esper_core.runs.state import SinkRecord

if TYPE_CHECKING:
    from collections.abc import Iterable

    from esper_core.events import SinkLoss, SinkState, SinkStatusChanged

__all__ = [
    "Losses",
    "SinkAccount",
    "from_record",
    "losses",
    "merged",
    "to_record",
    "to_summary",
    "with_loss",
    "with_status",
]

_RECORD_OF_0_1: Final = "journal"


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkAccount:
    """What became of one sink (or of one processor or metric reader that it contributed, named ``sink/Class``).

    Attributes:
        name: the sink's name.
        distribution: the distribution it came from; empty for a file or when unknown.
        version: that distribution's version.
        delivery: inline, all or latest; ``span processor``, ``log record processor`` or ``metric reader`` for what a
            sink contributed; empty when unknown.
        state: ok, failing, recovered, disabled, closed or cut_off.
        delivered: events that its hooks took without raising. Of a processor these are hand-overs: what the sink then
            sent, and what arrived, it accounts for itself, and reports the rest as lost.
        lost: events that reached it not at all, or that made it raise, or that it reported lost itself.
        coalesced: events replaced by a newer one before delivery (``latest`` only); not losses.
        failures: calls that raised.
        queued: events waiting now; None when unknown.
        capacity: events its queue holds; 0 without a queue, None when unknown.
        lag_s: age of the oldest waiting event, seconds; None for an inline sink or when unknown.
        slowest_s: longest single call, seconds.
        message: what happened last, in words.
        keeps_record: whether the run's record is what this sink keeps, so that its losses make every number of the run
            doubtful; None when nobody said.
    """

    name: str
    distribution: str = ""
    version: str = ""
    delivery: str = ""
    state: SinkState = "ok"
    delivered: int = 0
    lost: int = 0
    coalesced: int = 0
    failures: int = 0
    queued: int | None = None
    capacity: int | None = None
    lag_s: float | None = None
    slowest_s: float = 0.0
    message: str = ""
    keeps_record: bool | None = None

    @property
    def cut_off(self) -> bool:
        """Whether it had not closed at the deadline."""
        return self.state == "cut_off"

    @property
    def is_record(self) -> bool:
        """Whether its losses are losses of the run's record."""
        # Neither run.json of 0.1 nor a sink's events say it: there the first-party record's name decides. The only
        # place where the core reads a sink's meaning from its name.
        return self.keeps_record if self.keeps_record is not None else self.name == _RECORD_OF_0_1

    @property
    def troubled(self) -> bool:
        """Whether a person should look at it."""
        return bool(self.lost) or self.state in {"failing", "disabled", "cut_off"}

    @property
    def sink(self) -> str:
        """The name, as ``SinkStatusChanged`` and the metrics ``esper.sink.*`` call it."""
        return self.name

    @property
    def queue(self) -> int:
        """Events waiting, as the metric ``esper.sink.queue`` calls it."""
        return self.queued or 0


class Losses(NamedTuple):
    """Events lost, split by what that means.

    Attributes:
        record: lost by sinks that keep the run's record: every number of the run is doubtful.
        others: (sink, events lost) of the other sinks that lost any.
    """

    record: int
    others: tuple[tuple[str, int], ...]


def losses(accounts: Iterable[SinkAccount]) -> Losses:
    """What was lost, over all sinks."""
    known = list(accounts)
    return Losses(
        record=sum(item.lost for item in known if item.is_record),
        others=tuple((item.name, item.lost) for item in known if item.lost and not item.is_record),
    )


def from_record(record: SinkRecord) -> SinkAccount:
    """A sink's account as ``run.json`` tells it."""
    return SinkAccount(
        name=record.name,
        distribution=record.distribution,
        version=record.version,
        state=record.state,
        delivered=record.delivered,
        lost=record.lost,
        failures=record.failures,
        queued=record.queued,
        capacity=record.capacity,
        lag_s=record.lag_s,
        message=record.message,
        keeps_record=record.keeps_record,
    )


def to_record(account: SinkAccount) -> SinkRecord:
    """A sink's account as ``run.json`` keeps it."""
    return SinkRecord(
        name=account.name,
        distribution=account.distribution,
        version=account.version,
        state=account.state,
        delivered=account.delivered,
        lost=account.lost,
        failures=account.failures,
        queued=account.queued or 0,
        capacity=account.capacity or 0,
        lag_s=account.lag_s,
        message=account.message,
        keeps_record=account.keeps_record,
    )


def to_summary(account: SinkAccount) -> dict[str, Any]:
    """A sink's account as ``summary.json`` keeps it."""
    return {
        "name": account.name,
        "distribution": account.distribution,
        "version": account.version,
        "state": account.state,
        "delivered": account.delivered,
        "lost": account.lost,
        "failures": account.failures,
        "cut_off": account.cut_off,
        "message": account.message,
    }


def with_status(known: SinkAccount | None, status: SinkStatusChanged) -> SinkAccount:
    """What is known of a sink, brought up to date by its event."""
    return replace(
        known if known is not None else SinkAccount(name=status.sink),
        distribution=status.distribution,
        version=status.version,
        state=status.state,
        delivered=status.delivered,
        lost=status.lost,
        failures=status.failures,
        message=status.message,
    )


def with_loss(known: SinkAccount | None, loss: SinkLoss) -> SinkAccount:
    """What is known of a sink, and what the run's end says that it lost."""
    account = known if known is not None else SinkAccount(name=loss.sink)
    return replace(account, lost=max(loss.lost, account.lost))


def merged(from_events: Iterable[SinkAccount], from_host: Iterable[SinkAccount]) -> tuple[SinkAccount, ...]:
    """One account a sink, by name: the host's, with the larger count of losses of the two."""
    found = {item.name: item for item in from_events}
    for item in from_host:
        known = found.get(item.name, item)
        found[item.name] = replace(item, lost=max(item.lost, known.lost), message=item.message or known.message)
    return tuple(found[name] for name in sorted(found))
