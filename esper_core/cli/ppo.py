"""``esper ppo``: joins task, agent, trainer and session. Everything heavy is imported when it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_core.cli._parser import add_config_arguments, add_sink_arguments, resolve_config

if TYPE_CHECKING:
    import argparse

__all__ = ["PPOCommand", "command"]


class PPOCommand:
    """Trains."""

    name = "ppo"
    help = "train a PPO agent"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the few real flags; every other key goes through ``--set``."""
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
        task.add_argument("--seed", type=int, metavar="N", help="seed of environment, policy and minibatch order")
        limits = parser.add_argument_group(
            "how long", "The first limit reached ends the run, 0 means none; with no limit given, the preset's holds."
        )
        limits.add_argument("--episodes", type=int, metavar="N", help="finished episodes over all environments")
        limits.add_argument("--steps", type=int, metavar="N", help="environment steps")
        limits.add_argument("--updates", type=int, metavar="N", help="PPO updates")
        run = parser.add_argument_group("the run")
        run.add_argument("--run-name", metavar="NAME", help="a name for people; the run id holds it")
        run.add_argument("--dir", metavar="DIR", help="folder that holds the runs")
        run.add_argument("--resume", metavar="RUN", help="go on with a run: a new attempt, same weights and update ids")
        run.add_argument("--keep-going", action="store_true", default=None, help="go on after NaN or Inf")
        run.add_argument(
            "--strict-telemetry", action="store_true", default=None, help="exit with 5 when telemetry was lost"
        )
        add_sink_arguments(parser)
        add_config_arguments(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Train, and return the exit code."""
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
            "run.keep_going": args.keep_going,
            "run.strict_telemetry": args.strict_telemetry,
        }
        resolved = resolve_config(args, flags)
        resumed = None
        if args.resume is not None:
            from esper_core.reading import open_run

            resumed = open_run(args.resume, resolved.config.run.dir)
            resolved = resolve_config(args, flags, resumed=resumed)
        from esper_core.cli._training import train

        return train(resolved, resumed=resumed, words=args.words)


command = PPOCommand()
