"""Joins task, agent, trainer and session into one attempt at a run. Imported only by ``esper ppo``."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from esper_core.cli._secrets import secret_keys
from esper_core.cli._words import end_lines, next_commands, program, start_lines
from esper_core.config.show import config_toml
from esper_core.errors import (
    EXIT_FAILED,
    EXIT_LOSSY,
    EXIT_OK,
    EXIT_SIGNAL,
    EsperError,
    NonFiniteError,
    UsageError,
)
from esper_core.events import RunFinished
from esper_core.health import HEALTH_WINDOW, HealthLevel, RunState
from esper_core.host.load.discovery import installed_commands
from esper_core.host.load.selection import foreground_sink, select_sinks
from esper_core.reading.account import to_summary
from esper_core.reading.judged import judge
from esper_core.runs import RunDir, create_run, run_state
from esper_core.runs.layout import journal_files
from esper_core.runs.process import ProcessPresence, probe_process

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from esper_core.config.layers import Resolved
    from esper_core.health import Verdict
    from esper_core.host.load.selection import Selection
    from esper_core.host.session import Session, SessionReport
    from esper_core.ppo.agent import PPOAgent
    from esper_core.ppo.checkpoint import Checkpoint
    from esper_core.ppo.task import Task
    from esper_core.ppo.trainer import TrainResult
    from esper_core.reading import Run

__all__ = ["train"]


def train(resolved: Resolved, *, resumed: Run | None = None, words: Sequence[str] = ()) -> int:
    """Train one attempt of a run.

    Args:
        resolved: the configuration.
        resumed: the run to go on with; None begins a new one.
        words: the command line after ``esper``, for a child process when a sink owns the terminal.

    Returns:
        The exit code.
    """
    if resumed is not None:
        _refuse_running(resumed)
    selection = select_sinks(resolved.config, origins=resolved.origins)
    if foreground_sink(selection.sinks) is not None:
        from esper_core.cli._foreground import train_behind

        return train_behind(resolved, selection, words)
    task, agent, checkpoint = _build(resolved, resumed)
    try:
        return _Attempt(resolved, selection, task, agent, checkpoint, resumed).run()
    finally:
        task.close()


def _refuse_running(run: Run) -> None:
    """Two trainers in one run would overwrite each other; a process that is seen to be gone is followed at once."""
    record = run.record
    state = run_state(record)
    if record is None or probe_process(record) is ProcessPresence.GONE:
        return
    if state in {RunState.LIVE, RunState.STALLED}:
        raise UsageError(
            f"run {run.run_id} is still {state.value} (pid {record.pid} on {record.host})",
            hint=f"stop it first: kill {record.pid}",
        )


def _build(resolved: Resolved, resumed: Run | None) -> tuple[Task, PPOAgent, Checkpoint | None]:
    """Task, agent and checkpoint: everything that may be refused, before a run directory exists."""
    try:
        from esper_core.envs.adapter import make_task
        from esper_core.ppo.agent import PPOAgent
        from esper_core.ppo.checkpoint import load_checkpoint, restore
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in {"torch", "gymnasium", "numpy"}:
            raise
        raise UsageError(
            f"esper ppo needs {error.name}, which is not installed", hint="pip install 'esper-core[train]'"
        ) from error
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # a module of the user's own: --env my_env:MyEnv-v0, --causal-mask my_masks:mask
    config = resolved.config
    checkpoint = None
    if resumed is not None:
        checkpoint = load_checkpoint(resumed.directory.checkpoint)
        _refuse_finished(resolved, checkpoint, resumed)
    task = make_task(config.env, seed=config.run.seed)
    agent = PPOAgent(
        task.heads,
        task.obs_shape,
        config.ppo,
        seed=config.run.seed,
        conditioning_head=task.conditioning_head,
    )
    if checkpoint is not None:
        restore(agent, checkpoint)
    return task, agent, checkpoint


def _refuse_finished(resolved: Resolved, checkpoint: Checkpoint, run: Run) -> None:
    limits = resolved.config.run
    done = (
        ("updates", checkpoint.update_id, limits.updates),
        ("steps", checkpoint.env_steps, limits.steps),
        ("episodes", checkpoint.episodes, limits.episodes),
    )
    for name, count, limit in done:
        if limit and count >= limit:
            raise UsageError(
                f"run {run.run_id} has already done {count} of {limit} {name}",
                hint=f"limits count all attempts; to go on, for example: --{name} {count + limit}",
            )


@dataclass(slots=True)
class _Attempt:
    """One attempt, from its directory to its summary."""

    resolved: Resolved
    selection: Selection
    task: Task
    agent: PPOAgent
    checkpoint: Checkpoint | None
    resumed: Run | None

    def run(self) -> int:
        run, attempt = self._directory()
        secrets = secret_keys(self.resolved.config)
        begun = time.monotonic()
        levels: deque[HealthLevel] = deque(maxlen=HEALTH_WINDOW)
        session = None
        result = None
        try:
            session = self._session(run, attempt)
            # In a child of a foreground sink these lines come after the run was named: they go to trainer.log.
            with session:
                self._write_config(run, secrets)
                self._say_start(run, attempt)
                result = _named(self._train(session, run, levels), session.stop.name)
                self._finish(session, result, begun)
        except BaseException as error:
            if session is None or not run.record_path.exists():
                self._forget(run)
            else:
                words = f"{type(error).__name__}: {error}"
                _write_summary(run, attempt, self._summary(None, session.report, None, begun, reason=words))
            raise
        judged = self._verdict(result, session.report, levels)
        _write_summary(run, attempt, self._summary(result, session.report, judged, begun))
        self._say_end(run, result, session.report, judged, begun)
        return self._exit_code(run, result, session)

    # --- before -------------------------------------------------------------------------------

    def _write_config(self, run: RunDir, secrets: Mapping[str, frozenset[str]]) -> None:
        try:
            run.config_path.write_text(config_toml(self.resolved, secrets), encoding="utf-8")
        except OSError as error:
            raise EsperError(
                f"cannot write {run.config_path}: {error.strerror}", hint="free some space, or name another --dir"
            ) from error

    def _directory(self) -> tuple[RunDir, int]:
        if self.resumed is None:
            settings = self.resolved.config.run
            return create_run(Path(settings.dir), name=settings.name), 1
        record, directory = self.resumed.record, self.resumed.directory
        # run.json may be lost or old; a new attempt must rank above every one that the journal holds.
        attempts = [item.attempt for item in journal_files(directory)]
        return directory, max([1 if record is None else record.attempt, *attempts]) + 1

    def _forget(self, run: RunDir) -> None:
        """A run that never began leaves no directory."""
        if self.resumed is None:
            shutil.rmtree(run.path, ignore_errors=True)

    def _session(self, run: RunDir, attempt: int) -> Session:
        from esper_core.host.session import Session

        return Session(
            self.resolved.config,
            run=run,
            attempt=attempt,
            environment=self.task.name,
            heads=self.agent.layout.names,
            origins=self.resolved.origins,
            selection=self.selection,
            updates=self.checkpoint.update_id if self.checkpoint is not None else 0,
            env_steps=self.checkpoint.env_steps if self.checkpoint is not None else 0,
        )

    def _say_start(self, run: RunDir, attempt: int) -> None:
        lines = start_lines(
            self.resolved,
            heads={head.name: head.size for head in self.agent.layout.heads},
            run=str(run.path),
            sinks=[sink.name for sink in self.selection.sinks],
            resumed=(attempt, self.agent.updates + 1) if self.resumed is not None else None,
            active=_usually_active(self.task) if not self.resolved.config.env.causal_mask else None,
        )
        print("\n".join(lines), file=sys.stderr)

    # --- training -----------------------------------------------------------------------------

    def _train(self, session: Session, run: RunDir, levels: deque[HealthLevel]) -> TrainResult:
        from esper_core.ppo.trainer import Checkpointer, Trainer

        settings = self.resolved.config.run
        seen = self.agent.updates

        def progressed(*, updates: int, env_steps: int) -> None:
            nonlocal seen
            if updates != seen and self.agent.last is not None:
                seen = updates
                levels.append(self.agent.last.health)
            session.progress(updates=updates, env_steps=env_steps)

        trainer = Trainer(
            self.agent,
            self.task,
            self.resolved.config,
            emitter=session.emitter,
            should_stop=session.stop,
            on_progress=progressed,
            checkpointer=Checkpointer(run.checkpoint, settings.checkpoint_interval_s),
            resume=self.checkpoint,
            resumed_from=session.attempt - 1 if self.resumed is not None else None,
            run_name=settings.name,
        )
        return trainer.run()

    def _finish(self, session: Session, result: TrainResult, begun: float) -> None:
        """Say how it ended, to every sink, before anything is closed."""
        session.emitter.emit_run_finished(
            RunFinished(
                state=result.state,
                reason=result.reason,
                updates=result.updates,
                env_steps=result.env_steps,
                episodes=result.episodes,
                early_stops=result.early_stops,
                duration_s=time.monotonic() - begun,
                return_mean_100=result.return_mean_100,
                kl_divergence=result.last.kl_divergence if result.last is not None else None,
                lost=session.losses(),
            )
        )
        session.finish(result.state, result.reason)

    # --- after --------------------------------------------------------------------------------

    def _verdict(self, result: TrainResult, report: SessionReport, levels: deque[HealthLevel]) -> Verdict:
        return judge(
            result.state,
            levels=levels,
            last=result.last,
            updates=result.updates,
            accounts=report.sinks,
            message=result.reason,
        )

    def _summary(
        self,
        result: TrainResult | None,
        report: SessionReport,
        judged: Verdict | None,
        begun: float,
        *,
        reason: str = "",
    ) -> dict[str, Any]:
        """What ``summary.json`` holds; null where nothing was measured."""
        last = result.last if result is not None else self.agent.last
        return {
            "environment": self.task.name,
            "preset": self.resolved.config.preset,
            "seed": self.resolved.config.run.seed,
            "state": result.state.value if result is not None else RunState.FAILED.value,
            "reason": result.reason if result is not None else reason,
            "verdict": judged.label if judged is not None else None,
            "verdict_reason": judged.reason if judged is not None else None,
            "updates": result.updates if result is not None else self.agent.updates,
            "env_steps": result.env_steps if result is not None else None,
            "episodes": result.episodes if result is not None else None,
            "early_stops": result.early_stops if result is not None else None,
            "return_mean_100": result.return_mean_100 if result is not None else None,
            "kl_divergence": last.kl_divergence if last is not None else None,
            "kl_joint": last.kl_joint if last is not None else None,
            "health": last.health.value if last is not None else None,
            "duration_s": time.monotonic() - begun,
            "lost": report.lost_total,
            "sinks": [to_summary(sink) for sink in report.sinks],
        }

    def _say_end(self, run: RunDir, result: TrainResult, report: SessionReport, judged: Verdict, begun: float) -> None:
        commands = next_commands(
            str(run.path),
            has_checkpoint=run.checkpoint.is_file(),
            has_journal=run.telemetry.is_dir(),
            commands=list(installed_commands()),
        )
        lines = end_lines(
            result,
            verdict=judged,
            report=report,
            run=str(run.path),
            duration_s=time.monotonic() - begun,
            resumed=self.resumed is not None,
            commands=commands,
        )
        with contextlib.suppress(BrokenPipeError):
            print("\n".join(lines), flush=True)

    def _exit_code(self, run: RunDir, result: TrainResult, session: Session) -> int:
        if result.unsaved:
            raise EsperError(result.unsaved, hint="the training itself went as said above; its policy was not kept")
        signum = result.exit_signal if result.exit_signal is not None else session.stop.signal
        if result.state is RunState.STOPPED and signum is not None:
            return EXIT_SIGNAL + signum
        if result.state is RunState.FAILED:
            again = ""
            if run.checkpoint.is_file():
                again = f"; the last good weights: {program()} ppo --resume {run.path} --set ppo.learning_rate=..."
            raise NonFiniteError(result.reason, hint=f"--keep-going goes on in spite of it{again}")
        if self.resolved.config.run.strict_telemetry and session.report.lost_total:
            print(f"esper: {session.report.lost_total} events were lost (--strict-telemetry)", file=sys.stderr)
            return EXIT_LOSSY
        return EXIT_OK if result.state in {RunState.DONE, RunState.STOPPED} else EXIT_FAILED


def _usually_active(task: Task) -> float | None:
    """Mean of active heads over the choices of the conditioning head, when a constant table says which those are."""
    table = getattr(getattr(task, "env", None), "causal_table", None)
    return None if table is None else float(sum(sum(bool(cell) for cell in row) for row in table) / len(table))


def _named(result: TrainResult, signal_name: str) -> TrainResult:
    """A stop says which signal asked for it."""
    return replace(result, reason=signal_name) if result.state is RunState.STOPPED and signal_name else result


def _write_summary(run: RunDir, attempt: int, content: dict[str, Any]) -> None:
    """Atomic; a disk that is full costs the summary, not the exit code."""
    # msgspec writes NaN as null: every JSON reader takes that, and "health" tells it from "not measured".
    text = msgspec.json.format(msgspec.json.encode({"run_id": run.run_id, "attempt": attempt, **content}), indent=2)
    partial = run.summary_path.with_name(f".summary.{os.getpid()}.partial")
    try:
        partial.write_bytes(text + b"\n")
        partial.replace(run.summary_path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        print(f"esper: cannot write {run.summary_path}: {error.strerror}", file=sys.stderr)
