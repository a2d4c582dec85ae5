"""Trainer: rollouts and updates until a limit, a signal or NaN ends the run."""

from __future__ import annotations

import logging
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from esper_core.config.digest import config_digest
from esper_core.config.schema import EsperConfig
from esper_core.errors import EsperError
from esper_core.events import EpisodeFinished, RunStarted
from esper_core.health import RunState
from esper_core.installed import CORE, versions_of
from esper_core.kl import stop_threshold
from esper_core.ppo.agreement import Agreement, Alone
from esper_core.ppo.boundary import Boundary, go_back
from esper_core.ppo.checkpoint import checkpoint_content
from esper_core.ppo.checkpoint_file import write_checkpoint
from esper_core.ppo.checkpoint_fit import check_environment, restore
from esper_core.ppo.collector import Collection, Collector
from esper_core.ppo.episodes import EpisodeTracker
from esper_core.ppo.rollout import Rollout
from esper_core.ppo.schedules import refuse_impossible
from esper_core.ppo.train_result import TrainResult

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from esper_core.emitter import TelemetryEmitter
    from esper_core.ppo.agent import PPOAgent
    from esper_core.ppo.checkpoint import Checkpoint
    from esper_core.ppo.checkpointer import Checkpointer
    from esper_core.ppo.evaluator import Evaluator, Recorder
    from esper_core.ppo.task import StepResult, Task

__all__ = ["Trainer"]

_log = logging.getLogger("esper.ppo")


def _never() -> bool:
    return False


def _ignore(**_: int) -> None:
    return None


