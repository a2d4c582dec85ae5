"""The log record processor that the sink contributes. Imported only when the run has log events.

The SDK marks its logs as in development (``opentelemetry.sdk._logs``): what a change of it may break is here, and where
its exporters are opened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from opentelemetry.sdk._logs import LogRecordProcessor, ReadableLogRecord, ReadWriteLogRecord
from opentelemetry.sdk.resources import Resource

from esper_sink_otlp.records import RecordSource, attributes_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from esper_sink_otlp.settings import QueueSettings

__all__ = ["LogQueue", "log_source"]

_RECORD_BYTES: Final = 80
"""Ids, times, severity and flags of one log record, as OTLP."""


def log_source(settings: QueueSettings, *, patient: bool = False) -> RecordSource[ReadableLogRecord]:
    """The queue of log records."""
    return RecordSource(settings, _size_bytes, patient=patient)


def _size_bytes(record: ReadableLogRecord) -> int:
    return _RECORD_BYTES + len(record.log_record.event_name or "") + attributes_bytes(record.log_record.attributes)


class LogQueue(LogRecordProcessor):
    """Puts log records into the source; costs an append.

    Args:
        source: the queue.
        close: sends what is left, inside the sink's own limit.
        flush: waits until everything queued so far was sent; True when it was.
    """

    def __init__(
        self, source: RecordSource[ReadableLogRecord], close: Callable[[], object], flush: Callable[[float], bool]
    ) -> None:
        self._source = source
        self._close = close
        self._flush = flush

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Queue the record, in the form that the SDK's exporters take."""
        self._source.put(
            ReadableLogRecord(
                log_record=log_record.log_record,
                resource=log_record.resource or Resource({}),
                instrumentation_scope=log_record.instrumentation_scope,
                limits=log_record.limits,
            )
        )

    def shutdown(self) -> None:
        """Send what is left, inside the sink's own limit."""
        self._close()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Wait until everything queued so far was sent."""
        return self._flush(timeout_millis / 1000)
