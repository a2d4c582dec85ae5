"""The queue of spans and of log records, and the batches taken from it.

Own rather than the SDK's batch processors: those lose a batch whose export failed, ignore their flush timeout and keep
the newest by dropping the oldest without a number anyone sees.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from esper_sink_otlp.backlog import Backlog

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from esper_sink_otlp.exporter import Batch
    from esper_sink_otlp.settings import QueueSettings

__all__ = ["RecordBatch", "RecordSource", "attributes_bytes"]

RecordT = TypeVar("RecordT")

_ATTRIBUTE_BYTES: Final = 17
"""Tags, lengths and a number of one attribute."""
_ELEMENT_BYTES: Final = 13
"""One number of an array."""


@dataclass(frozen=True, slots=True)
class RecordBatch(Generic[RecordT]):
    """Ended spans, or log records, oldest first.

    Attributes:
        records: they.
        bytes_of: a record's size, estimated.
    """

    records: Sequence[RecordT]
    bytes_of: Callable[[RecordT], int]

    @property
    def items(self) -> int:
        """Records in it."""
        return len(self.records)

    @property
    def payload(self) -> Sequence[RecordT]:
        """What the SDK's exporter takes."""
        return self.records

    @property
    def size_bytes(self) -> int:
        """The request's size, estimated: encoding it to know would cost as much as sending it."""
        return sum(map(self.bytes_of, self.records))

    def halves(self) -> Sequence[RecordBatch[RecordT]]:
        """Two batches, or none for a single record."""
        middle = len(self.records) // 2
        if not middle:
            return ()
        return (RecordBatch(self.records[:middle], self.bytes_of), RecordBatch(self.records[middle:], self.bytes_of))


def attributes_bytes(attributes: Mapping[str, object] | None) -> int:
    """The size of attributes as OTLP, estimated."""
    size = 0
    for key, value in (attributes or {}).items():
        size += _ATTRIBUTE_BYTES + len(key)
        if isinstance(value, str):
            size += len(value)
        elif isinstance(value, tuple | list):
            size += sum(_ELEMENT_BYTES + (len(item) if isinstance(item, str) else 0) for item in value)
    return size


class RecordSource(Generic[RecordT]):
    """A bounded queue of ended spans, or of log records.

    Args:
        settings: sizes and delay.
        bytes_of: a record's size, estimated.
        patient: a replay waits for a place instead of dropping.
    """

    def __init__(self, settings: QueueSettings, bytes_of: Callable[[RecordT], int], *, patient: bool = False) -> None:
        self._settings = settings
        self._bytes_of = bytes_of
        self.backlog: Backlog[RecordT] = Backlog(settings.queue_size, patient=patient)
        self._taken_at = time.monotonic()

    def put(self, record: RecordT) -> None:
        """Queue a record. In the thread that calls the processor: live, it never waits."""
        if self.backlog.put(record) >= self._settings.batch_size:
            self.backlog.wake()

    def wait_s(self) -> float:
        """Seconds until the delay is over."""
        return max(0.01, self._settings.delay_s - (time.monotonic() - self._taken_at))

    def take(self, *, final: bool) -> Batch | None:
        """A full batch, or what there is once the delay is over."""
        over = time.monotonic() - self._taken_at >= self._settings.delay_s
        if not (final or over or len(self.backlog) >= self._settings.batch_size):
            return None
        self._taken_at = time.monotonic()
        records = self.backlog.take(self._settings.batch_size)
        return RecordBatch(records, self._bytes_of) if records else None

    def restore(self, batch: Batch) -> None:
        """Keep a batch, in its old order, until the receiver is back."""
        assert isinstance(batch, RecordBatch)  # only what take() gave  # noqa: S101
        self.backlog.restore(batch.records)