class Trainer:
    """Runs an agent on a task within a run's limits, and tells the emitter.

    It emits ``run_started``, every finished episode and (through the agent) every update; whoever owns the session
    emits ``run_finished``. Everything runs in the calling thread.

    Args:
        agent: learns.
        task: is learned.
        config: limits, seed and ``keep_going`` are read from ``[run]``.
        emitter: the default is the agent's own.
        should_stop: read before each environment step and each minibatch; True ends the run in an orderly way. A
            ``signal`` attribute, when it has one, is passed on in the result.
        on_progress: called with ``updates=`` and ``env_steps=`` after every step of all environments.
        checkpointer: where checkpoints go; None writes none.
        recorder: records a video when it is due; None never.
        evaluator: plays every ``run.eval_every`` updates; None never. The best policy is kept in ``best.pt``, beside
            the checkpoint.
        resume: continue from here: weights, optimizer, generators, counts. Episodes begin anew, unless the task's
            environments can be brought back (``env.seed_episodes``): then nothing differs from a run in one go.
        resumed_from: the attempt that wrote it, for the record.
        run_name: for the record.
        agreement: of the ranks, which decide as one; None is one rank. Counts and limits are of all ranks then.
    """

    def __init__(
        self,
        agent: PPOAgent,
        task: Task,
        config: EsperConfig | None = None,
        *,
        emitter: TelemetryEmitter | None = None,
        should_stop: Callable[[], bool] = _never,
        on_progress: Callable[..., None] = _ignore,
        checkpointer: Checkpointer | None = None,
        evaluator: Evaluator | None = None,
        recorder: Recorder | None = None,
        resume: Checkpoint | None = None,
        resumed_from: int | None = None,
        run_name: str = "",
        agreement: Agreement | None = None,
    ) -> None:
        self.agent = agent
        self.task = task
        self.config = config if config is not None else EsperConfig()
        refuse_impossible(agent.config)
        if emitter is not None:
            agent.emitter = emitter
        self.emitter = agent.emitter
        self._should_stop = should_stop
        self._on_progress = on_progress
        self._checkpointer = checkpointer
        self._evaluator = evaluator
        self._recorder = recorder
        if evaluator is not None and resume is not None and checkpointer is not None:
            evaluator.best = checkpointer.best_so_far()
        self._resumed_from = resumed_from
        self._run_name = run_name
        self._agreement: Agreement = agreement if agreement is not None else Alone()
        self._digest = config_digest(self.config)
        self._parts: list[dict[str, Any]] = []
        """What each of several ranks goes on from, told anew for each checkpoint."""
        self._env_steps = 0
        self._early_stops = self._joint_stops = 0
        self._good_update = agent.updates
        if resume is not None:
            check_environment(resume, task)
            restore(agent, resume)
            self._env_steps = resume.env_steps
            self._good_update = resume.update_id
        self._episodes = EpisodeTracker(
            task.n_envs,
            episodes=resume.episodes if resume is not None else 0,
            recent=resume.recent_returns if resume is not None else (),
        )
        self._boundary = Boundary(task, self._content, self._episodes)
        if resume is not None:
            anew = go_back(task, self._episodes, resume.places, resume.running)
            for line in anew:
                _log.warning("%s", line)
            if agent.reward_normaliser is not None and (anew or not (resume.places and self._boundary.exact)):
                agent.reward_normaliser.begin()
        self._collector = Collector(agent, task, keep_going=self.config.run.keep_going)

    def run(self) -> TrainResult:
        """Train until a limit is reached (the update that reaches it is the last), or something stops it."""
        if self.config.ppo.threads:
            torch.set_num_threads(self.config.ppo.threads)
        self.emitter.emit_run_started(self._run_started())
        self._boundary.reached()
        result = None
        while result is None:
            result = self._limit_reached() or self._iterate()
        if not self._clean(result):
            return result
        self._parts = self._agreement.last_parts(self._boundary.content())
        if self._checkpointer is not None:
            try:
                self._checkpointer.write(self._save, final=True, more=bool(self._parts and self._good_update))
            except EsperError as error:
                # The training is done and is told as it was; what failed is keeping it.
                result = replace(result, unsaved=error.message)
        return result

    def _clean(self, result: TrainResult) -> bool:
        """Whether the weights are still those of the last good update: a skipped one has not touched them."""
        touched = result.state is RunState.FAILED and result.last is not None and result.last.outcome != "skipped"
        return not touched and self.agent.finite

    def _iterate(self) -> TrainResult | None:
        """One rollout and one update; a result when the run ends here."""
        self.agent.anneal(self._fraction_done())
        self.emitter.begin_rollout(self.agent.updates + 1)
        before = self._env_steps
        collected, steps, episodes = self._agreement.on_rollout(self._collect(), self._episodes, self._should_stop)
        self._env_steps = before + steps
        self._collector.agree()
        if collected.interrupted:
            return self._stopped()
        batch = collected.batch if collected.pack is None else collected.pack()
        if batch is None:
            if self.agent.reward_normaliser is not None:
                self.agent.reward_normaliser.begin()  # rewards of the rollout that was lost are missing between
            reason = collected.fault.reason if collected.fault is not None else "the rollout was cut short"
            count = collected.fault.count if collected.fault is not None else 0
            self.agent.skip_update(reason, env_steps=self._env_steps, episodes=episodes, non_finite=count)
        else:
            rollout = Rollout(batch, env_steps=self._env_steps, episodes=episodes, raw=collected.raw)
            self.agent.update(rollout, should_stop=self._should_stop)
        return self._after_update()

    def _collect(self) -> Collection:
        """This rank's rollout; an interrupted one when the environment failed because the run was to stop."""
        before = self._env_steps
        try:
            return self._collector.collect(self._on_step, self._should_stop)
        except (Exception, KeyboardInterrupt) as error:
            if isinstance(error, KeyboardInterrupt) and getattr(self._should_stop, "insisted", False):
                raise  # a second Ctrl-C: the user's own program is to get it
            if self._should_stop():
                # The signal (Ctrl-C, a service manager's, a batch system's) goes to the environment's worker processes
                # too, and ends them: the environment failed because the run was to stop.
                _log.warning("the environment failed after the run was asked to stop", exc_info=error)
            elif not (isinstance(error, KeyboardInterrupt) and self._asked_by_interrupt()):
                self._agreement.on_failure(error)
                raise
            return Collection(None, (self._env_steps - before) // self._agreement.ranks, interrupted=True)

    def _asked_by_interrupt(self) -> bool:
        """Ask the run to end, as Ctrl-C does, after a KeyboardInterrupt; False when nothing can be asked."""
        request = getattr(self._should_stop, "request", None)
        if request is None:
            return False
        request(signal.SIGINT)
        return True

    def _after_update(self) -> TrainResult | None:
        payload = self.agent.last
        assert payload is not None  # every update leaves its payload  # noqa: S101
        self._on_progress(updates=self.agent.updates, env_steps=self._env_steps)
        self._early_stops += payload.early_stop is not None
        self._joint_stops += bool(payload.joint_would_stop)
        if payload.non_finite and not self.config.run.keep_going:
            what = payload.reason or f"{payload.non_finite} non-finite values"
            return self._result(RunState.FAILED, f"NaN or Inf in update {payload.update_id}: {what}")
        if not payload.non_finite:
            self._good_update = payload.update_id
        left = not payload.non_finite and not self._evaluate()
        if not payload.non_finite and not left:
            self._record()
        stopped_before_its_first_step = payload.outcome == "skipped" and not payload.non_finite
        if payload.outcome != "interrupted" and not stopped_before_its_first_step and not left:
            self._boundary.reached()
        due = not payload.non_finite and self._checkpointer is not None and self._checkpointer.completed()
        asked, due = self._agreement.on_update(self._should_stop, self.agent, due=due)
        if left or asked:
            return self._stopped()
        if due:
            self._keep()
        return None

    def _keep(self) -> None:
        """Write a checkpoint, of rank 0 with what every other rank goes on from: each tells it at the same moment."""
        self._parts = self._agreement.parts(self._boundary.content())
        if self._checkpointer is not None:
            self._checkpointer.write(self._save)

    def _evaluate(self) -> bool:
        """Evaluate the policy when it is time, and keep it when it is the best; False when the run is to stop."""
        evaluator, agent = self._evaluator, self.agent
        if evaluator is None or not evaluator.due(agent.updates) or self._should_stop() or not agent.finite:
            return True  # whoever asked to stop is heard below
        found = evaluator.play(
            agent,
            env_steps=self._env_steps,
            should_stop=self._should_stop,
            on_step=lambda: self._on_progress(updates=agent.updates, env_steps=self._env_steps),
        )
        if found is None:
            return not self._should_stop()
        self.emitter.emit(found)
        if found.better and self._checkpointer is not None:
            self._checkpointer.keep_best(self._content() | {"evaluated": found.return_mean})
        return True

    def _record(self) -> None:
        """Record a video when it is time."""
        recorder, agent = self._recorder, self.agent
        if recorder is not None and recorder.due(agent.updates) and agent.finite and not self._should_stop():
            recorder.record(
                agent,
                should_stop=self._should_stop,
                on_step=lambda: self._on_progress(updates=agent.updates, env_steps=self._env_steps),
            )

    def _on_step(self, result: StepResult) -> None:
        self._env_steps += result.played * self._agreement.ranks  # of other ranks as many, until they tell
        ended = self._episodes.step(
            result.reward,
            result.terminated,
            result.truncated,
            env_steps=self._env_steps,
            told=self.emitter.hears(EpisodeFinished.kind),
            resets=result.resets,
        )
        if ended:
            self.emitter.emit_episodes(ended)
        self._on_progress(updates=self.agent.updates, env_steps=self._env_steps)

    # --- limits -------------------------------------------------------------------------------

    def _limits(self) -> list[tuple[str, int, int]]:
        """Name, count so far and limit of every limit that is set."""
        run = self.config.run
        counts = (
            ("updates", self.agent.updates, run.updates),
            ("environment steps", self._env_steps, run.steps),
            ("episodes", self._episodes.episodes, run.episodes),
        )
        return [limit for limit in counts if limit[2]]

    def _limit_reached(self) -> TrainResult | None:
        for name, count, limit in self._limits():
            if count >= limit:
                return self._result(RunState.DONE, f"{count} of {limit} {name}")
        return None

    def _fraction_done(self) -> float:
        return max((count / limit for _, count, limit in self._limits()), default=0.0)

    # --- results ------------------------------------------------------------------------------

    def _stopped(self) -> TrainResult:
        number = getattr(self._should_stop, "signal", None)
        return self._result(RunState.STOPPED, "asked to stop", exit_signal=number)

    def _result(self, state: RunState, reason: str, *, exit_signal: int | None = None) -> TrainResult:
        return TrainResult(
            state=state,
            reason=reason,
            updates=self.agent.updates,
            env_steps=self._env_steps,
            episodes=self._episodes.episodes,
            early_stops=self._early_stops,
            joint_stops=self._joint_stops if self.agent.config.target_kl else None,
            return_mean_100=self._episodes.mean_100,
            last=self.agent.last,
            evaluations_failed=self._evaluator.failures if self._evaluator is not None else 0,
            exit_signal=exit_signal,
        )

    def _save(self, path: Path) -> None:
        folder = self._checkpointer.folder if self._checkpointer is not None else None
        parts = {"ranks": self._parts} if self._parts else {}
        write_checkpoint(path, self._boundary.content() | parts, folder=folder)

    def _content(self) -> dict[str, Any]:
        return checkpoint_content(
            self.agent,
            update_id=self._good_update,
            env_steps=self._env_steps,
            episodes=self._episodes.episodes,
            recent_returns=tuple(self._episodes.recent),
            config_digest=self._digest,
            environment=self.task.name,
            spaces=self.task.spaces,
            wrappers=self.config.env.wrappers,
        )

    def _run_started(self) -> RunStarted:
        run, ppo = self.config.run, self.agent.config
        return RunStarted(
            environment=self.task.name,
            run_name=self._run_name or run.name or self.emitter.run_id,
            heads=self.agent.layout.names,
            seed=self.agent.seed,
            n_envs=self.task.n_envs * self._agreement.ranks,
            ranks=self._agreement.ranks,
            updates_planned=run.updates or None,
            steps_planned=run.steps or None,
            episodes_planned=run.episodes or None,
            first_update_id=self.agent.updates + 1,
            resumed_from=self._resumed_from,
            target_kl=ppo.target_kl or None,
            stop_threshold=stop_threshold(ppo.target_kl),
            stop_on=ppo.stop_on,
            versions=versions_of(("torch", "gymnasium", "numpy", CORE)),
            config_digest=self._digest,
        )
