"""CurrentUpdate: the update of a loop that is under way, and what has ended since the last one."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from esper_core.updates import EpisodeSummary, UpdateRecorder

if TYPE_CHECKING:
    from esper_core.emitter import TelemetryEmitter
    from esper_core.events import PPOUpdatePayload
    from esper_core.monitoring.counts import Counts
    from esper_core.updates import FinalPass, UpdateSettings

__all__ = ["CurrentUpdate"]


class CurrentUpdate:
    """Begins an update when the loop says so, or when it first tells of it, and emits it at its end.

    Args:
        emitter: is told.
        settings: of the loop.
        counts: of the run; counted on by each update.
        minibatches: optimizer steps planned in an update; None when the loop has not said.
    """

    def __init__(
        self, emitter: TelemetryEmitter, settings: UpdateSettings, counts: Counts, *, minibatches: int | None
    ) -> None:
        self._emitter = emitter
        self._settings = settings
        self._counts = counts
        self._planned = minibatches
        self._most_minibatches = 1
        self._recorder: UpdateRecorder | None = None
        self._in_loop = 0
        self._collecting = False
        self._since = time.monotonic()
        self._finished: list[tuple[float, int]] = []

    @property
    def open(self) -> bool:
        """Whether an update has begun."""
        return self._recorder is not None

    def begin_rollout(self) -> None:
        """Collecting begins."""
        self._collecting = True
        self._emitter.begin_rollout(self._counts.updates + 1)

    def ended(self, episode_return: float, length: int) -> None:
        """An episode has ended; it is told with the next update."""
        self._finished.append((episode_return, length))

    def begin(self, *, epochs: int = 1, minibatches: int | None = None) -> UpdateRecorder:
        """Learning begins.

        Args:
            epochs: passes over the rollout planned.
            minibatches: optimizer steps planned in each; None for as many as before.
        """
        if minibatches is not None:
            self._planned = minibatches * epochs
        planned = self._planned or self._most_minibatches  # of the whole update
        self._in_loop = 0
        self._recorder = UpdateRecorder.begin(
            self._emitter,
            self._settings,
            update_id=self._counts.updates + 1,
            epochs=epochs,
            minibatches=math.ceil(planned / epochs),
        )
        return self._recorder

    def running(self) -> UpdateRecorder:
        """The open update; begins one when the loop did not say so."""
        return self._recorder if self._recorder is not None else self.begin()

    def minibatch(self) -> UpdateRecorder:
        """The open update, of which another minibatch is about to be seen."""
        recorder = self._recorder if self._recorder is not None else self.begin()
        self._in_loop += 1
        return recorder

    def finish(self, final: FinalPass | None, *, rollout_steps: int) -> PPOUpdatePayload:
        """Emit the open update, with the episodes that have ended since the last one.

        Args:
            final: the pass after its last step; None when there was none.
            rollout_steps: environment steps of its rollout.

        Returns:
            The payload as it was emitted.
        """
        recorder, counts = self.running(), self._counts
        now = time.monotonic()
        if not self._collecting and rollout_steps:
            recorder.measured({"steps_per_s": rollout_steps / max(now - self._since, 1e-9)})
        self._since, self._collecting, self._recorder = now, False, None
        self._most_minibatches = max(self._most_minibatches, self._in_loop)
        finished, self._finished = self._finished, []
        counts.updates += 1
        payload = recorder.finish(
            final,
            env_steps=counts.env_steps,
            rollout_steps=rollout_steps,
            episodes=EpisodeSummary(
                returns=tuple(value for value, _ in finished),
                lengths=tuple(length for _, length in finished),
                mean_100=counts.return_mean_100,
                total=counts.episodes or None,  # a loop need not tell of episodes
            ),
        )
        counts.early_stops += payload.outcome == "early_stopped"
        counts.joint_stops += bool(payload.joint_would_stop)
        counts.last = payload
        return payload
