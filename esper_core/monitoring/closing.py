"""The end of a monitored run: its last event, its session, its summary."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from esper_core.events import RunFinished
from esper_core.health import RunState
from esper_core.masking import redact
from esper_core.reading.judged import judge
from esper_core.training.summary import summary_of, write_summary

if TYPE_CHECKING:
    from esper_core.config.layers import Resolved
    from esper_core.emitter import TelemetryEmitter
    from esper_core.host.session import Session
    from esper_core.monitoring.counts import Counts
    from esper_core.runs.held import HeldRun

__all__ = ["Closing"]


class Closing:
    """Ends one monitored run.

    Args:
        session: entered.
        resolved: its configuration.
        environment: for the summary.
    """

    def __init__(self, session: Session, resolved: Resolved, environment: str) -> None:
        self._session, self._resolved, self._environment = session, resolved, environment
        self._begun = time.monotonic()

    @property
    def stopping(self) -> bool:
        """Whether a signal asked for an orderly end."""
        return self._session.stop()

    def progress(self, *, updates: int, env_steps: int) -> None:
        """Record progress."""
        self._session.progress(updates=updates, env_steps=env_steps)

    def end(self, emitter: TelemetryEmitter, counts: Counts, error: BaseException | None) -> None:
        """Emit the end, close every sink, and write ``summary.json``.

        Args:
            emitter: of the run.
            counts: what it has done.
            error: what ended it; None for an orderly end.
        """
        session = self._session
        state, reason = _judged(error, stopped=session.stop.name if session.stop() else "", updates=counts.updates)
        try:
            emitter.emit_run_finished(
                RunFinished(
                    state=state,
                    reason=redact(reason),
                    updates=counts.updates,
                    env_steps=counts.env_steps,
                    episodes=counts.episodes,
                    early_stops=counts.early_stops,
                    joint_stops=counts.joint_stops if self._stops else None,
                    duration_s=time.monotonic() - self._begun,
                    return_mean_100=counts.return_mean_100,
                    kl_divergence=counts.last.kl_divergence if counts.last is not None else None,
                    lost=session.losses(),
                )
            )
            session.finish(state, redact(reason))
        finally:
            session.__exit__(type(error) if error is not None else None, error, None)
        if session.held is not None:
            with session.held:
                self._summarise(session.held, counts, state, redact(reason))

    @property
    def _stops(self) -> bool:
        return bool(self._resolved.config.ppo.target_kl)

    def _summarise(self, held: HeldRun, counts: Counts, state: RunState, reason: str) -> None:
        session = self._session
        verdict = judge(
            state,
            recent=session.emitter.window.updates,
            updates=counts.updates,
            limits=self._resolved.config.health.limits,
            accounts=session.report.sinks,
            message=reason,
        )
        content = summary_of(
            self._resolved,
            environment=self._environment,
            result=counts,
            last=counts.last,
            updates=counts.updates,
            judged=verdict,
            report=session.report,
            duration_s=time.monotonic() - self._begun,
            state=state,
            reason=reason,
        )
        unwritten = write_summary(held, session.attempt, content)
        if unwritten:
            raise OSError(unwritten)


def _judged(error: BaseException | None, *, stopped: str, updates: int) -> tuple[RunState, str]:
    """How the run ended, and why."""
    if isinstance(error, KeyboardInterrupt):
        return RunState.STOPPED, "SIGINT"
    if error is not None and not (isinstance(error, SystemExit) and not error.code):
        return RunState.FAILED, f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if stopped:
        return RunState.STOPPED, stopped
    return RunState.DONE, f"{updates} updates" if updates != 1 else "1 update"
