"""The sink: writes every event with the run's :class:`~esper_core.runs.JournalWriter`, in the emitter's thread."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Final

from msgspec import Meta, Struct

from esper_core.errors import SinkError
from esper_core.hooks import CloseReason, Delivery, SinkContext, hookimpl
from esper_core.runs import JournalWriter, RunDir

if TYPE_CHECKING:
    from esper_core.events import Payload, TelemetryEvent
    from esper_core.hooks import EventKinds

__all__ = ["JournalConfig", "JournalSink"]

_MIB: Final = 1024 * 1024


class JournalConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[sink.journal]``."""

    segment_mib: Annotated[int, Meta(description="size at which the next file begins, in MiB", ge=1, le=2048)] = 64
    compress: Annotated[
        bool, Meta(description="compress files that are full, and the last one at the run's end, to about a tenth")
    ] = True


class JournalSink:
    """Appends one line per event to ``telemetry/`` in the run directory.

    Inline, because a bounded append of a few kilobytes takes less time than a queue, and once the hook has returned the
    line is kept even after ``kill -9``. An error of the disk is raised to the host, which counts the event as lost and
    tries again later.

    Args:
        config: the options.
    """

    Config = JournalConfig
    delivery: Delivery = "inline"
    event_kinds: ClassVar[EventKinds] = "recorded"
    keeps_record: ClassVar[bool] = True
    every_rank: ClassVar[bool] = True
    any_thread: ClassVar[bool] = True

    def __init__(self, config: JournalConfig | None = None) -> None:
        self._config = config if config is not None else JournalConfig()
        self._writer: JournalWriter | None = None
        self._context: SinkContext | None = None
        self._vanished = ""

    @hookimpl
    def esper_sink_opened(self, context: SinkContext) -> None:
        """Create the writer; the file is created with the first event."""
        if context.mode == "replay":
            raise SinkError(
                'sink "journal" cannot be replayed into: the run it would write is the one being read',
                hint="use: esper export RUN --jsonl, or copy the run directory",
            )
        if context.run_dir is None:
            if context.mode == "check":
                return
            raise SinkError('sink "journal" needs a run directory', hint="give the session a run, or leave it out")
        self._context = context
        self._writer = JournalWriter(
            RunDir(context.run_dir, context.run_id),
            attempt=context.attempt,
            rank=context.rank,
            resource=context.resource,
            events=context.events,
            compress=self._config.compress,
            segment_bytes=self._config.segment_mib * _MIB,
            on_vanished=self._lost_file,
        )

    @hookimpl
    def esper_event(self, event: TelemetryEvent[Payload]) -> None:
        """Append the event. Finished episodes only with ``[otel] episodes``: an update carries their statistics."""
        if self._writer is None:
            return
        told, self._vanished = self._vanished, ""
        try:
            self._writer.append(event)
        except OSError:
            self._vanished = self._vanished or told
            raise
        if told and self._context is not None:
            self._context.report("recovered", f"writes to {Path(self._writer.path).name}; {told}")

    def _lost_file(self, what: str, lost: int) -> None:
        """A file was deleted under the writer: said with the next update, and until one has been written again."""
        self._vanished = f"{what} with {lost} {'event' if lost == 1 else 'events'}"
        if self._context is not None:
            self._context.report("failing", self._vanished, lost=lost)

    @hookimpl
    def esper_sink_closed(self, reason: CloseReason) -> None:  # noqa: ARG002  # the hook's signature
        """Force the last file to the disk and close it."""
        if self._writer is not None:
            self._writer.close()
