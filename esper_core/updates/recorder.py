"""UpdateRecorder: from sums to a ``PPOUpdatePayload``. The one door for our agent and for any other loop.

A loop says what happened (an epoch began, a minibatch was seen, its step was taken) and hands over sums; everything
that follows from them is worked out here, once: means, the stop, the plan, the level, the times. The payload is built
whole and emitted whole. Plain Python: whoever has tensors brings numbers.

A new metric is one field in ``esper_core.events`` and one line where it is measured: a caller names the payload's
field, and a name that is no field of it is a ``TypeError``.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from esper_core.events import Divergence, EarlyStop, KLMeasured, Outcome, PPOUpdatePayload
from esper_core.health import update_level
from esper_core.kl import KLStats, StopMonitor
from esper_core.updates._final import fields_of_final, head_stats
from esper_core.updates.records import EpisodeSummary, FinalPass, Mean, Measured, MinibatchSeen, UpdateSettings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from esper_core.emitter import TelemetryEmitter, UpdateTimes

__all__ = ["LOOP_FIELDS", "UpdateRecorder"]

LOOP_FIELDS: Final = frozenset(
    {
        "clip_range",
        "epochs",
        "epochs_planned",
        "grad_norm_max",
        "kl_first_minibatch",
        "kl_last",
        "kl_max",
        "kl_mean",
        "minibatches",
        "minibatches_planned",
        "rollout_s",
        "steps_per_s",
        "update_s",
    }
)
"""Fields that the recorder works out from what it was shown, and that a loop which shows less may give itself."""


class UpdateRecorder:
    """One update, from its beginning to its event. Made by :meth:`begin`; one thread, the emitter's.

    Whatever became of the update, :meth:`finish` emits it: completed, stopped by the KL, interrupted, or skipped.

    Args:
        emitter: is told at the end.
        settings: of the loop.
        update_id: counts from 1 over all attempts of a run.
        epochs: passes over the rollout planned.
        minibatches: optimizer steps planned in each of them.

    Attributes:
        settings: may be set again before the end, by a loop that learns of an estimator or of head kinds late; the stop
            rule stays that of the beginning.
    """

    def __init__(
        self, emitter: TelemetryEmitter, settings: UpdateSettings, *, update_id: int, epochs: int, minibatches: int
    ) -> None:
        self._emitter = emitter
        self.settings = settings
        self._update_id = update_id
        self._epochs_planned = epochs
        self._planned = epochs * minibatches
        self._monitor = StopMonitor(
            target_kl=settings.target_kl, on=settings.stop_on, rule=settings.stop_rule, planned=self._planned
        )
        self._outcome: Outcome = "completed"
        self._reason = ""
        self._early_stop: EarlyStop | None = None
        self._non_finite = 0
        self._measured: dict[str, Measured] = {}
        self._divergences: tuple[Divergence, ...] = ()
        self._by_epoch: list[list[KLStats]] = []
        self._epoch_open = False
        self._minibatch = 0
        self._in_loop: list[float] = []
        self._first: float | None = None
        self._seen: MinibatchSeen | None = None
        self._steps_taken = 0
        self._shown: defaultdict[str, list[float]] = defaultdict(list)
        self._pooled: defaultdict[str, list[Mean]] = defaultdict(list)
        self._by_head: defaultdict[str, list[Sequence[Mean]]] = defaultdict(list)

    @classmethod
    def begin(
        cls,
        emitter: TelemetryEmitter,
        settings: UpdateSettings,
        *,
        update_id: int,
        epochs: int = 1,
        minibatches: int = 1,
    ) -> UpdateRecorder:
        """An update begins: its span opens and its time runs. Arguments are the class's own."""
        emitter.begin_update(update_id)
        return cls(emitter, settings, update_id=update_id, epochs=epochs, minibatches=minibatches)

    # --- while it runs ------------------------------------------------------------------------

    def measured(self, fields: Mapping[str, Measured]) -> None:
        """Take values under the names of the payload's fields; the last one given counts."""
        self._measured |= fields

    def diverged(self, *divergences: Divergence) -> None:
        """Take KLs of something else than the behaviour policy, such as of a reference model. They set no level."""
        self._divergences += divergences

    def begin_epoch(self) -> None:
        """Another pass over the rollout begins."""
        self._epoch_open = False

    def saw(self, seen: MinibatchSeen) -> int:
        """One minibatch was measured, before its step. Returns how many NaN and Inf it showed."""
        self._seen = seen
        value = seen.kl.weighted
        if not self._by_epoch:
            self._first = value
        if value is not None:
            self._in_loop.append(value)
        if self._epoch_open:
            self._by_epoch[-1].append(seen.kl)
            self._minibatch += 1
        else:
            self._by_epoch.append([seen.kl])
            self._minibatch = 1
            self._epoch_open = True
        non_finite = seen.non_finite
        self._non_finite += non_finite
        for name, mean in seen.pooled.items():
            self._pooled[name].append(mean)
        for name, means in seen.by_head.items():
            self._by_head[name].append(means)
        self._monitor.add(seen.kl)
        return non_finite

    def stepped(self) -> None:
        """The optimizer step of the minibatch seen last was taken."""
        self._steps_taken += 1
        if self._seen is not None:
            for name, value in self._seen.shown.items():
                if value is not None:
                    self._shown[name].append(value)

    def stop_before_step(self) -> bool:
        """Whether the KL forbids the coming optimizer step; then the stop is recorded."""
        return self._stopped(self._monitor.before_step())

    def stop_after_epoch(self) -> bool:
        """Whether the KL forbids another epoch; then the stop is recorded."""
        return self._stopped(self._monitor.after_epoch())

    def stop(self, value: float | None, *, epoch: int | None = None, reason: str = "") -> None:
        """The KL went beyond the limit at the minibatch seen last.

        Args:
            value: what was compared, nats; None when a library stopped and does not tell.
            epoch: in which one, when no minibatch was seen.
            reason: in words; empty names the KL and its limit.
        """
        pooled = self._monitor.pooled
        head = pooled.leading_head(self.settings.heads) if pooled is not None else None
        limit = self._monitor.threshold if self._monitor.threshold is not None else math.nan
        epoch = len(self._by_epoch) if epoch is None else epoch
        self._early_stop = EarlyStop(epoch=epoch, minibatch=self._minibatch, value=value, threshold=limit, head=head)
        self._outcome = "early_stopped"
        found = f"{value:.6g} >" if value is not None else "above"
        self._reason = reason or f"KL ({self._monitor.on}) {found} {limit:.6g} at {self._place}"

    def interrupt(self, reason: str) -> None:
        """Something other than the KL ended the update at the minibatch seen last, whose step was not taken."""
        self._outcome = "interrupted" if self._steps_taken else "skipped"
        self._reason = f"{reason} at {self._place}"

    def skip(self, reason: str, *, non_finite: int = 0) -> None:
        """No optimizer step is possible.

        Args:
            reason: why, in words.
            non_finite: NaN or Inf found.
        """
        self._outcome, self._reason = "skipped", reason
        self._non_finite += non_finite

    # --- its end ------------------------------------------------------------------------------

    def finish(
        self,
        final: FinalPass | None = None,
        *,
        env_steps: int = 0,
        rollout_steps: int = 0,
        episodes: EpisodeSummary | None = None,
    ) -> PPOUpdatePayload:
        """Build the payload and emit it.

        Args:
            final: the pass after the last step; None when the update was skipped, or when only the loop's own values
                are known. Only this one sets a level.
            env_steps: environment steps taken in the run when the update began.
            rollout_steps: environment steps of this rollout, for ``steps_per_s``.
            episodes: that finished meanwhile.

        Returns:
            The payload as it was emitted.
        """
        self.measured((episodes or EpisodeSummary()).measured())
        times = self._emitter.end_update(self._update_id)
        payload = self._payload(final, times, env_steps=env_steps, rollout_steps=rollout_steps)
        return self._emitter.emit_ppo_update(payload).payload

    def _payload(
        self, final: FinalPass | None, times: UpdateTimes, *, env_steps: int, rollout_steps: int
    ) -> PPOUpdatePayload:
        settings, monitor = self.settings, self._monitor
        kl_divergence = final.kl.weighted if final is not None else None
        kl_joint = final.kl.joint if final is not None else None
        non_finite = self._non_finite + (final.non_finite if final is not None else 0)
        when = self._kl_measured(final)
        shown: dict[str, Measured] = {name: _mean(values) for name, values in self._shown.items()}
        pooled = {name: Mean.pooled(means) for name, means in self._pooled.items()}
        by_head = {name: tuple(map(Mean.pooled, zip(*means, strict=True))) for name, means in self._by_head.items()}
        by_epoch = [stats for epoch in self._by_epoch if (stats := KLStats.pooled(epoch)) is not None]
        given = self._measured | shown | pooled | fields_of_final(final)
        worked_out: dict[str, Any] = dict(  # noqa: C408  # reads as the call that it becomes
            update_id=self._update_id,
            env_steps=env_steps,
            outcome=self._outcome,
            reason=self._reason,
            device=settings.device,
            kl_divergence=kl_divergence,
            kl_joint=kl_joint,
            kl_first_minibatch=self._first,
            kl_mean=None if (seen := KLStats.pooled(by_epoch)) is None else seen.weighted,
            kl_max=_max(self._in_loop),
            kl_last=self._in_loop[-1] if self._in_loop else None,
            kl_by_epoch=tuple(value for item in by_epoch if (value := item.weighted) is not None),
            kl_estimator=settings.kl_estimator,
            kl_measured=when,
            granularity=settings.granularity,
            library=settings.library,
            library_kl_name=settings.library_kl_name,
            divergences=self._divergences,
            target_kl=settings.target_kl or None,
            stop_threshold=monitor.threshold,
            stop_on=monitor.on,
            stop_rule=monitor.rule,
            stop_window=monitor.window,
            early_stop=self._early_stop,
            joint_would_stop=monitor.joint_would_stop,
            non_finite=non_finite,
            health=update_level(
                kl_divergence,
                kl_joint=kl_joint,
                non_finite=non_finite,
                kl_measured=when,
                limits=self._emitter.limits,
            ),
            heads=head_stats(settings, by_head, final),
            epochs=len(self._by_epoch),
            epochs_planned=self._epochs_planned,
            minibatches=self._steps_taken,
            minibatches_planned=self._planned,
            grad_norm_max=_max(self._shown.get("grad_norm", ())),
            clip_range=settings.clip_range,
            rollout_s=times.rollout_s,
            update_s=times.update_s,
            steps_per_s=times.rate(rollout_steps),
        )
        values: dict[str, Any] = {name: item.value if isinstance(item, Mean) else item for name, item in given.items()}
        worked_out |= {name: values.pop(name) for name in LOOP_FIELDS & values.keys()}
        return PPOUpdatePayload(**worked_out, **values)

    def _stopped(self, value: float | None) -> bool:
        if value is not None:
            self.stop(value)
        return value is not None

    def _kl_measured(self, final: FinalPass | None) -> KLMeasured:
        if final is not None:
            return "after_last_step"
        return "in_loop" if self._in_loop else "none"

    @property
    def _place(self) -> str:
        return f"epoch {len(self._by_epoch)}, minibatch {self._minibatch}"


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _max(values: Sequence[float]) -> float | None:
    """The largest value; NaN if any is NaN, since max() would depend on the order."""
    if any(math.isnan(value) for value in values):
        return math.nan
    return max(values, default=None)
