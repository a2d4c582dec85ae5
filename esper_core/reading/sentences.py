"""What happened, in words: one sentence a kind of event, for console, commands and Sanctum's log alike. Pure.

A line that has columns of its own for time, subject and update prints the sentence alone; ``alone=True`` makes one
that stands alone: it names its subject and has the numbers that no column shows.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from esper_core.events import PolicyEvaluated, PolicyHealthChanged, RunFinished, RunStarted, SinkStatusChanged
from esper_core.health import DEFAULT_KL_LIMITS, HealthLevel, KLLimits, format_kl, level_under
from esper_core.reading.numbers import count, percent, plain

if TYPE_CHECKING:
    from esper_core.events import EarlyStop, Payload, PPOUpdatePayload, TelemetryEvent

__all__ = [
    "Room",
    "carries",
    "early_stop_text",
    "health_changed",
    "kl_text",
    "level_word",
    "outcome",
    "run_finished",
    "run_started",
    "sentence",
    "sink_status",
    "update_text",
]

Room: TypeAlias = Literal["line", "narrow"]
"""How much room a column has: ``line`` from 100 columns on, ``narrow`` below."""


_COMPARED: Final = {
    "pooled": "pooled {}",
    "minibatch": "{} of the minibatch",
    "epoch": "{} of the epoch's last minibatch",
}
"""What a rule of early stopping compares with the limit."""


def level_word(level: HealthLevel) -> str:
    """A level as people read it: ``non-finite``."""
    return level.value.replace("_", "-")


def kl_text(update: PPOUpdatePayload, limits: KLLimits = DEFAULT_KL_LIMITS) -> str:
    """The judged KL of an update, with its name: ``KL 0.0182``, ``joint KL 0.0455``."""
    return f"{limits.name} {format_kl(update.judged_kl(limits.on), limits=limits)}"


def carries(update: PPOUpdatePayload) -> str:
    """Which head carries the KL, when there is more than one: ``head slot carries 45%``; else empty."""
    leading = update.leading_head
    if len(update.heads) < 2 or leading is None or not leading.share:
        return ""
    return f"head {leading.name} carries {percent(leading.share, 0)}"


# --- updates ------------------------------------------------------------------------------------


def early_stop_text(update: PPOUpdatePayload, *, short: bool = False, limits: KLLimits = DEFAULT_KL_LIMITS) -> str:
    """Where an update stopped, which KL went beyond which limit, which head, and the same KL after the last step.

    Empty for an update that did not stop early. The KL is the one that the stop is on, whatever KL the run is judged
    by; the run's ``limits`` only say how many digits it needs.
    """
    stop = update.early_stop
    if stop is None:
        return ""
    kind = "joint KL" if update.stop_on == "joint" else "KL"
    found = _beyond(stop.value, stop.threshold)
    after = format_kl(update.judged_kl("joint" if update.stop_on == "joint" else "weighted"), limits=limits)
    if short:
        head = f", {stop.head}" if stop.head else ""
        joint = "joint " if update.stop_on == "joint" else ""
        return f"epoch {stop.epoch} mb {stop.minibatch}, {joint}{found}{head}, after {after}"
    head = f", head {stop.head}" if stop.head else ""
    compared = _COMPARED.get(update.stop_rule, "{}").format(kind)
    return f"epoch {stop.epoch} minibatch {stop.minibatch}, {compared} {found}{head}, {kind} after it {after}"


def _beyond(value: float | None, threshold: float) -> str:
    """``0.0310 > 0.0300``: four decimals, or as many as tell the two apart and show the limit."""
    if value is None:
        return f"above {threshold:g}"
    for form in (*(f".{digits}f" for digits in range(4, 9)), *(f".{digits}g" for digits in range(2, 18))):
        over, limit = format(value, form), format(threshold, form)
        if float(over) > float(limit) and math.isclose(float(limit), threshold, rel_tol=0.01):
            return f"{over} > {limit}"
    return f"{plain(value, 4)} > {plain(threshold, 4)}"  # NaN and Inf


def outcome(update: PPOUpdatePayload, room: Room = "line") -> str:
    """How an update ended, for a column; empty when it did all that was planned."""
    narrow = room == "narrow"
    if update.early_stop is not None:
        where = str(update.early_stop.epoch)
        if update.epochs_planned:  # a loop of others may not say
            where += f"/{update.epochs_planned}"
        return f"stop {where}" if narrow else f"early stop {where}"
    if update.outcome == "completed":
        return ""
    word = update.outcome.replace("_", " ")
    return word[:10] if narrow else word


def update_text(update: PPOUpdatePayload, limits: KLLimits = DEFAULT_KL_LIMITS) -> str:
    """An update: its KL and who carries it first, then why it ended early, else the other numbers."""
    parts = [kl_text(update, limits)]
    leading = update.leading_head
    named = level_under(update, limits).severity >= HealthLevel.WARNING.severity and leading is not None
    if leading is not None and named:
        parts.append(f"{leading.name} {percent(leading.share, 0)}")
    if update.non_finite:
        parts.append(f"{update.non_finite} non-finite values")
    if update.early_stop is not None:
        parts.append(_stop_text(update, update.early_stop, limits, named=named))
    elif update.outcome != "completed":
        parts.append(f"{update.outcome}: {update.reason}" if update.reason else update.outcome)
    else:
        if update.clip_fraction is not None:
            parts.append(f"clip {percent(update.clip_fraction)}")
        if update.entropy is not None or update.entropy_normalised is not None:
            parts.append(_entropy_text(update))
        if update.explained_variance is not None:
            parts.append(f"ev {plain(update.explained_variance, 2)}")
        if update.return_mean is not None:
            parts.append(f"return {plain(update.return_mean, 1)}")
    return "  ".join(parts)


def _stop_text(update: PPOUpdatePayload, stop: EarlyStop, limits: KLLimits, *, named: bool) -> str:
    """The stop in a line that begins with the update's KL, and with the leading head when that is ``named``."""
    on_joint = update.stop_on == "joint"
    compared = _COMPARED.get(update.stop_rule, "{}").format("joint KL" if on_joint else "KL")
    text = f"{outcome(update)}: {compared} {_beyond(stop.value, stop.threshold)}"
    leading = update.leading_head
    if stop.head and not (named and leading is not None and leading.name == stop.head):
        text += f", head {stop.head}"
    if on_joint != (limits.on == "joint"):  # the line's own KL is another one
        after = format_kl(update.judged_kl("joint" if on_joint else "weighted"), limits=limits)
        text += f", {'joint KL' if on_joint else 'KL'} after it {after}"
    return text


