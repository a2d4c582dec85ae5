"""Session: opens a run's sinks, providers, signal handlers and heartbeat, and closes them within one deadline.

``esper ppo``, :func:`esper_core.train`, replay, ``esper sinks check`` and a loop of your own use the same object.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Final

from esper_core import forks
from esper_core.emitter import TelemetryEmitter
from esper_core.events import RunFinished, SinkLoss
from esper_core.health import RunState
from esper_core.health.window import PolicyWindow
from esper_core.hooks import CloseReason, SinkContext
from esper_core.host.deliver.hub import ActiveSink, Hub
from esper_core.host.deliver.report import SessionReport
from esper_core.host.load.options import create_sink
from esper_core.host.load.selection import Selection, select_sinks
from esper_core.host.otel.providers import Providers
from esper_core.host.otel.resource import run_resource, sdk_attributes
from esper_core.host.outcome import Outcome, StartAndEnd
from esper_core.host.played_events import PlayedEvents
from esper_core.host.process.child import announce_run
from esper_core.host.process.ending import closing_ends
from esper_core.host.process.heartbeat import Heartbeat
from esper_core.host.process.logs import log_to
from esper_core.host.process.provenance import start_record
from esper_core.host.process.signals import StopFlag, install_signals
from esper_core.instrumentation.rl import rl_resource
from esper_core.masking import learn_environment, redact
from esper_core.runs.held import HeldRun
from esper_core.runs.resources import JournalResources
from esper_core.runs.state import RunRecord
from esper_core.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType
    from typing import Self

    from esper_core.config.schema import EsperConfig
    from esper_core.events import Payload, PPOUpdatePayload, TelemetryEvent
    from esper_core.hooks import SinkMode
    from esper_core.host.otel.resource import ResourceValue
    from esper_core.instrumentation.sink import Instrumentation
    from esper_core.reading.account import SinkAccount
    from esper_core.runs.layout import RunDir
    from esper_core.runs.ranks import RankRecord

__all__ = ["Session", "SessionReport"]

_REASONS: Final = {RunState.DONE: CloseReason.DONE, RunState.STOPPED: CloseReason.STOPPED}


class Session:
    """Opens and closes sinks, providers, signal handlers, logs and heartbeat of one attempt at a run.

    Creating it imports the sinks and validates their tables; entering it opens them. Both raise before training begins.
    A training loop of your own emits its updates through it. The emitter gives each KL its level by the limits of
    ``[health]``, and tells them with ``emit_run_started``, so that readers judge by the same ones::

        from pathlib import Path

        from esper_core import Session, open_run
        from esper_core.config.layers import load_config
        from esper_core.events import PPOUpdatePayload, RunStarted
        from esper_core.runs import create_run

        config = load_config(keywords={"sinks": ["journal"]}).config
        with Session(config, run=create_run(Path("runs")), environment="mine") as session:
            session.emitter.emit_run_started(RunStarted(environment="mine"))
            for number in range(1, 21):
                session.emitter.emit_ppo_update(PPOUpdatePayload(update_id=number, kl_divergence=my_update()))
                session.progress(updates=number, env_steps=0)
                if session.stop():
                    break
        print(session.report.lost_total, open_run("latest").verdict().label)

    Args:
        config: the whole configuration.
        run: its directory, or None when nothing is written to disk.
        mode: live, replay or check.
        attempt: counts from 1.
        rank: the rank of this process; only rank 0 writes ``run.json``.
        ranks: how many there are.
        processes: of every rank, for the record; empty with one.
        environment: id of the environment, for resource and record.
        heads: head names, kept as an attribute for the caller.
        extra_resource: merged into the resource last; a replay passes the journal's.
        install_signal_handlers: False leaves signals to the application.
        exit_on_second_interrupt: a second Ctrl-C leaves the process at once; False raises KeyboardInterrupt.
        run_id: the run's id when there is no run directory.
        origins: ``Resolved.origins``: where the configuration's values came from.
        selection: sinks chosen before; None selects them here.
        updates: PPO updates of earlier attempts, for the record.
        env_steps: environment steps of earlier attempts, for the record.
        earlier: the last effective updates of earlier attempts, oldest first: the policy's level goes on from theirs.
        on_notice: called with each notice, most of them at the start; the default prints them on stderr.
        held: the run, held open and locked by the caller. None: a live session holds its run within the with block,
            and entering it raises UsageError while another trainer holds it.
        stop: set by handlers that the caller has installed; None: one of the session's own.

    Attributes:
        emitter: emits this attempt's events; valid inside the with block.
        stop: callable; returns True once a signal asked the run to end.
        report: the final counters of every sink; valid after the with block.
        held: the run, held open; None without a directory, and before the with block of a session that holds it itself.
        active: the sinks and their instances, in the order of the configuration.
    """

    emitter: TelemetryEmitter
    active: list[ActiveSink]

    def __init__(
        self,
        config: EsperConfig,
        *,
        run: RunDir | None = None,
        mode: SinkMode = "live",
        attempt: int = 1,
        rank: int = 0,
        ranks: int = 1,
        processes: tuple[RankRecord, ...] = (),
        environment: str = "",
        heads: tuple[str, ...] = (),
        extra_resource: Mapping[str, ResourceValue] | None = None,
        install_signal_handlers: bool = True,
        exit_on_second_interrupt: bool = True,
        run_id: str | None = None,
        origins: Mapping[str, str] | None = None,
        selection: Selection | None = None,
        updates: int = 0,
        env_steps: int = 0,
        earlier: Iterable[PPOUpdatePayload] = (),
        on_notice: Callable[[str], None] | None = None,
        held: HeldRun | None = None,
        stop: StopFlag | None = None,
    ) -> None:
        self.config = config
        self.run = run
        self.mode = mode
        self.attempt = attempt
        self.rank = rank
        self.ranks = ranks
        self._processes = processes
        self.environment = environment
        self.stop = stop if stop is not None else StopFlag()
        self.report = SessionReport()
        self.notices: list[str] = []
        self.heads = heads
        self._run_id = run_id or (run.run_id if run is not None else "unnamed")
        self._origins = dict(origins or {})
        self._signals = install_signal_handlers
        self._exit_on_second = exit_on_second_interrupt
        self._on_notice = on_notice or _print_notice
        self._selection = selection if selection is not None else select_sinks(config, origins=origins)
        learn_environment(os.environ)
        self.active = [
            ActiveSink(
                loaded=loaded,
                instance=create_sink(loaded, config.sink.get(loaded.name), origins=origins),
            )
            for loaded in self._selection.sinks
        ]
        self.resource = run_resource(
            run_id=self._run_id,
            attempt=attempt,
            rank=rank,
            environment=environment,
            env=os.environ,
            extra=extra_resource,
        )
        if mode == "replay":
            self.resource = sdk_attributes() | self.resource
        if "rl" in config.otel.semconv:
            self.resource |= rl_resource(run_id=self._run_id, environment=environment)
        self._totals = (updates, env_steps)
        self._window = PolicyWindow(config.health.limits, earlier)
        self._outcome = Outcome()
        self._begun = 0.0
        self._pid = os.getpid()
        self._forked = forks.Place(f"environment {environment}")
        self._came_back_before = self._forked.came_back
        self._stack = contextlib.ExitStack()
        self.held = held
        self._heartbeat: Heartbeat | None = None
        self._told = StartAndEnd()
        self._instrumentation: Instrumentation | None = None

    # --- opening ------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._hold(stack)
            stack.enter_context(log_to(self.held.folder if self.held is not None else None, rank=self.rank))
            if self._signals:
                stack.enter_context(install_signals(self.stop, exit_on_second=self._exit_on_second))
            self._begun = time.monotonic()
            self.hub = Hub(
                self.active,
                SinkContext(
                    run_id=self._run_id,
                    run_dir=self.run.path if self.run is not None else None,
                    attempt=self.attempt,
                    rank=self.rank,
                    mode=self.mode,
                    episodes=self.config.otel.episodes,
                    events=self.config.otel.events,
                    resource=self.resource,
                ),
                self.config.delivery,
                on_interrupt=self._interrupted,
            )
            self.providers = Providers.set_up(
                self.active,
                self.hub,
                self.config.otel,
                self.resource,
                close_timeout_s=self.config.run.close_timeout_s,
                patient=self.mode == "replay",
            )
            self._played = PlayedEvents(
                self.hub,
                self.providers,
                resource=self.resource,
                journaled=JournalResources(self.run, self.resource)
                if self.run is not None and self.mode == "replay"
                else None,
                with_events=self.config.otel.events != "log",
            )
            self._observe()
            self.emitter = TelemetryEmitter(
                self.hub.hooks,
                run_id=self._run_id,
                attempt=self.attempt,
                rank=self.rank,
                tracer=self.providers.tracer,
                links=self.providers.links,
                drain_status=self.hub.drain_status,
                marked=self.mode == "check",
                episode_spans=self.config.otel.episodes,
                heard=self.hub.heard,
                window=self._window,
                complete=self._instrumentation.complete if self._instrumentation is not None else None,
                ends_later=self.mode == "live" and self.providers.active,
                behind=self.mode == "live" and not self.hub.one_thread,
            )
            stack.callback(forks.in_child(self._in_child))
            opened = self.hub.open(strict=self.mode != "check")
            if self.mode == "check":
                opened = []  # each sink's own line reports it
            unlocked = self.held.unlocked if self.held is not None else ""
            for notice in (*self._selection.notices, *self.providers.notices, *opened, *filter(None, (unlocked,))):
                self.notice(notice)
            self._start_heartbeat()
            if self.run is not None and self.mode == "live":
                announce_run(self.run)
            self._stack = stack.pop_all()
        return self

    def _hold(self, stack: contextlib.ExitStack) -> None:
        """Hold the directory of a live run from here to the end of the with block, unless the caller holds it."""
        if self.run is None or self.mode != "live":
            return
        if self.held is None:
            self.held = stack.enter_context(HeldRun(self.run, lock=self.rank == 0))
        self.held.begin()
        self.held.on_notice = self.notice
        self.run = self.held.run

    def _observe(self) -> None:
        """Register the core's own observers, which receive each event before the sinks do."""
        if self.mode == "replay":
            return
        self.hub.add_first("session", self._told)
        if self.providers.active:
            from esper_core.instrumentation.sink import Instrumentation  # noqa: PLC0415  # only when something listens

            self._instrumentation = Instrumentation(
                self.providers.meter_provider,
                sdk_logger_provider=self.providers.logger_provider,
                tracer_provider=self.providers.tracer_provider,
                config=self.config.otel,
                window=self._window,
                sink_status=self.statuses,
                run_id=self._run_id,
                attempt=self.attempt,
                rank=self.rank,
            )
            self.hub.add_first("instrumentation", self._instrumentation)

    def _start_heartbeat(self) -> None:
        writes = self.held is not None and self.rank == 0
        if self.mode != "live" or not (writes or self._instrumentation):
            return
        record = RunRecord(
            run_id=self._run_id,
            name=self.config.run.name,
            environment=self.environment,
            attempt=self.attempt,
            ranks=self.ranks,
            processes=self._processes,
            updates=self._totals[0],
            env_steps=self._totals[1],
            start=start_record(self._origins),
        )
        instrumentation = self._instrumentation
        self._heartbeat = Heartbeat(
            self.held.folder if self.held is not None and writes else None,
            record,
            self.statuses,
            tell=instrumentation.set_run_status if instrumentation is not None else None,
            system=self.config.run.system_metrics,
        )
        self._heartbeat.start()

    def notice(self, line: str) -> None:
        """Tell the user, and ``trainer.log``."""
        line = redact(line)
        self.notices.append(line)
        logging.getLogger("esper.host").info("%s", line)
        self._on_notice(line)

    def _in_child(self) -> None:
        """In a forked child: this session is over. Nothing is emitted or written, and a loop that asks stops."""
        self.stop.request()
        self.emitter.mute()
        self.hub.in_child()
        self.providers.in_child()
        if self._heartbeat is not None:
            self._heartbeat.in_child()

    def _interrupted(self) -> None:
        """Handle a KeyboardInterrupt caught in a sink's code: it may be the user's Ctrl-C, which ends the run."""
        self.stop.request(signal.SIGINT)

    # --- while it runs ------------------------------------------------------------------------

    def progress(self, *, updates: int, env_steps: int) -> None:
        """Record progress (totals over all attempts). The heartbeat thread writes it into ``run.json``."""
        if self.held is not None and updates != self._totals[0]:
            self.held.check()
        self._totals = (updates, env_steps)
        if self._heartbeat is not None:
            self._heartbeat.progress(updates=updates, env_steps=env_steps)

    def statuses(self) -> tuple[SinkAccount, ...]:
        """Return the current counters of every sink, processor and metric reader."""
        own = {"session", "instrumentation"}
        sinks = (item for item in self.hub.statuses() if item.name not in own or item.failures)
        return (*sinks, *self.providers.statuses())

    def losses(self) -> tuple[SinkLoss, ...]:
        """Events lost so far, by sink, for ``RunFinished.lost``."""
        return tuple(SinkLoss(sink=item.name, lost=item.lost) for item in self.statuses() if item.lost)

    def deliver(self, event: TelemetryEvent[Payload]) -> None:
        """Replay a recorded event: call its hook, and pass rebuilt spans and log events to the sinks' processors."""
        self._played.deliver(event)

    def finish(self, state: RunState, reason: str, message: str = "") -> None:
        """Set how the run ended, before leaving the with block. Without this call an ordinary exit means DONE.

        Args:
            state: done, stopped or failed.
            reason: what ended it, as text.
            message: a longer text for ``run.json``; the reason when empty.
        """
        self._outcome.set(state, reason, message)

    # --- closing ------------------------------------------------------------------------------

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if os.getpid() != self._pid:
            return  # a forked child left by an exception: the run belongs to the parent process
        with self._stack:
            if error is not None:
                failed = self._outcome.judge(error, self.stop)
                if failed and self.held is not None:
                    self._on_notice(f"the run failed; what it left is in {self.held.run.path}")
            elif self._outcome.state is None:
                stopped = self.stop.requested
                self.finish(RunState.STOPPED if stopped else RunState.DONE, self.stop.name if stopped else "")
            self._close()

    def _close(self) -> None:
        state = self._outcome.state or RunState.DONE
        begun = time.monotonic()
        closing_ends(begun + self.config.run.close_timeout_s)
        try:
            if self._instrumentation is not None:
                # Set the final state before the readers collect for the last time: else the run seems to have vanished.
                self._instrumentation.set_run_status(heartbeat_s=time.time(), state=state)
            if self.mode == "live":
                self._emit_end(state)
                self.emitter.close(self.config.run.close_timeout_s)
            if self.mode == "replay":
                self._played.drain(self.stop)
            self.hub.close(
                _REASONS.get(state, CloseReason.FAILED), self.config.run.close_timeout_s, self.providers.closables
            )
        finally:
            # Also when Ctrl-C ended the closing: the report names the late sinks, the record states how the run ended.
            self.report = SessionReport(sinks=self.statuses(), close_s=time.monotonic() - begun)
            if self._heartbeat is not None:
                self._heartbeat.finish(state, self._outcome.message or self._outcome.reason)
            if self._instrumentation is not None:
                self._instrumentation.close(self.report.sinks)
            for line in self.report.lines():
                logging.getLogger("esper.host").warning("%s", line)
            if came_back := self._forked.came_back - self._came_back_before:
                self.notice(f"{self._forked.who}: {forks.CAME_BACK} ({came_back} of them)")

    def _emit_end(self, state: RunState) -> None:
        """Emit RunFinished before anything is closed, when the caller did not emit it."""
        if self._told.started and not self._told.finished:
            self.emitter.emit_run_finished(
                RunFinished(
                    state=state,
                    reason=self._outcome.reason,
                    updates=self._totals[0],
                    env_steps=self._totals[1],
                    duration_s=time.monotonic() - self._begun,
                    lost=self.losses(),
                )
            )
        else:
            self.emitter.emit_pending_status()


def _print_notice(line: str) -> None:
    with contextlib.suppress(Exception):  # a stderr of someone else's, or none: training goes on without the line
        print(f"esper: {one_line(line)}", file=sys.stderr)
