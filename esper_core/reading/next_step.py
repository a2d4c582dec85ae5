"""What to do next about a run: about its end, about what is wrong with the run itself, or about its policy. Pure."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from esper_core.health import WARM_UP_UPDATES, HealthLevel, RunState, Suggestion, VerdictKind, state_suggestion
from esper_core.reading.account import losses, merged
from esper_core.reading.judged import judged_policy, update_advice, worst_update
from esper_core.reading.rows import critical_rows

if TYPE_CHECKING:
    from esper_core.health import Verdict
    from esper_core.reading.life import Life
    from esper_core.reading.snapshot import SanctumSnapshot

__all__ = ["from_environment", "next_step", "why"]

_POLICY: frozenset[VerdictKind] = frozenset({VerdictKind.CRITICAL, VerdictKind.WARNING, VerdictKind.HEALTHY})
"""Verdicts on the policy, beside which other critical rows are named."""
_OF_ENVIRONMENTS = ("reward of environment", "observation of environment")
"""How a run's end names numbers that an environment returned."""


def why(judged: Verdict, snapshot: SanctumSnapshot) -> str:
    """The verdict's reason, and which other rows are critical: a calm KL may be calm because the policy collapsed."""
    if judged.kind not in _POLICY or snapshot.updates <= WARM_UP_UPDATES:
        return judged.reason
    return "; ".join([judged.reason, *(told.cause for _, told in critical_rows(snapshot.tamiyo))])


def next_step(snapshot: SanctumSnapshot, life: Life, judged: Verdict, *, run: str) -> Suggestion | None:
    """What to do next, or None when there is nothing to do.

    Args:
        snapshot: of the run, or of an earlier update of it.
        life: of its process; live for an earlier update.
        judged: the verdict on the two.
        run: what commands call it.
    """
    policy = judged_policy(snapshot)
    worst = worst_update(snapshot.recent, snapshot.tamiyo.limits)
    learned = update_advice(worst, policy=policy)
    if learned is None and snapshot.updates > WARM_UP_UPDATES:
        learned = next((told for _, told in critical_rows(snapshot.tamiyo)), None)
    if life.state in {RunState.CRASHED, RunState.FAILED}:
        rate = worst.learning_rate if worst is not None and policy.level is HealthLevel.NON_FINITE else None
        return _after_failure(life, shlex.quote(run), broken=policy.level is HealthLevel.NON_FINITE, learning_rate=rate)
    lost = _after_loss(snapshot, life, shlex.quote(run)) if judged.kind is VerdictKind.LOSSY else None
    ended = _after_end(life, shlex.quote(run), learned)
    return lost or ended or state_suggestion(judged.kind) or learned


def _after_failure(life: Life, run: str, *, broken: bool, learning_rate: float | None) -> Suggestion:
    """The command that goes on from the checkpoint, first: a narrow screen cuts the end; and how to find the cause."""
    again = f"esper ppo --resume {run}"
    if broken:
        return _after_nan(life, again, learning_rate)
    cause = "it failed" if life.state is RunState.FAILED else "the trainer is gone"
    log = "see trainer.log" if life.last_words else ""
    if life.kept == "checkpoint":
        return Suggestion(cause=cause, action=f"{again} goes on{f'; {log}' if log else ''}")
    return Suggestion(cause=cause, action=f"there is no checkpoint of {run} to go on from{f'; {log}' if log else ''}")


def from_environment(message: str) -> bool:
    """Whether a run's end tells of numbers that its environment returned: no learning rate mends these."""
    return any(word in message for word in _OF_ENVIRONMENTS)


def _after_nan(life: Life, again: str, learning_rate: float | None) -> Suggestion:
    """A lower rate cures the policy's own numbers; what an environment returns no rate changes."""
    cause = "NaN or Inf"
    if from_environment(life.message):
        return Suggestion(cause=cause, action=_then("mend the environment", life, again))
    lower = f" --set ppo.learning_rate={learning_rate / 3:.2g}" if learning_rate else ""
    return Suggestion(cause=cause, action=_then("check rewards and observations", life, f"{again}{lower}"))


def _after_loss(snapshot: SanctumSnapshot, life: Life, run: str) -> Suggestion | None:
    """How what a sink lost is sent again, by names; None where the journal itself lost: nothing can be sent again."""
    found = losses(merged(snapshot.sinks, life.sinks))
    if not found.others or found.record:
        if life.state.ended:
            return None
        return Suggestion(cause="events were lost", action=f"see trainer.log of {run} and its disk")
    sink = shlex.quote(found.others[0][0].partition("/")[0])
    if not life.kept:
        return Suggestion(cause="events were lost", action=f"look at sink {sink} where {run} is trained")
    again = (
        f"esper replay {run} --to {sink}" if life.state.ended else f"esper replay {run} --to {sink} once it has ended"
    )
    return Suggestion(cause="events were lost", action=f"{again} sends what the journal holds")


def _then(look: str, life: Life, again: str) -> str:
    return f"{look}, then {again}" if life.kept == "checkpoint" else look


def _after_end(life: Life, run: str, learned: Suggestion | None) -> Suggestion | None:
    """The commands that use a run that ended as it should; None for one that is not on this disk."""
    if life.state not in {RunState.DONE, RunState.STOPPED} or not life.kept:
        return None
    lesson = f"; for the next run, {learned}" if learned is not None else ""
    if life.kept == "record":
        return Suggestion(cause=life.state.value, action=f"esper report {run} writes a page{lesson}")
    if life.state is RunState.STOPPED:
        return Suggestion(cause="stopped", action=f"esper ppo --resume {run} goes on, esper eval {run} plays{lesson}")
    return Suggestion(cause="done", action=f"esper eval {run} plays its policy{lesson}")