def _entropy_text(update: PPOUpdatePayload) -> str:
    """Normalised, 0..1; in nats where no head has a number of choices."""
    if update.differential:
        return f"differential entropy {plain(update.entropy, 2)} nats"
    return f"entropy {plain(update.entropy_normalised, 2)}"


# --- the rest -----------------------------------------------------------------------------------


def health_changed(payload: PolicyHealthChanged, *, alone: bool = False, limits: KLLimits = DEFAULT_KL_LIMITS) -> str:
    """The verdict's level moved."""
    worse = payload.current.severity > payload.previous.severity
    head = f", head {payload.head}" if payload.head and worse else ""
    kl = payload.kl_joint if limits.on == "joint" else payload.kl_divergence
    words = "rose" if worse else "calmed"
    text = f"level {words} from {level_word(payload.previous)} to {level_word(payload.current)}"
    return f"{'policy ' if alone else ''}{text} at {limits.name} {format_kl(kl, limits=limits)}{head}"


def policy_evaluated(payload: PolicyEvaluated, *, alone: bool = False) -> str:
    """The policy played without learning: how well, and how that compares with the best."""
    spread = f" ± {plain(payload.return_std, 1)}" if payload.return_std is not None else ""
    how = "greedy" if payload.deterministic else "sampled"
    text = f"return {plain(payload.return_mean, 1)}{spread} over {count(payload.episodes)} {how} episodes"
    if payload.better:
        text += ", the best so far"
    elif payload.best_update_id is not None:
        text += f"; best {plain(payload.best_return_mean, 1)} after update {payload.best_update_id}"
    return f"evaluation after update {payload.update_id}: {text}" if alone else text


def run_started(payload: RunStarted, attempt: int, *, run: str = "") -> str:
    """A run or another attempt began; ``run`` makes it stand alone."""
    text = f"started on {payload.environment}, seed {payload.seed}"
    if attempt > 1:
        text = f"attempt {attempt} resumes at update {payload.first_update_id} on {payload.environment}"
    return f"run {run}: {text}, heads {', '.join(payload.heads) or 'unknown'}" if run else text


def run_finished(payload: RunFinished, *, alone: bool = False) -> str:
    """The run ended."""
    reason = f": {payload.reason}" if payload.reason else ""
    work = {"updates": payload.updates}
    if alone:
        work |= {"steps": payload.env_steps, "episodes": payload.episodes}
    # A reason that is a limit ("12 of 12 updates") says that count already.
    counts = [
        f", {count(number)} {name}" for name, number in work.items() if not payload.reason.endswith((name, name[:-1]))
    ]
    lost = sum(item.lost for item in payload.lost)
    tail = f", {count(lost)} events lost" if lost else ""
    return f"{payload.state.value}{reason}{''.join(counts)}{tail}"


def sink_status(payload: SinkStatusChanged, *, alone: bool = False) -> str:
    """A sink's state changed."""
    lost = f", {count(payload.lost)} lost" if payload.lost else ""
    message = f": {payload.message}" if payload.message else ""
    text = f"{payload.state.replace('_', ' ')}{lost}{message}"
    if not alone:
        return text
    origin = f" ({payload.distribution} {payload.version})" if payload.distribution else ""
    return f"sink {payload.sink}{origin} {text}"


def sentence(event: TelemetryEvent[Payload], limits: KLLimits = DEFAULT_KL_LIMITS) -> str | None:
    """An event in a sentence that stands alone.

    None for updates and episodes, which have lines of their own, and for a sink that is well.
    """
    payload = event.payload
    match payload:
        case RunStarted():
            return run_started(payload, event.attempt, run=event.run_id)
        case PolicyHealthChanged():
            return health_changed(payload, alone=True, limits=limits)
        case PolicyEvaluated():
            return policy_evaluated(payload, alone=True)
        case SinkStatusChanged() if payload.state not in {"ok", "closed"}:
            return sink_status(payload, alone=True)
        case RunFinished():
            return run_finished(payload, alone=True)
        case _:
            return None
