"""One attempt at a run: creates its directory, trains, and writes its summary."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from esper_core.config.show import config_toml
from esper_core.errors import EsperError, JournalError, error_text
from esper_core.events import RunFinished
from esper_core.health import HEALTH_WINDOW, RunState
from esper_core.host.load.secrets import secret_keys
from esper_core.host.session import Session
from esper_core.masking import redact
from esper_core.ppo.checkpointer import Checkpointer
from esper_core.ppo.threads import torch_threads
from esper_core.ppo.trainer import Trainer
from esper_core.reading.judged import judge
from esper_core.runs import create_run
from esper_core.runs.held import HeldRun
from esper_core.runs.layout import RunDir, journal_files
from esper_core.training.agreement import agree_on_start
from esper_core.training.outcome import Outcome, Started
from esper_core.training.ranks import share_attempt, share_folder
from esper_core.training.summary import summary_of, write_summary
from esper_core.training.torch_device import told_default_device

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from esper_core.config.layers import Resolved
    from esper_core.envs.video import Videos
    from esper_core.events import PPOUpdatePayload
    from esper_core.health import Verdict
    from esper_core.host.load.selection import Selection
    from esper_core.host.process.signals import StopFlag
    from esper_core.host.session import SessionReport
    from esper_core.ppo.agent import PPOAgent
    from esper_core.ppo.agreement import Agreement
    from esper_core.ppo.checkpoint import Checkpoint
    from esper_core.ppo.distributed import GroupReducer
    from esper_core.ppo.evaluator import Evaluator
    from esper_core.ppo.task import Task
    from esper_core.ppo.train_result import TrainResult
    from esper_core.reading.run import Run

__all__ = ["Attempt"]


@dataclass(slots=True, kw_only=True)
class Attempt:
    """Joins a task and an agent with a session. Call :meth:`run` once, in the thread that trains.

    Attributes are those of :func:`esper_core.training.train_attempt`; ``checkpoint`` is what the agent was restored
    from, ``held`` the run to resume, held open; a new one is made in ``base``; ``stop`` is set by the signals;
    ``group`` joins several ranks: rank 0 owns the directory's files, the others write their own journal and log there.
    """

    resolved: Resolved
    selection: Selection
    task: Task
    agent: PPOAgent
    evaluator: Evaluator | None
    videos: Videos | None
    checkpoint: Checkpoint | None
    resumed: Run | None
    held: HeldRun | None
    base: Path
    on_started: Callable[[Started], None]
    on_notice: Callable[[str], None]
    stop: StopFlag
    group: GroupReducer | None = None
    _begun: float = field(default_factory=time.monotonic)
    _pid: int = field(default_factory=os.getpid)
    _ranks_before: int = 1

    def run(self) -> Outcome:
        """Train, write ``config.toml`` and ``summary.json``, and return how the attempt ended."""
        record = self.resumed.record if self.resumed is not None else None
        self._ranks_before = record.ranks if record is not None else self._ranks
        held, attempt = self._directory()
        with held:
            return self._trained(held, attempt)

    def _trained(self, held: HeldRun, attempt: int) -> Outcome:
        session = None
        try:
            session = self._session(held, attempt)
            with torch_threads(), session:
                self._write_config(held)
                self.on_started(self._started(held.run, attempt))
                for line in self._of_ranks():
                    session.notice(line)
                result = _named(self._train(session, held), session.stop.name)
                self._finish(session, result)
        except BaseException as error:
            if os.getpid() == self._pid:  # a forked child left by an exception: the run belongs to the parent process
                self._leave(held, attempt, session, error)
            raise
        judged = judge(
            result.state,
            recent=session.emitter.window.updates,
            updates=result.updates,
            limits=self.resolved.config.health.limits,
            accounts=session.report.sinks,
            message=result.reason,
        )
        unwritten = self._summarise(held, attempt, session.report, result=result, judged=judged)
        return Outcome(
            run=held.run,
            attempt=attempt,
            result=result,
            verdict=judged,
            limits=self.resolved.config.health.limits,
            report=session.report,
            duration_s=time.monotonic() - self._begun,
            signal=result.exit_signal if result.exit_signal is not None else session.stop.signal,
            strict=self.resolved.config.run.strict_telemetry,
            unwritten=unwritten,
        )

    # --- before -------------------------------------------------------------------------------

    def _directory(self) -> tuple[HeldRun, int]:
        if self.resumed is None or self.held is None:
            return self._new_directory(), 1
        record = self.resumed.record
        # run.json may be missing or old; a new attempt's number must be above every one in the journal.
        attempts = [item.attempt for item in journal_files(self.held.run)]
        attempt = max([1 if record is None else record.attempt, *attempts]) + 1
        if self.group is not None:  # rank 0 may have begun it before another looks
            attempt = share_attempt(self.group, self.held.run, attempt)
        return self.held, attempt

    def _new_directory(self) -> HeldRun:
        settings = self.resolved.config.run

        def make() -> Path:
            return create_run(self.base / settings.dir, name=settings.name).path

        if self.group is None:
            return HeldRun(RunDir(make()))
        return HeldRun(RunDir(share_folder(self.group, make)), lock=self._owner)

    @property
    def _rank(self) -> int:
        return self.group.rank if self.group is not None else 0

    @property
    def _ranks(self) -> int:
        return self.group.world_size if self.group is not None else 1

    @property
    def _owner(self) -> bool:
        """Whether this rank owns the run's files."""
        return self._rank == 0

    def _session(self, held: HeldRun, attempt: int) -> Session:
        return Session(
            self.resolved.config,
            run=held.run,
            held=held,
            attempt=attempt,
            rank=self._rank,
            ranks=self._ranks,
            processes=self.group.processes if self.group is not None else (),
            environment=self.task.name,
            heads=self.agent.layout.names,
            install_signal_handlers=False,  # installed by whoever made the task, before it
            stop=self.stop,
            origins=self.resolved.origins,
            selection=self.selection,
            updates=self.checkpoint.update_id if self.checkpoint is not None else 0,
            env_steps=self.checkpoint.env_steps if self.checkpoint is not None else 0,
            earlier=self._earlier(),
            on_notice=self.on_notice,
        )

    def _earlier(self) -> list[PPOUpdatePayload]:
        """The updates that the policy's level goes on from; none without a journal, or with one that is unreadable."""
        if self.resumed is None:
            return []
        try:
            events = self.resumed.updates_before(self.agent.updates + 1, HEALTH_WINDOW)
        except (JournalError, OSError):
            return []
        return [event.payload for event in events]

    def _write_config(self, held: HeldRun) -> None:
        if not self._owner:
            return
        text = config_toml(self.resolved, secret_keys(self.resolved.config))
        try:
            held.write("config.toml", text.encode())
        except OSError as error:
            raise EsperError(
                f"cannot write {held.run.config_path}: {error.strerror}", hint="free some space, or name another --dir"
            ) from error

    def _started(self, run: RunDir, attempt: int) -> Started:
        return Started(
            run=run,
            attempt=attempt,
            first_update=self.agent.updates + 1,
            heads={head.name: head.choices for head in self.agent.layout.heads},
            active_heads=_usually_active(self.task) if not self.resolved.config.env.causal_mask else None,
            sinks=tuple(sink.name for sink in self.selection.sinks),
            ranks=self._ranks,
        )

    def _of_ranks(self) -> Iterator[str]:
        """What the start says of several ranks."""
        if self._ranks > 1:
            yield f"trains with {self._ranks} ranks (gloo); counts and limits are of all of them"
        if self._ranks != self._ranks_before:
            now, before = _counted(self._ranks), _counted(self._ranks_before)
            more = "more" if self._ranks > self._ranks_before else "fewer"
            yield f"{now} here, {before} in the attempt before: an update has {more} samples"

    # --- training -----------------------------------------------------------------------------

    def _train(self, session: Session, held: HeldRun) -> TrainResult:
        settings = self.resolved.config.run
        if self.group is not None:
            agree_on_start(self.agent, self.group)
        if not self._owner:
            session.emitter.withhold_updates()
        self.agent.on_notice = session.notice
        if self.videos is not None:
            self.videos.folder = held.run.path / "videos"
        trainer = Trainer(
            self.agent,
            self.task,
            self.resolved.config,
            emitter=session.emitter,
            should_stop=session.stop,
            on_progress=session.progress,
            checkpointer=Checkpointer(
                held.run.checkpoint, settings.checkpoint_interval_s, folder=held.folder, on_failure=self.on_notice
            )
            if self._owner
            else None,
            evaluator=self.evaluator,
            recorder=self.videos,
            resume=self.checkpoint,
            resumed_from=session.attempt - 1 if self.resumed is not None else None,
            run_name=settings.name,
            agreement=self._agreement(),
        )
        with told_default_device(self.task.name):
            result = trainer.run()
        if self.videos is not None and self.videos.failures > 1:
            self.on_notice(f"{self.videos.failures} videos failed; trainer.log has what each raised")
        if result.evaluations_failed > 1:
            self.on_notice(f"{result.evaluations_failed} evaluations failed; trainer.log has what each raised")
        return result

    def _agreement(self) -> Agreement | None:
        if self.group is None:
            return None
        from esper_core.ppo.together import Together  # noqa: PLC0415  # several ranks only

        return Together(self.group, check_updates=self.resolved.config.run.rank_check_updates)

    def _finish(self, session: Session, result: TrainResult) -> None:
        """Emit how the run ended to every sink, before anything is closed."""
        session.emitter.emit_run_finished(
            RunFinished(
                state=result.state,
                reason=result.reason,
                updates=result.updates,
                env_steps=result.env_steps,
                episodes=result.episodes,
                early_stops=result.early_stops,
                joint_stops=result.joint_stops,
                duration_s=time.monotonic() - self._begun,
                return_mean_100=result.return_mean_100,
                kl_divergence=result.last.kl_divergence if result.last is not None else None,
                lost=session.losses(),
            )
        )
        session.finish(result.state, result.reason)

    # --- after --------------------------------------------------------------------------------

    def _leave(self, held: HeldRun, attempt: int, session: Session | None, error: BaseException) -> None:
        """Handle an exception that ended the attempt: write a summary, or delete the directory of a run not begun."""
        if not self._owner:
            return
        if session is not None and held.folder.stat("run.json") is not None:
            self._summarise(held, attempt, session.report, error=error)
        elif self.resumed is None:
            shutil.rmtree(held.run.path, ignore_errors=True)

    def _summarise(
        self,
        held: HeldRun,
        attempt: int,
        report: SessionReport,
        *,
        result: TrainResult | None = None,
        judged: Verdict | None = None,
        error: BaseException | None = None,
    ) -> str:
        """Write ``summary.json``; return why it could not be written, or an empty string."""
        if not self._owner:
            return ""
        if result is not None:
            state, reason = result.state, result.reason
        elif isinstance(error, KeyboardInterrupt):
            state, reason = RunState.STOPPED, "SIGINT"
        else:
            state, reason = RunState.FAILED, redact(error_text(error)) if error is not None else ""
        content = summary_of(
            self.resolved,
            environment=self.task.name,
            result=result,
            last=result.last if result is not None else self.agent.last,
            updates=result.updates if result is not None else self.agent.updates,
            judged=judged,
            report=report,
            duration_s=time.monotonic() - self._begun,
            state=state,
            reason=reason,
        )
        return write_summary(held, attempt, content)


def _counted(ranks: int) -> str:
    return f"{ranks} rank{'s' if ranks > 1 else ''}"


def _usually_active(task: Task) -> float | None:
    """Mean number of active heads over the choices of the conditioning head; needs a constant causal table.

    Heads with one choice, or one value, never count: nothing is decided there.
    """
    table = getattr(task, "causal_table", None)
    if table is None:
        return None
    deciding = [head.decides for head in task.heads]
    active = sum(bool(cell) for row in table for cell, decides in zip(row, deciding, strict=True) if decides)
    return active / len(table) or None


def _named(result: TrainResult, signal_name: str) -> TrainResult:
    """The result; when a signal stopped the run, its reason is the signal's name."""
    return replace(result, reason=signal_name) if result.state is RunState.STOPPED and signal_name else result
