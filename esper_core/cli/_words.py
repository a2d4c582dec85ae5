"""The text that ``esper ppo`` prints at its start and at its end: functions that return plain text, easy to test."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from esper_core.health import RunState, Verdict, format_kl
from esper_core.kl import STOP_FACTOR, stop_threshold
from esper_core.reading.numbers import plain
from esper_core.reading.sentences import carries, level_word

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from esper_core.config.layers import Resolved
    from esper_core.config.schema import PPOConfig, RunConfig
    from esper_core.events import PPOUpdatePayload
    from esper_core.health import KLLimits
    from esper_core.host.session import SessionReport
    from esper_core.ppo.train_result import TrainResult

__all__ = [
    "end_lines",
    "levels_text",
    "limits_text",
    "next_commands",
    "program",
    "shown_path",
    "start_lines",
    "stop_text",
]


def program(start: Path | None = None) -> str:
    """The command that starts this Esper in a new shell here: ``esper``, a path, or ``python -m esper_core``.

    Args:
        start: the folder of the reader's shell, see :func:`shown_path`.
    """
    found = shutil.which("esper")
    beside = Path(sys.executable).with_name("esper")
    if found is not None and Path(found).resolve() == beside.resolve():
        return "esper"
    if beside.is_file():
        return shlex.quote(shown_path(beside, start))
    return f"{shlex.quote(shown_path(Path(sys.executable), start))} -m esper_core"


def shown_path(path: Path, start: Path | None = None) -> str:
    """The path, relative inside the current folder, else absolute. Links are kept: a venv's python is a link.

    Args:
        path: what is shown.
        start: the folder of the reader's shell; None is the current one, which an environment may have changed.
    """
    try:
        inside = os.path.relpath(path, start)
    except FileNotFoundError:  # the current folder was deleted
        return str(path)
    return str(path) if inside.startswith("..") else inside


def limits_text(run: RunConfig) -> str:
    """Format the limits, for example ``until 20 episodes or 1000 updates``."""
    limits = [
        f"{count} {name}"
        for count, name in ((run.episodes, "episodes"), (run.steps, "environment steps"), (run.updates, "updates"))
        if count
    ]
    return f"until {' or '.join(limits)}" if limits else "until it is stopped"


def stop_text(ppo: PPOConfig, heads: int, active: float | None = None) -> str:
    """Format the stop threshold, and its value as the other KL (joint or weighted) with the heads usually active.

    Args:
        ppo: the table ``[ppo]``.
        heads: how many heads of the policy have more than one choice: the others never count.
        active: of those, active in a step, the mean over the choices; None when the task does not define it.
    """
    limit = stop_threshold(ppo.target_kl)
    if limit is None:
        return "early stop: off (target_kl = 0)"
    usual = active if active is not None else float(heads)
    source = f"{STOP_FACTOR} x target_kl {ppo.target_kl:g}"
    if heads <= 1:
        name = "joint KL" if ppo.stop_on == "joint" else "KL"
        same = "with one head that chooses, per decision and per step are the same"
        return f"early stop: {name} above {limit:g} nats ({source}); {same}"
    about = f"{usual:.1f} of {heads} heads usually active" if active is not None else f"all {heads} heads active"
    if ppo.stop_on == "joint":
        return (
            f"early stop: joint KL above {limit:g} nats a step ({source}); {limit / usual:.3g} a decision with {about}"
        )
    return f"early stop: KL above {limit:g} nats a decision ({source}); as a joint KL {limit * usual:.3g} with {about}"


def levels_text(limits: KLLimits, heads: int, active: float | None = None) -> str:
    """The limits of the levels, and what the critical one is as the other KL with the heads usually active.

    Args:
        limits: of the run.
        heads: how many heads of the policy have more than one choice.
        active: of those, active in a step, when the task knows.
    """
    unit = "a step" if limits.on == "joint" else "a decision"
    text = f"levels: {limits.name} from {limits.warning:g} warning, from {limits.critical:g} critical"
    if heads <= 1:
        return f"{text} (nats)"
    usual = active if active is not None else float(heads)
    other = (
        f"{limits.critical / usual:.3g} a decision"
        if limits.on == "joint"
        else f"a joint KL of {limits.critical * usual:.3g}"
    )
    return f"{text} (nats {unit}); critical is {other} with {usual:.1f} of {heads} heads active"


def start_lines(
    resolved: Resolved,
    *,
    heads: Mapping[str, int | str],
    run: str,
    sinks: Sequence[str],
    resumed: tuple[int, int] | None = None,
    active: float | None = None,
    ranks: int = 1,
) -> list[str]:
    """The text printed at the start of a run.

    Args:
        resolved: the configuration.
        heads: name -> number of choices, or the kind of a head that draws from a density.
        run: its directory, as shown to the user.
        sinks: names of the loaded sinks.
        resumed: the attempt, and the id of its first update.
        active: heads with a choice that are usually active in a step; None when the task does not define it.
        ranks: how many train together.
    """
    config = resolved.config
    choosing = sum(size != 1 for size in heads.values())
    named = ", ".join(f"{name} ({size})" for name, size in heads.items())
    seed = f"seed {config.run.seed}"
    preset = f"preset {config.preset}, " if config.preset and config.preset != "none" else ""
    where = f"{config.env.n_envs} environments" + (f" on each of {ranks} ranks" if ranks > 1 else "")
    lines = [
        f"training {config.env.id} in {where} ({preset}{seed}), {limits_text(config.run)}",
        f"{'head' if len(heads) == 1 else 'heads'}: {named}",
        stop_text(config.ppo, choosing, active),
        levels_text(config.health.limits, choosing, active),
        f"sinks: {', '.join(sinks) or 'none'}",
        f"run: {run}",
    ]
    if resumed is not None:
        attempt, first = resumed
        episodes = "episodes go on where they can" if config.env.seed_episodes else "fresh episodes"
        lines.append(f"resumed as attempt {attempt} at update {first}: same weights and optimizer, {episodes}")
    return lines


def next_commands(
    run: str,
    *,
    has_checkpoint: bool,
    has_journal: bool,
    commands: Mapping[str, str],
    stopped: bool = False,
    start: Path | None = None,
) -> list[tuple[str, str]]:
    """The commands to suggest after a run, each with its purpose.

    Args:
        run: the run as a path.
        has_checkpoint: whether it can be evaluated and resumed.
        has_journal: whether its updates are on disk.
        commands: plugins' commands that read a recorded run: name -> purpose.
        stopped: whether it was stopped before its limit, so that there is something to go on with.
        start: the folder of the reader's shell, see :func:`shown_path`.
    """
    esper, where = program(start), shlex.quote(run)
    found: list[tuple[str, str]] = []
    if stopped and has_checkpoint:
        found.append((f"{esper} ppo --resume {where}", "go on from here"))
    if has_journal:
        found += [(f"{esper} {name} {where}", purpose) for name, purpose in commands.items()]
        found.append((f"{esper} replay {where}", "its updates again"))
        found.append((f"{esper} export {where} --csv", "as a table"))
    if has_checkpoint:
        found.append((f"{esper} eval {where}", "how good the policy is"))
    return found


def end_lines(
    result: TrainResult,
    *,
    verdict: Verdict,
    report: SessionReport,
    run: str,
    duration_s: float,
    resumed: bool,
    commands: Sequence[tuple[str, str]],
    limits: KLLimits,
) -> list[str]:
    """The text printed at the end of a run."""
    ended = {RunState.DONE: "done", RunState.STOPPED: "stopped", RunState.FAILED: "failed"}
    last = result.last
    took = "over all attempts, this one took" if resumed else "in"
    returned = "no episode has finished"
    if result.return_mean_100 is not None:
        count = min(100, result.episodes)
        returned = f"{plain(result.return_mean_100, 1)}, mean of the last {count} of {result.episodes} episodes"
    lines = [
        f"{ended.get(result.state, result.state.value)}: {result.reason}",
        f"  run      {run}",
        f"  work     {result.updates} updates, {result.env_steps} environment steps {took} {duration_s:.1f} s",
        f"  return   {returned}",
        f"  KL       {_kl_text(last, limits)}",
        f"  verdict  {verdict.label}: {verdict.reason}",
        f"  stops    {_stops_text(result)}",
    ]
    lost = [sink for sink in report.sinks if sink.lost]
    lines.append(f"  lost     {', '.join(f'{sink.name} {sink.lost}' for sink in lost) or 'nothing'}")
    lines += [f"  {line}" for line in report.lines()]
    if commands:
        width = max(len(command) for command, _ in commands)
        lines += ["next:", *(f"  {command:<{width}}  # {purpose}" for command, purpose in commands)]
    return lines


def _stops_text(result: TrainResult) -> str:
    """How many updates the KL stopped; where several heads choose, also what a joint limit would have."""
    text = f"{result.early_stops} early {'stop' if result.early_stops == 1 else 'stops'}"
    last = result.last
    if result.joint_stops is None or last is None or last.stop_on == "joint" or _choosing(last) < 2:
        return text
    updates = "1 update" if result.joint_stops == 1 else f"{result.joint_stops} updates"
    return f"{text}; on the joint KL the same limit would have stopped {updates}"


def _choosing(update: PPOUpdatePayload) -> int:
    """How many heads made decisions in an update: with one, the two KLs are the same number."""
    return sum(head.decisions > 0 for head in update.heads)


def _kl_text(last: PPOUpdatePayload | None, limits: KLLimits) -> str:
    if last is None:
        return "no update was made"
    text = f"{format_kl(last.judged_kl(limits.on), limits=limits)} in the last update ({level_word(last.health)})"
    if limits.on == "joint":
        text = f"joint {text}"
    if _choosing(last) > 1:
        active = sum(head.weight for head in last.heads if head.weight is not None)
        other, kl = ("joint", last.kl_joint) if limits.on == "weighted" else ("weighted", last.kl_divergence)
        text += f", {other} {format_kl(kl, limits=limits)} with {active:.1f} heads active"
        if carrier := carries(last):
            text += f"; {carrier}"
    return text
