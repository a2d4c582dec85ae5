"""``esper ppo``: parses the arguments, calls :func:`esper_core.training.train_attempt` and prints the result."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Final

from esper_core.cli._command import commands_after_run
from esper_core.cli._output import bear_lost_readers, note, print_to_log, say, stream_error, take_back_streams
from esper_core.cli._parser import add_config_arguments, add_sink_arguments, resolve_config, whole_number
from esper_core.cli._words import end_lines, next_commands, program, shown_path, start_lines
from esper_core.errors import EXIT_FAILED, EXIT_OK, EXIT_SIGNAL, EsperError, NonFiniteError
from esper_core.health import RunState
from esper_core.runs.arguments import working_directory

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from esper_core.config.layers import Resolved
    from esper_core.host.load.selection import Selection
    from esper_core.reading import Run
    from esper_core.training import Outcome, Started

__all__ = ["PPOCommand", "command"]


_COUNT: Final[dict[str, Any]] = {"type": whole_number, "metavar": "N"}


class PPOCommand:
    """Trains."""

    name = "ppo"
    help = "train a PPO agent"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the named flags; every other key is set with ``--set``."""
        task = parser.add_argument_group("what to train")
        task.add_argument(
            "--env", metavar="ID", help="an environment plugin, a registered Gymnasium id, or package.module:EnvId"
        )
        task.add_argument(
            "--preset", metavar="NAME", help="a named set of values beneath the file; default by environment"
        )
        task.add_argument(
            "--causal-mask", metavar="MODULE:FUNCTION", help="maps actions (n, heads) to a bool mask (n, heads)"
        )
        task.add_argument("--seed", help="seed of environment, policy and minibatch order", **_COUNT)
        limits = parser.add_argument_group(
            "how long", "The first limit reached ends the run, 0 means none; with no limit given, the preset's holds."
        )
        limits.add_argument("--episodes", help="finished episodes over all environments", **_COUNT)
        limits.add_argument("--steps", help="environment steps, for example 1e6", **_COUNT)
        limits.add_argument("--updates", help="PPO updates", **_COUNT)
        run = parser.add_argument_group("the run")
        run.add_argument("--run-name", metavar="NAME", help="a name for people; the run id holds it")
        run.add_argument("--dir", metavar="DIR", help="folder that holds the runs")
        run.add_argument("--resume", metavar="RUN", help="go on with a run: a new attempt, same weights and update ids")
        run.add_argument("--eval-every", help="evaluate after every nth update; the best policy is kept", **_COUNT)
        run.add_argument("--video", help="record an episode after every nth update, in the run's folder", **_COUNT)
        run.add_argument("--keep-going", action="store_true", default=None, help="go on after NaN or Inf")
        run.add_argument(
            "--strict-telemetry", action="store_true", default=None, help="exit with 5 when telemetry was lost"
        )
        add_sink_arguments(parser)
        add_config_arguments(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Train, and return the exit code."""
        here = working_directory()
        flags = {
            "preset": args.preset,
            "env.id": args.env,
            "env.causal_mask": args.causal_mask,
            "run.seed": args.seed,
            "run.episodes": args.episodes,
            "run.steps": args.steps,
            "run.updates": args.updates,
            "run.name": args.run_name,
            "run.dir": args.dir,
            "run.eval_every": args.eval_every,
            "run.video_every": args.video,
            "run.keep_going": args.keep_going,
            "run.strict_telemetry": args.strict_telemetry,
        }
        resolved = resolve_config(args, flags)
        resumed = None
        if args.resume is not None:
            from esper_core.reading import open_run

            resumed = open_run(args.resume, resolved.config.run.dir)
            resolved = resolve_config(args, flags, resumed=resumed)
        from esper_core.host.load.selection import foreground_sink, select_sinks
        from esper_core.training.ranks import place_of

        selection = select_sinks(resolved.config, origins=resolved.origins, dropped=resolved.dropped_sinks)
        if foreground_sink(selection.sinks) is not None and not place_of(os.environ).several:
            from esper_core.cli._foreground import train_behind

            return train_behind(resolved, selection, args.words)
        return _train(resolved, selection, resumed, here)


def _train(resolved: Resolved, selection: Selection, resumed: Run | None, here: Path) -> int:
    """Train in this process, and print the start and end of the run."""
    from esper_core.host.load.selection import CHILD_VARIABLE
    from esper_core.training import train_attempt
    from esper_core.training.ranks import place_of

    speaks = place_of(os.environ).first  # the console is rank 0's; the others have a log
    bear_lost_readers()
    if CHILD_VARIABLE in os.environ:
        print_to_log()
    if str(here) not in sys.path:
        sys.path.append(str(here))  # a module of the user's own: --env my_env:MyEnv-v0, --causal-mask my_masks:mask
    begun: list[Started] = []

    def started(start: Started) -> None:
        begun.append(start)
        if speaks:
            _say_start(resolved, start, here, resumed=resumed is not None)

    try:
        outcome = train_attempt(
            resolved,
            resumed=resumed,
            selection=selection,
            on_started=started,
            on_notice=(lambda line: note(f"esper: {line}")) if speaks else (lambda _: None),
            base=here,
        )
    except EsperError as error:
        if begun and error.exit_code < EXIT_SIGNAL:
            error.exit_code = EXIT_FAILED  # the command was right: a run has begun, and failed
        raise
    take_back_streams()
    if not speaks:
        failure = outcome.failure()
        return failure.exit_code if failure is not None else _exit_code(outcome, here)
    if outcome.unwritten:
        note(f"esper: {outcome.unwritten}")
    _say_end(outcome, here, resumed=resumed is not None)
    return _exit_code(outcome, here)


def _say_start(resolved: Resolved, started: Started, here: Path, *, resumed: bool) -> None:
    # In a child of a foreground sink these lines are printed after the redirection: they go to trainer.log.
    lines = start_lines(
        resolved,
        heads=started.heads,
        run=shown_path(started.run.path, here),
        sinks=started.sinks,
        resumed=(started.attempt, started.first_update) if resumed else None,
        active=started.active_heads,
        ranks=started.ranks,
    )
    note(*lines)


def _say_end(outcome: Outcome, here: Path, *, resumed: bool) -> None:
    from esper_core.reading.condition import has_journal

    run = outcome.run
    shown = shown_path(run.path, here)
    commands = next_commands(
        shown,
        has_checkpoint=run.checkpoint.is_file(),
        has_journal=has_journal(run),
        stopped=outcome.result.state is RunState.STOPPED,
        start=here,
        commands=commands_after_run(),
    )
    lines = end_lines(
        outcome.result,
        verdict=outcome.verdict,
        report=outcome.report,
        run=shown,
        duration_s=outcome.duration_s,
        resumed=resumed,
        commands=commands,
        limits=outcome.limits,
    )
    if (lost := stream_error(sys.stderr)) is not None:
        lines.append(f"  stderr   took nothing more: {lost.strerror or lost}; training was not harmed")
    say(*lines)
    if (lost := stream_error(sys.stdout)) is not None:
        # The run and its exit code stand.
        note(f"esper: cannot write to stdout: {lost.strerror or lost}; how the run ended is in {run.summary_path}")


def _exit_code(outcome: Outcome, here: Path) -> int:
    """Return the exit code.

    Raises:
        EsperError: the run failed.
    """
    failure = outcome.failure()
    if isinstance(failure, NonFiniteError):
        from esper_core.reading.next_step import from_environment

        run, again = outcome.run, ""
        if run.checkpoint.is_file():
            lower = "" if from_environment(failure.message) else " --set ppo.learning_rate=..."
            again = f"; the last good weights: {program(here)} ppo --resume {shown_path(run.path, here)}{lower}"
        raise NonFiniteError(failure.message, hint=f"--keep-going goes on in spite of it{again}")
    if failure is not None:
        raise failure
    if outcome.result.state is RunState.STOPPED and outcome.signal is not None:
        return EXIT_SIGNAL + outcome.signal
    return EXIT_OK if outcome.result.state in {RunState.DONE, RunState.STOPPED} else EXIT_FAILED


command = PPOCommand()
