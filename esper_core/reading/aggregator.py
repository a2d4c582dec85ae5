"""SanctumAggregator: typed events in, snapshots out. One run, one thread at a time, no Textual, no clock.

Live events from the hub, journal lines and OTLP requests all come through :meth:`SanctumAggregator.handle`. Whatever
comes, it goes on: a broken event is counted and named in the log, and the next one is taken in.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import islice, pairwise
from statistics import median
from typing import TYPE_CHECKING, cast

from esper_core.events import (
    EpisodeFinished,
    PolicyEvaluated,
    PolicyHealthChanged,
    PPOUpdatePayload,
    RunFinished,
    RunStarted,
    SinkStatusChanged,
    TelemetryEvent,
)
from esper_core.health import HEALTH_WINDOW, RunState, policy_level
from esper_core.reading import eventlog
from esper_core.reading.account import SinkAccount, with_loss, with_status
from esper_core.reading.attempts import Attempts
from esper_core.reading.heads import heads_of
from esper_core.reading.ranks import RanksHeard, loss_of_rank, status_of_rank
from esper_core.reading.snapshot import EVENT_LOG, RECENT, EventEntry, RunPlan, SanctumSnapshot
from esper_core.reading.tamiyo import HISTORY, RELATIVE_WINDOW, TamiyoState, advance, judge_relative

if TYPE_CHECKING:
    from collections.abc import Iterable

    from esper_core.events import Payload
    from esper_core.health import PolicyLevel

__all__ = ["SanctumAggregator"]

_KEPT = RECENT + RELATIVE_WINDOW


@dataclass(slots=True, frozen=True)
class _Update:
    """One effective update and when it ended."""

    attempt: int
    time_ns: int
    payload: PPOUpdatePayload


class SanctumAggregator:
    """Builds the state of one run from its events.

    Args:
        run_id: take in events of this run only; empty takes the first event's.
    """

    def __init__(self, run_id: str = "") -> None:
        self.run_id = run_id
        self.generation = 0
        """Raised by every event that changed something a screen shows."""
        self._updates: deque[_Update] = deque(maxlen=_KEPT)
        self._tamiyo = TamiyoState()
        self._plan = RunPlan()
        self._attempt = 0
        self._attempts = Attempts()
        self._sinks: dict[str, SinkAccount] = {}
        self._events: deque[EventEntry] = deque(maxlen=EVENT_LOG)
        self._ranks = RanksHeard()
        self._finished: RunFinished | None = None
        self._last_event_ns: int | None = None
        self._seen = 0
        self._duplicates = 0
        self._bad = 0

    # --- events in ----------------------------------------------------------------------------

    def handle(self, event: object) -> None:
        """Take in one event. Never raises: what cannot be understood is counted and logged."""
        self._seen += 1
        try:
            self._dispatch(cast("TelemetryEvent[Payload]", event))
        except Exception as error:  # noqa: BLE001  # a viewer outlives any event: the count and the log show it
            self._bad += 1
            self.generation += 1
            moment = self._last_event_ns or 0
            self._events.append(eventlog.bad_event(error, moment))

    def handle_all(self, events: Iterable[object]) -> None:
        """Take in events in order."""
        for event in events:
            self.handle(event)

    def _dispatch(self, event: TelemetryEvent[Payload]) -> None:
        if event.marked:
            return
        self._check_run(event.run_id)
        self._last_event_ns = max(event.time_ns, self._last_event_ns or 0)
        self._ranks.hear(event)
        payload: object = event.payload  # of this version or, from a newer emitter, of none we know
        match payload:
            case PPOUpdatePayload():
                self._handle_ppo_update(cast("TelemetryEvent[PPOUpdatePayload]", event))
            case EpisodeFinished():
                pass  # the update carries the statistics; a line an episode would drown the log
            case RunStarted():
                self._handle_run_started(event, payload)
            case PolicyHealthChanged():
                self._log(eventlog.health_changed(payload, event.time_ns, self._tamiyo.limits))
            case PolicyEvaluated():
                self._log(eventlog.policy_evaluated(payload, event.time_ns))
            case SinkStatusChanged():
                self._handle_sink_status(event, payload)
            case RunFinished():
                self._handle_run_finished(event, payload)
            case _:
                msg = f"an unknown payload {type(payload).__name__}"
                raise TypeError(msg)

    def _check_run(self, run_id: str) -> None:
        """The first event says which run this is; raise for one of another."""
        self.run_id = self.run_id or run_id
        if run_id != self.run_id:
            msg = f"an event of run {run_id}"
            raise ValueError(msg)

    def _handle_ppo_update(self, event: TelemetryEvent[PPOUpdatePayload]) -> None:
        """Append, insert or ignore one update; see the rule in :class:`TamiyoState`."""
        update = _Update(event.attempt, event.time_ns, event.payload)
        own = update.payload.update_id
        self._begin(update.attempt, own)
        if self._attempts.replaced(update.attempt, own):
            self._duplicates += 1
            return
        newest = self._updates[-1] if self._updates else None
        if newest is None or own > newest.payload.update_id:
            self._append(update)
        elif not self._insert(update):
            self._duplicates += 1
            return
        self._attempt = max(self._attempt, update.attempt)
        self._log(eventlog.ppo_update(event.payload, event.time_ns, self._tamiyo.limits))

    def _handle_run_started(self, event: TelemetryEvent[Payload], payload: RunStarted) -> None:
        if event.attempt < self._attempt or event.rank:
            return
        if event.attempt == self._attempt and event.time_ns == self._plan.started_ns:
            return  # a source reads the beginning of every attempt first, and may meet it again
        self._begin(event.attempt, payload.first_update_id)
        self._attempt = event.attempt
        self._finished = None
        self._plan = RunPlan(
            run_name=payload.run_name,
            environment=payload.environment,
            heads=payload.heads,
            seed=payload.seed,
            ranks=payload.ranks,
            updates=payload.updates_planned,
            steps=payload.steps_planned,
            episodes=payload.episodes_planned,
            target_kl=payload.target_kl,
            stop_threshold=payload.stop_threshold,
            stop_on=payload.stop_on,
            config_digest=payload.config_digest,
            started_ns=event.time_ns,
        )
        self._tamiyo.limits = payload.limits
        self._log(eventlog.run_started(payload, event.attempt, event.time_ns))

    def _handle_sink_status(self, event: TelemetryEvent[Payload], payload: SinkStatusChanged) -> None:
        told = status_of_rank(payload, event.rank)
        self._sinks[told.sink] = with_status(self._sinks.get(told.sink), told)
        self._log(eventlog.sink_status(told, event.time_ns))

    def _handle_run_finished(self, event: TelemetryEvent[Payload], payload: RunFinished) -> None:
        if event.attempt < self._attempt:
            return
        for loss in payload.lost:
            own = loss_of_rank(loss, event.rank)
            self._sinks[own.sink] = with_loss(self._sinks.get(own.sink), own)
        # Rank 0 tells the run's end. Where it was killed, another one does: all ranks end when one fails.
        if event.rank and (payload.state is not RunState.FAILED or self._finished is not None):
            return
        self._attempt = event.attempt
        self._finished = payload
        self._log(eventlog.run_finished(payload, event.time_ns, rank=event.rank))

    # --- effective updates --------------------------------------------------------------------

    def _append(self, update: _Update) -> None:
        """The common case: the next update of the newest attempt. Constant time."""
        self._updates.append(update)
        advance(self._tamiyo, update.attempt, update.payload)

    def _insert(self, update: _Update) -> bool:
        """Put a late update (OTLP may reorder) in its place; False when it is known or older than what is kept."""
        own = update.payload.update_id
        ordered = list(self._updates)
        place = sum(item.payload.update_id < own for item in ordered)
        if ordered[place].payload.update_id == own or (place == 0 and len(ordered) == _KEPT):
            return False
        ordered.insert(place, update)
        self._updates = deque(ordered, maxlen=_KEPT)
        self._rebuild()
        return True

    def _begin(self, attempt: int, first: int) -> None:
        """Note where an attempt begins, and forget the updates that it makes again."""
        if not self._attempts.begin(attempt, first):
            return
        kept = [item for item in self._updates if not self._attempts.replaced(item.attempt, item.payload.update_id)]
        if len(kept) != len(self._updates):
            self._updates = deque(kept, maxlen=_KEPT)
            self._rebuild()

    def _rebuild(self) -> None:
        """Compute the policy's state anew from the kept updates."""
        self._tamiyo = TamiyoState(limits=self._tamiyo.limits)
        for update in self._updates:
            advance(self._tamiyo, update.attempt, update.payload)

    def _log(self, entry: EventEntry) -> None:
        self._events.append(entry)
        self.generation += 1

    # --- snapshots out ------------------------------------------------------------------------

    @property
    def tamiyo(self) -> TamiyoState:
        """The policy's state itself, for a reader in the same thread; the next event changes it."""
        return self._tamiyo

    @property
    def policy(self) -> PolicyLevel:
        """The policy's level, and each head's, over the judged window."""
        return policy_level(
            [item.payload for item in islice(reversed(self._updates), HEALTH_WINDOW)][::-1], self._tamiyo.limits
        )

    def snapshot(self) -> SanctumSnapshot:
        """The state now. Shares nothing mutable with the aggregator."""
        updates = list(self._updates)
        recent = updates[-RECENT:]
        tamiyo = self._tamiyo.copy()
        judge_relative(tamiyo, [item.payload for item in updates])
        last = recent[-1] if recent else None
        return SanctumSnapshot(
            run_id=self.run_id,
            attempt=self._attempt,
            plan=self._plan,
            tamiyo=tamiyo,
            heads=heads_of([item.payload for item in recent[-HISTORY:]], self._plan.heads),
            recent=tuple(item.payload for item in recent),
            resumes=tuple(
                item.payload.update_id for before, item in pairwise(recent) if item.attempt != before.attempt
            ),
            last=last.payload if last is not None else None,
            last_event_ns=self._last_event_ns,
            median_gap_s=_median_gap_s(recent),
            sinks=tuple(self._sinks[name] for name in sorted(self._sinks)),
            events=tuple(self._events),
            finished=self._finished,
            ranks=self._ranks.all(),
            seen=self._seen,
            duplicates=self._duplicates,
            bad=self._bad,
        )


def _median_gap_s(recent: list[_Update]) -> float | None:
    """Median seconds between the last updates of one attempt; None below two."""
    tail = recent[-21:]
    gaps = [
        (after.time_ns - before.time_ns) / 1e9
        for before, after in pairwise(tail)
        if after.attempt == before.attempt and after.time_ns > before.time_ns
    ]
    return median(gaps) if gaps else None
