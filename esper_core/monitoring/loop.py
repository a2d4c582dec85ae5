"""Monitor: what a training loop of one's own tells, and what it may ask."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from esper_core.emitter import TelemetryEmitter
from esper_core.errors import EsperError
from esper_core.events import EpisodeFinished, PPOUpdatePayload
from esper_core.monitoring.counts import Counts
from esper_core.monitoring.current_update import CurrentUpdate
from esper_core.monitoring.given import GIVEN_FIELDS, SHOWN_FIELDS, read_divergences, read_number, read_numbers
from esper_core.monitoring.inputs import Columns, scalar, whole
from esper_core.monitoring.measurement import (
    KL,
    PolicyMove,
    final_pass,
    kl_of,
    read_move,
    read_rollout,
    rollout_fields,
    see,
)
from esper_core.monitoring.misuse import MisuseError, never_harms, quiet_numbers
from esper_core.monitoring.ranks import Ranks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from esper_core.events import Divergence
    from esper_core.monitoring.closing import Closing
    from esper_core.updates import FinalPass, UpdateSettings

__all__ = ["Monitor"]

_log = logging.getLogger("esper.monitor")


class Monitor:
    """One run of a training loop that is not Esper's. :func:`esper_core.monitor` opens it; close it, or use ``with``.

    All calls belong to the thread that opened it. Under several ranks every rank calls :meth:`too_far`, :meth:`kl` and
    :meth:`ppo_update`, with the same arguments of its own samples, empty ones included: each of these calls is a
    collective. Rank 0 emits; all ranks get the same answers.

    A call with wrong arguments raises :class:`MisuseError` (with ``strict=False`` it is one notice); nothing else that
    goes wrong here reaches the loop.

    Attributes:
        heads: names, in the order of the columns.
        library: that runs the loop; empty for one's own.
        run_id: the run.
        path: its directory; None on ranks that do not emit, and in child processes.
        strict: whether misuse raises.
        counts: what was reported so far.
    """

    def __init__(
        self,
        settings: UpdateSettings,
        *,
        emitter: TelemetryEmitter | None = None,
        ranks: Ranks | None = None,
        closing: Closing | None = None,
        path: Path | None = None,
        strict: bool = True,
        inert: bool = False,
        minibatches: int | None = None,
        say: Callable[[str], None] = _log.warning,
    ) -> None:
        self.heads = settings.heads
        self.library = settings.library
        self.strict = strict
        self.path = path
        self.counts = Counts()
        self._settings = settings
        self._emitter = emitter if emitter is not None else TelemetryEmitter()
        self.run_id = self._emitter.run_id
        self._ranks = ranks if ranks is not None else Ranks()
        self._closing = closing
        self._columns = Columns(settings.heads, tokens=settings.granularity == "token")
        self._inert = inert
        self._open = True
        self._pid, self._thread = os.getpid(), threading.get_ident()
        self._update = CurrentUpdate(self._emitter, settings, self.counts, minibatches=minibatches)
        self._said: set[str] = set()
        self._say = say

    # --- what the loop tells ------------------------------------------------------------------

    @never_harms(None)
    def begin_rollout(self) -> None:
        """Collecting begins: opens the iteration's span, and ``rollout_s`` is measured. Optional."""
        self._update.begin_rollout()

    @never_harms(None)
    def begin_update(self, *, epochs: int | None = None, minibatches: int | None = None) -> None:
        """Learning begins: opens the update's span, and ``update_s`` is measured. Optional.

        Args:
            epochs: passes over the rollout planned.
            minibatches: optimizer steps planned in each; the pooled stop's window follows from the two.
        """
        self._update.begin(
            epochs=1 if epochs is None else whole("epochs", epochs, least=1),
            minibatches=None if minibatches is None else whole("minibatches", minibatches, least=1),
        )

    @never_harms(None)
    def begin_epoch(self) -> None:
        """Another pass over the rollout begins: ``kl_by_epoch`` is kept apart by it. Optional."""
        self._update.running().begin_epoch()

    @never_harms(default=False)
    def too_far(
        self,
        log_ratio: Any = None,
        *,
        old: Any = None,
        new: Any = None,
        kl: Any = None,
        mask: Any = None,
        causal: Any = None,
        choices: Any = None,
        **shown: Any,
    ) -> bool:
        """Whether the policy has moved so far that the coming optimizer step must not be taken. Optional.

        Call it once a minibatch, before ``optimizer.step()``; on True leave the update, on False take the step. Either
        way the minibatch counts in ``kl_mean``, ``kl_max`` and ``clip_fraction``. Without a ``target_kl`` it is False
        always. Under ``stop_rule="epoch"`` it never stops; :meth:`end_epoch` does.

        Args:
            log_ratio: log new - log old of the actions taken, nats; see :meth:`ppo_update` for this and the others.
            old: log-probabilities or distributions before the update.
            new: likewise under the policy as it is.
            kl: exact KL of each decision, in place of the three.
            mask: the decisions that count.
            causal: the decisions that had an effect.
            choices: legal options of each.
            **shown: ``policy_loss``, ``value_loss`` and ``grad_norm`` of this minibatch.
        """
        with self._ranks.together():
            move = read_move(
                self._columns, log_ratio, old=old, new=new, kl=kl, mask=mask, causal=causal, choices=choices
            )
            fields_ = read_numbers(shown, SHOWN_FIELDS, "too_far")
        recorder = self._update.minibatch()
        recorder.saw(see(move, self._ranks, clip_range=self._settings.clip_range, shown=fields_))
        if recorder.stop_before_step():
            return True
        recorder.stepped()
        return False

    @never_harms(default=False)
    def end_epoch(self) -> bool:
        """A pass over the rollout is done. True when the stop rule ``epoch`` forbids another."""
        recorder = self._update.running()
        stop = recorder.stop_after_epoch()
        recorder.begin_epoch()
        return stop

    @never_harms(None)
    def stopped_early(self, value: float | None = None, *, epoch: int | None = None, reason: str = "") -> None:
        """The loop, or its library, ended the update early by a rule of its own.

        Args:
            value: the KL it compared, nats; None when it does not tell.
            epoch: in which one, counted from 1.
            reason: in words.
        """
        self._update.running().stop(
            scalar("value", value), epoch=None if epoch is None else whole("epoch", epoch), reason=str(reason)
        )

    @never_harms(None)
    def ppo_update(
        self,
        log_ratio: Any = None,
        *,
        old: Any = None,
        new: Any = None,
        kl: Any = None,
        mask: Any = None,
        causal: Any = None,
        choices: Any = None,
        entropy: Any = None,
        advantages: Any = None,
        returns: Any = None,
        values: Any = None,
        env_steps: int | None = None,
        rollout_steps: int | None = None,
        divergences: Iterable[Divergence] | None = (),
        **given: Any,
    ) -> PPOUpdatePayload | None:
        """Report an update: after its last optimizer step, over the whole rollout, under the policy as it then is.

        Args:
            log_ratio: log new - log old of the actions taken, nats: (N,), or (N, heads), or a dict head -> (N,); with
                granularity ``token`` (sequences, tokens). Tensors of any device and dtype, arrays, lists.
            old: log-probabilities before the update, or torch distributions (then the KL is exact).
            new: likewise after it, in the same shape.
            kl: exact KL of each decision, in place of the three.
            mask: bool, likewise, or (N,): the decisions that count: those with an effect and a choice; padding does
                not. Default all.
            causal: bool: the decisions that had an effect, in place of ``mask``.
            choices: legal options of each decision; one with a single option does not count, and entropies are
                normalised by them.
            entropy: of each decision under the new policy, nats, or one number: the mean a step.
            advantages: (N,), before normalisation.
            returns: (N,).
            values: (N,), the old value estimates.
            env_steps: environment steps taken in the run so far.
            rollout_steps: of this rollout, for ``steps_per_s``; the number of rows when not given.
            divergences: of anything else than the behaviour policy, such as a reference model.
            **given: the payload's other fields that the loop knows: :data:`GIVEN_FIELDS`.

        Returns:
            The payload as it was emitted; None when it could not be.

        Raises:
            MisuseError: of the arguments, before anything was emitted.
        """
        mean = isinstance(entropy, (int, float)) or getattr(entropy, "ndim", None) == 0
        if mean:
            given["entropy"] = entropy
        with self._ranks.together():
            numbers = read_numbers(given, GIVEN_FIELDS, "ppo_update")
            others = read_divergences(divergences)
            steps = None if rollout_steps is None else whole("rollout_steps", rollout_steps)
            reached = None if env_steps is None else whole("env_steps", env_steps)
            move = read_move(
                self._columns,
                log_ratio,
                old=old,
                new=new,
                kl=kl,
                mask=mask,
                causal=causal,
                choices=choices,
                entropy=None if mean else entropy,
            )
            columns = read_rollout(move, advantages=advantages, returns=returns, values=values)
        shown = rollout_fields(move, self._ranks, columns)
        if not self._update.open:
            numbers.setdefault("update_s", None)  # it began just now: no time of it is known
        recorder = self._update.running()
        recorder.settings = self._settings_of(move)
        recorder.measured(shown | numbers)
        recorder.diverged(*others)
        self._progress(reached)
        final = final_pass(move, self._ranks)
        return self._finish(final, rollout_steps=len(move.values) if steps is None else steps)

    @never_harms(None)
    def skipped(self, reason: str, *, env_steps: int | None = None, **given: Any) -> PPOUpdatePayload | None:
        """Report an update that could not take place.

        Args:
            reason: why, in words.
            env_steps: environment steps taken in the run so far.
            **given: as for :meth:`ppo_update`.
        """
        numbers = read_numbers(given, GIVEN_FIELDS, "skipped")
        reached = None if env_steps is None else whole("env_steps", env_steps)
        recorder = self._update.running()
        recorder.measured(numbers)
        recorder.skip(str(reason))
        self._progress(reached)
        return self._finish(None, rollout_steps=0)

    @never_harms(None)
    def episode(self, episode_return: Any, length: Any = 0, *, env_index: int = 0, truncated: bool = False) -> None:
        """Report a finished episode.

        Args:
            episode_return: undiscounted sum of its rewards.
            length: environment steps.
            env_index: which of the parallel environments.
            truncated: a time limit ended it.
        """
        value, steps = float(read_number("episode_return", episode_return)), whole("length", length)
        index, cut = whole("env_index", env_index), bool(truncated)
        self.counts.episodes += 1
        self.counts.recent.append(value)
        self._update.ended(value, steps)
        if not self._emitter.hears(EpisodeFinished.kind):
            return
        ended = EpisodeFinished(
            episode=self.counts.episodes,
            episode_return=value,
            length=steps,
            env_index=index,
            truncated=cut,
            env_steps=self.counts.env_steps,
        )
        self._emitter.emit_episodes((ended,))

    @never_harms(None)
    def progress(self, env_steps: int) -> None:
        """Tell how many environment steps the run has taken, between updates. Writes no file."""
        self._progress(env_steps)

    # --- what the loop may ask ----------------------------------------------------------------

    def kl(
        self,
        log_ratio: Any = None,
        *,
        old: Any = None,
        new: Any = None,
        kl: Any = None,
        mask: Any = None,
        causal: Any = None,
        choices: Any = None,
    ) -> KL:
        """The KL alone; emits nothing, and works on a closed monitor too. Arguments as for :meth:`ppo_update`."""
        with quiet_numbers():
            with self._ranks.together():
                move = read_move(
                    self._columns, log_ratio, old=old, new=new, kl=kl, mask=mask, causal=causal, choices=choices
                )
            return kl_of(move, self._ranks)

    @property
    def stopping(self) -> bool:
        """Whether a signal asked for an orderly end: ``if run.stopping: break``. Only with ``signals=True``."""
        return self._closing is not None and self._closing.stopping

    @property
    def belongs_here(self) -> bool:
        """Whether this process opened it, and is no forked copy of the one that did."""
        return os.getpid() == self._pid

    @property
    def closed(self) -> bool:
        """Whether the run has ended."""
        return not self._open

    # --- its end ------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(error)

    def close(self) -> None:
        """End the run as done, or as stopped when a signal asked for it. Again: does nothing."""
        self.end(None)

    def end(self, error: BaseException | None) -> None:
        """End the run: with an exception as failed, with KeyboardInterrupt as stopped.

        In a forked child it does nothing: the run belongs to the parent process.
        """
        if not self._open or not self.belongs_here:
            return
        self._open = False
        if self._closing is None:
            return
        try:
            self._closing.end(self._emitter, self.counts, error)
        except Exception as fault:  # noqa: BLE001  # the loop has ended well; its telemetry's end must not change that
            self._failed("close", fault)

    def together(self) -> contextlib.AbstractContextManager[None]:
        """Keep the ranks together: after the block all of them go on, or, when it fails on one, each raises.

        For an adapter's own work before a call of which the other ranks wait for this one's part. A collective itself.
        """
        return self._ranks.together()

    @contextlib.contextmanager
    def harmless(self, what: str) -> Iterator[None]:
        """Keep an adapter's own faults out of the loop: an exception in the block is told once, counted and dropped.

        Args:
            what: names the block, for the notice.
        """
        try:
            yield
        except Exception as error:  # noqa: BLE001  # an adapter's fault must not end a training
            self._failed(what, error)

    # --- inside -------------------------------------------------------------------------------

    def _ready(self, call: str) -> bool:
        if self._inert or not self.belongs_here:
            return False
        if not self._open:
            raise MisuseError(f"{call}(): this monitor is closed", hint="open another with esper_core.monitor(...)")
        if threading.get_ident() != self._thread:
            raise MisuseError(
                f"{call}() was called in thread {threading.current_thread().name}; "
                "a monitor belongs to the thread that opened it",
                hint="call it in the training thread, or hand the values over to it",
            )
        return True

    def _failed(self, call: str, error: Exception) -> None:
        self.counts.failures += 1
        what = error.message if isinstance(error, EsperError) else f"{type(error).__name__}: {error}"
        _log.warning("%s failed", call, exc_info=error)
        if call not in self._said:
            self._said.add(call)
            self._say(f"{call} failed, training goes on without it: {what}")

    def _settings_of(self, move: PolicyMove) -> UpdateSettings:
        """The settings, with what this input tells: the estimator, and the heads' kinds."""
        settings = replace(self._settings, kl_estimator="exact" if move.exact else self._settings.kl_estimator)
        return settings if move.kinds is None or settings.head_kinds else replace(settings, head_kinds=move.kinds)

    def _progress(self, env_steps: int | None) -> None:
        if env_steps is not None:
            self.counts.env_steps = whole("env_steps", env_steps)
        if self._closing is not None:
            self._closing.progress(updates=self.counts.updates, env_steps=self.counts.env_steps)

    def _finish(self, final: FinalPass | None, *, rollout_steps: int) -> PPOUpdatePayload:
        payload = self._update.finish(final, rollout_steps=rollout_steps)
        self._progress(None)
        return payload
