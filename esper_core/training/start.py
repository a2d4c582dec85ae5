"""The checks before a run directory exists: every setting that can be rejected is rejected here."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
from typing import TYPE_CHECKING, Final

import msgspec

from esper_core import forks
from esper_core.envs.closing import CLOSE_S, close_in_time
from esper_core.errors import EsperError, UsageError
from esper_core.health import RunState
from esper_core.host.load.selection import select_sinks
from esper_core.host.process.memory import memory_bytes
from esper_core.host.process.signals import StopFlag, install_signals
from esper_core.reading import Run
from esper_core.runs import RunDir, read_state
from esper_core.runs.arguments import working_directory
from esper_core.runs.held import HeldRun
from esper_core.runs.process import ProcessPresence, probe_process
from esper_core.training._imports import uncollected
from esper_core.training.agreement import agree_on_settings
from esper_core.training.ranks import join, place_of, refuse_for_ranks, sinks_of_rank
from esper_core.training.torch_device import told_default_device

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from esper_core.config.layers import Resolved
    from esper_core.config.schema import EnvConfig
    from esper_core.envs.video import Videos
    from esper_core.host.load.selection import Selection
    from esper_core.ppo.agent import PPOAgent
    from esper_core.ppo.checkpoint import Checkpoint
    from esper_core.ppo.distributed import GroupReducer
    from esper_core.ppo.evaluator import Evaluator
    from esper_core.ppo.task import Task
    from esper_core.training.outcome import Outcome, Started
    from esper_core.training.ranks import Place

__all__ = ["train_attempt"]

_SLOW_S: Final = 8.0
"""Seconds of making the environments after which a line says so."""
_TRAINING_NEEDS = frozenset({"torch", "gymnasium", "numpy"})


def train_attempt(
    resolved: Resolved,
    *,
    resumed: Run | None = None,
    selection: Selection | None = None,
    on_started: Callable[[Started], None],
    on_notice: Callable[[str], None],
    exit_on_second_interrupt: bool = True,
    base: Path | None = None,
) -> Outcome:
    """Train one attempt of a run, in this thread, until a limit, a signal or NaN ends it.

    Args:
        resolved: the configuration.
        resumed: the run to resume; None begins a new one.
        selection: sinks chosen before; None selects them here. None of them may own the terminal.
        on_started: called once everything is open, before the first step.
        on_notice: called with lines for the user: notices of the start, and where a failed run's directory is.
        exit_on_second_interrupt: a second Ctrl-C leaves the process at once; False raises KeyboardInterrupt.
        base: the folder that relative paths start from; None is the working directory at this moment.

    Returns:
        How it ended; ``Outcome.failure()`` is the error of a run that failed.

    Raises:
        UsageError: configuration, environment, sinks or the run to resume cannot be used; nothing was written.
        EsperError: the run's directory cannot be written.
    """
    base = base if base is not None else working_directory()
    place = place_of(os.environ)
    with contextlib.ExitStack() as stack:
        held = None
        if resumed is not None:
            held = stack.enter_context(_hold(resumed, base, on_notice, place))
            resumed = Run(held.run)
        if selection is None:
            selection = select_sinks(resolved.config, origins=resolved.origins, dropped=resolved.dropped_sinks)
        resolved = refuse_for_ranks(resolved, selection, place)
        selection = sinks_of_rank(selection, place)
        # Before the task: its worker processes get handlers, which leave the first Ctrl-C to the trainer, by forking.
        stop = StopFlag()
        handled = stack.enter_context(contextlib.ExitStack())
        handled.enter_context(install_signals(stop, exit_on_second=exit_on_second_interrupt))
        if place.several and place.first:
            where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            on_notice(f"rank 0 of {place.world} meets the others at {where}")
        # Called after the task's worker processes were forked, which would keep the ranks' connections open.
        meet = functools.partial(join, place, resolved.config.run.rank_timeout_s, stop) if place.several else None
        try:
            with told_default_device(resolved.config.env.id):
                task, agent, checkpoint, group = _assemble(resolved, resumed, on_notice, place, meet, stack)
        except EsperError:
            if stop.signal is not None:  # the signal ended a worker process, too, which is what failed
                handled.close()
                signal.raise_signal(stop.signal)
            raise
        evaluator = _evaluator(resolved, task, checkpoint, on_notice) if place.first else None
        videos = _videos(resolved, (task, evaluator), checkpoint, on_notice) if place.first else None
        owned = (task, evaluator, videos)
        if stop.signal is not None:  # there is no run yet that could end in order
            _close_all(owned, on_notice, CLOSE_S)
            handled.close()
            signal.raise_signal(stop.signal)
        from esper_core.training.attempt import Attempt  # noqa: PLC0415  # needs torch

        attempt = Attempt(
            resolved=resolved,
            selection=selection,
            task=task,
            agent=agent,
            evaluator=evaluator,
            videos=videos,
            checkpoint=checkpoint,
            resumed=resumed,
            held=held,
            base=base,
            on_started=on_started,
            on_notice=on_notice,
            stop=stop,
            group=group,
        )
        try:
            with forks.Place(f"environment {task.name}"):
                return attempt.run()
        finally:
            _close_all(owned, on_notice, max(resolved.config.run.close_timeout_s, CLOSE_S))


def _hold(resumed: Run, base: Path, on_notice: Callable[[str], None], place: Place) -> HeldRun:
    """Lock a run before anything of it is read, and refuse it when it trains nevertheless; of several ranks, rank 0."""
    held = HeldRun(RunDir(base / resumed.path, resumed.run_id), lock=place.first, on_notice=on_notice)
    if not place.first:
        return held
    try:
        _refuse_running(Run(held.run), held)
    except BaseException:
        held.close()
        raise
    return held


def _evaluator(
    resolved: Resolved, task: Task, checkpoint: Checkpoint | None, on_notice: Callable[[str], None]
) -> Evaluator | None:
    """The evaluator with its environments, which are those of the training again; none without ``run.eval_every``."""
    config = resolved.config
    if not config.run.eval_every:
        return None
    from esper_core.envs.evaluation import evaluation_task  # noqa: PLC0415  # needs what training needs
    from esper_core.envs.seeds import evaluation_seed  # noqa: PLC0415  # as above
    from esper_core.ppo.evaluator import Evaluator  # noqa: PLC0415  # as above

    seed = evaluation_seed(config.run.seed)

    def made(failed: Task | None = None) -> Task:
        close_in_time(failed, on_notice)
        own = evaluation_task(config.env, episodes=config.run.eval_episodes, seed=seed)
        if checkpoint is not None:
            own.read_as(checkpoint.observation_form)
        return own

    try:
        first = made()
    except BaseException:
        close_in_time(task, on_notice)
        raise
    return Evaluator(first, config.run, seed=seed, renew=made, on_failure=on_notice)


def _videos(
    resolved: Resolved,
    owned: tuple[Task, Evaluator | None],
    checkpoint: Checkpoint | None,
    on_notice: Callable[[str], None],
) -> Videos | None:
    """What records videos, with an environment of its own; None without ``run.video_every``."""
    config = resolved.config
    if not config.run.video_every:
        return None
    from esper_core.envs.seeds import evaluation_seed  # noqa: PLC0415  # needs what training needs
    from esper_core.envs.video import Videos  # noqa: PLC0415  # as above

    read_as = None if checkpoint is None else (checkpoint.observation_form,)
    seed = evaluation_seed(config.run.seed)
    try:
        return Videos(config.env, config.run, seed=seed, read_as=read_as, on_failure=on_notice)
    except BaseException:
        _close_all((*owned, None), on_notice, CLOSE_S)
        raise


def _close_all(
    owned: tuple[Task, Evaluator | None, Videos | None], on_notice: Callable[[str], None], seconds: float
) -> None:
    """Close every environment of an attempt."""
    task, evaluator, videos = owned
    close_in_time(task, on_notice, seconds)
    close_in_time(evaluator.task if evaluator is not None else None, on_notice, seconds)
    if videos is not None:
        close_in_time(videos, on_notice, seconds)


def _refuse_running(run: Run, held: HeldRun) -> None:
    """Raise when the run still trains though its lock could be taken: its trainer has none, or we do not see it.

    A run whose process is gone may be resumed at once.
    """
    record, state = read_state(run.directory)
    if record is None or probe_process(record) is ProcessPresence.GONE or held.outlived(record):
        return
    if state in {RunState.LIVE, RunState.STALLED}:
        raise UsageError(
            f"run {run.run_id} is still {state.value} (pid {record.pid} on {record.host})",
            hint=f"stop it first: kill {record.pid}",
        )


def _assemble(
    resolved: Resolved,
    resumed: Run | None,
    on_notice: Callable[[str], None],
    place: Place,
    meet: Callable[[], AbstractContextManager[GroupReducer]] | None,
    stack: contextlib.ExitStack,
) -> tuple[Task, PPOAgent, Checkpoint | None, GroupReducer | None]:
    """Create the task, meet the other ranks, create the agent, and restore the checkpoint that rank 0 has read."""
    try:
        with uncollected():
            from esper_core.envs.adapter import make_task  # noqa: PLC0415  # dependencies that only training needs
            from esper_core.ppo.agent import PPOAgent  # noqa: PLC0415  # as above
            from esper_core.ppo.checkpoint_file import load_checkpoint  # noqa: PLC0415  # as above
            from esper_core.ppo.checkpoint_fit import check_environment, restore  # noqa: PLC0415  # as above
            from esper_core.ppo.devices import resolve_device  # noqa: PLC0415  # as above
            from esper_core.ppo.memory import memory_need, refuse_beyond  # noqa: PLC0415  # as above
            from esper_core.ppo.reducer import seed_of_rank  # noqa: PLC0415  # as above
            from esper_core.ppo.schedules import SCHEDULES, refuse_impossible  # noqa: PLC0415  # as above
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _TRAINING_NEEDS:
            raise
        raise UsageError(
            f"training needs {error.name}, which is not installed",
            hint="pip install 'esper-core[default]' (with sinks and the default task; [train] is training alone)",
        ) from error
    config = resolved.config
    refuse_impossible(config.ppo, config.run, asked=[key for key in SCHEDULES if f"ppo.{key}" in resolved.asked])
    checkpoint = None
    if resumed is not None and place.first:
        checkpoint = load_checkpoint(resumed.directory.checkpoint)
        _refuse_finished(resolved, checkpoint, resumed)
        _refuse_other_wrappers(checkpoint, config.env.wrappers)
    resolve_device(config.ppo.device)
    # Once before there is an environment, whose number alone may be too large, and once with its spaces.
    refuse_beyond(memory_need(config.ppo, n_envs=config.env.n_envs), memory_bytes())
    with _said_when_slow(config.env, on_notice):
        task = make_task(config.env, seed=seed_of_rank(config.run.seed, place.rank))
    group = stack.enter_context(meet()) if meet is not None else None
    if group is not None:
        agree_on_settings(group, config)
    if resumed is not None and group is not None:
        from esper_core.ppo.distributed import checkpoint_of_rank  # noqa: PLC0415  # several ranks only

        checkpoint = checkpoint_of_rank(group.share(checkpoint), place.rank, place.world)
    ppo = config.ppo
    if checkpoint is not None and resumed is not None:
        if ppo.policy == "auto":  # what it meant when the run began
            ppo = msgspec.structs.replace(ppo, policy=checkpoint.config.policy)
        task.read_as(checkpoint.observation_form)
        check_environment(checkpoint, task)
        if not checkpoint.environment:
            _compare_record(resumed, task.name, on_notice)
    heads = [head.size for head in task.heads]
    form = task.observation_form
    need = memory_need(ppo, n_envs=task.n_envs, obs_shape=task.obs_shape, heads=heads, images=form.images)
    refuse_beyond(need, memory_bytes())
    agent = PPOAgent(
        task.heads,
        task.obs_shape,
        ppo,
        seed=config.run.seed,
        conditioning_head=task.conditioning_head,
        action_form=task.action_form,
        form=form,
        reducer=group,
    )
    if checkpoint is not None:
        restore(agent, checkpoint)
    return task, agent, checkpoint, group


@contextlib.contextmanager
def _said_when_slow(env: EnvConfig, on_notice: Callable[[str], None]) -> Iterator[None]:
    """Say once what a long start waits for: a million environments, or one that begins with a simulator."""
    line = f"making the environments of {env.id} takes a while (env.n_envs is {env.n_envs:,})"
    timer = threading.Timer(_SLOW_S, on_notice, (line,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _compare_record(run: Run, environment: str, on_notice: Callable[[str], None]) -> None:
    """A checkpoint of 0.1 does not name its environment: the record does, and the spaces stay unknown."""
    recorded = run.record.environment if run.record is not None else ""
    if recorded and recorded.rpartition(":")[2] != environment.rpartition(":")[2]:
        raise UsageError(
            f"run {run.run_id} was trained in environment {recorded}, and would go on in {environment}",
            hint=f"resume it in {recorded}, or begin a new run in {environment}",
        )
    on_notice(
        "the checkpoint was written by an earlier version and does not name its environment: "
        f"resumed in {environment} unchecked"
    )


def _refuse_other_wrappers(checkpoint: Checkpoint, wrappers: tuple[str, ...]) -> None:
    """Raise where the policy learned behind other wrappers, though their spaces may be the same."""
    if checkpoint.wrappers is None or checkpoint.wrappers == wrappers:
        return
    before, now = (", ".join(names) or "no wrapper" for names in (checkpoint.wrappers, wrappers))
    raise UsageError(
        f"the checkpoint was trained behind {before}, and this run would go on behind {now}",
        hint="leave env.wrappers as it was, or begin a new run",
    )


def _refuse_finished(resolved: Resolved, checkpoint: Checkpoint, run: Run) -> None:
    limits = resolved.config.run
    done = (
        ("updates", checkpoint.update_id, limits.updates),
        ("steps", checkpoint.env_steps, limits.steps),
        ("episodes", checkpoint.episodes, limits.episodes),
    )
    made = run.record.updates if run.record is not None else 0
    # A run that was killed has made more than its last checkpoint holds.
    who = f"run {run.run_id}" if made <= checkpoint.update_id else f"the last checkpoint of run {run.run_id}"
    for name, count, limit in done:
        if limit and count >= limit:
            more = count + limit
            raise UsageError(
                f"{who} has done {count} {name if count != 1 else name[:-1]}; the limit is {limit}",
                hint=f"limits count all attempts; to go on, for example: --{name} {more}, in Python {name}={more}",
            )
