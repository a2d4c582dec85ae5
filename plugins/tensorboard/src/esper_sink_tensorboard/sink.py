"""The sink: one event file for each attempt at a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from msgspec import Meta, Struct

from esper_core.errors import SinkError
from esper_core.hooks import SinkContext, hookimpl
from esper_core.runs import RunDir
from esper_sink_tensorboard.files import EventFile
from esper_sink_tensorboard.summaries import described, evaluation_summary, text_summary, update_summary

if TYPE_CHECKING:
    from tensorboardX.proto.summary_pb2 import Summary

    from esper_core.events import PolicyEvaluated, PPOUpdatePayload, RunFinished, RunStarted, TelemetryEvent

__all__ = ["TensorboardConfig", "TensorboardSink"]


class TensorboardConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[sink.tensorboard]``."""

    dir: Annotated[
        str,
        Meta(description="folder for a folder of each run, DIR/RUN-ID; unset: tensorboard/ in the run's own directory"),
    ] = ""
    step: Annotated[
        Literal["update_id", "env_steps"],
        Meta(
            description="the horizontal axis; env_steps lays the curves beside those of other libraries, and needs a "
            "loop that counts them"
        ),
    ] = "update_id"
    flush_s: Annotated[
        float,
        Meta(
            description="least seconds between two flushes to the disk, made when an update arrives: what kill -9 "
            "costs at most. 0 flushes after every update",
            ge=0,
            le=86400,
        ),
    ] = 1.0


class TensorboardSink:
    """Writes TensorBoard event files: numbers of updates, per head too, and of evaluations; the configuration as text.

    Args:
        config: the options.
    """

    Config: ClassVar[type[TensorboardConfig]] = TensorboardConfig

    def __init__(self, config: TensorboardConfig | None = None) -> None:
        self._config = config if config is not None else TensorboardConfig()
        self._context = SinkContext(run_id="")
        self._file: EventFile | None = None
        self._step = 0
        self._started: TelemetryEvent[RunStarted] | None = None

    @property
    def folder(self) -> Path:
        """Where the run's event files are."""
        context = self._context
        if self._config.dir:
            folder = Path(self._config.dir).expanduser() / context.run_id
        elif context.run_dir is not None:
            folder = context.run_dir / "tensorboard"
        else:
            raise SinkError(
                'sink "tensorboard" has nowhere to write: this run has no directory',
                hint="set sink.tensorboard.dir to a folder",
            )
        return folder if context.rank == 0 else folder / f"rank-{context.rank}"

    @hookimpl
    def esper_sink_opened(self, context: SinkContext) -> None:
        """Create the folder; the file is created with the first update.

        Raises:
            SinkError: the folder cannot be created.
        """
        self._context = context
        folder = self.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SinkError(
                f'sink "tensorboard" cannot create {folder}: {error.strerror}',
                hint="set sink.tensorboard.dir to a folder that can be written",
            ) from None

    @hookimpl
    def esper_run_started(self, event: TelemetryEvent[RunStarted]) -> None:
        """Keep it: its text stands at the step of the first update, which is not known yet."""
        self._end_file()  # in a replay another attempt begins
        self._context = replace(self._context, attempt=event.attempt)
        self._started = event

    @hookimpl
    def esper_ppo_updated(self, event: TelemetryEvent[PPOUpdatePayload]) -> None:
        """Append the update's numbers as one record."""
        self._append(event, update_summary(event.payload))

    @hookimpl
    def esper_policy_evaluated(self, event: TelemetryEvent[PolicyEvaluated]) -> None:
        """Append the evaluation's numbers as one record, at the step of the update whose policy played."""
        self._append(event, evaluation_summary(event.payload))

    @hookimpl
    def esper_run_finished(self, event: TelemetryEvent[RunFinished]) -> None:
        """Append how the run ended, as text."""
        if self._file is None:
            return
        ended = event.payload
        words = f"{ended.state.value}: {ended.reason or '-'}; {ended.updates} updates, {ended.env_steps} steps"
        try:
            self._file.add(text_summary("esper/end", words), step=self._step, time_ns=event.time_ns)
        except OSError:
            self._give_up()
            raise  # the host tries this event again

    @hookimpl
    def esper_sink_closed(self) -> None:
        """Force everything to the disk and close the file. What a check wrote is removed."""
        file = self._file
        self._end_file()
        if file is not None and self._context.mode == "check":
            file.remove()

    def check_report(self) -> str:
        """Say where the marked update went.

        Raises:
            SinkError: it was not written.
        """
        if self._file is None:
            raise SinkError(f"nothing was written to {self.folder}")
        self._file.flush()
        return f"wrote the marked update to {self.folder}"

    # --- inside -------------------------------------------------------------------------------

    def _append(
        self, event: TelemetryEvent[PPOUpdatePayload] | TelemetryEvent[PolicyEvaluated], found: Summary
    ) -> None:
        self._step = event.payload.update_id if self._config.step == "update_id" else event.payload.env_steps
        try:
            self._opened(event).add(found, step=self._step, time_ns=event.time_ns)
        except OSError:
            self._give_up()
            raise  # the host tries this event again

    def _opened(self, event: TelemetryEvent[Any]) -> EventFile:
        """The file, begun with what describes the run when this is its first record."""
        if self._file is not None:
            return self._file
        self._file = EventFile(self.folder, self._context.attempt, self._step, flush_s=self._config.flush_s)
        for tag, text in self._texts():
            self._file.describe(text_summary(tag, text), step=self._step, time_ns=event.time_ns)
        return self._file

    def _texts(self) -> list[tuple[str, str]]:
        texts = [] if self._started is None else [("esper/run", described(self._started.payload))]
        run_dir = self._context.run_dir
        if run_dir is not None:
            path = RunDir(run_dir, self._context.run_id).config_path
            if path.is_file():
                texts.append(("esper/config", f"```toml\n{path.read_text(encoding='utf-8')}\n```"))
        return texts

    def _end_file(self) -> None:
        file, self._file = self._file, None
        if file is None:
            return
        try:
            file.close()
        except OSError as error:
            self._context.report("failing", f"the disk refused: {error.strerror}", lost=file.unflushed)

    def _give_up(self) -> None:
        """Leave a file that failed: what follows a torn record is never read. The next update begins another one."""
        file, self._file = self._file, None
        if file is None:
            return
        file.abandon()
        before = file.unflushed - 1  # the event of this call is tried again
        if before > 0:
            self._context.report("failing", "the disk refused what was not flushed yet", lost=before)
