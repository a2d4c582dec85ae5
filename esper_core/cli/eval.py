"""``esper eval RUN``: loads a run's last checkpoint, plays episodes without learning, reports the returns."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from esper_core.cli._output import note, say
from esper_core.cli._parser import runs_dir, whole_number
from esper_core.errors import EXIT_OK, ConfigError, NonFiniteError, UsageError

if TYPE_CHECKING:
    import argparse

    from esper_core.config.schema import EnvConfig
    from esper_core.ppo.agent import PPOAgent
    from esper_core.ppo.checkpoint import Checkpoint
    from esper_core.ppo.task import Task
    from esper_core.runs.layout import RunDir

__all__ = ["EvalCommand", "command"]


_SEEDS: Final = 2**64
_KWARGS: Final = "env.kwargs"
_COUNT: Final[dict[str, Any]] = {"type": whole_number, "metavar": "N"}


class EvalCommand:
    """Plays episodes with a trained policy."""

    name = "eval"
    help = "load a run's checkpoint and report returns"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument(
            "run", metavar="RUN", nargs="?", default="latest", help="a run's id, its beginning, or path"
        )
        parser.add_argument("--episodes", default=20, help="episodes to play (default 20)", **_COUNT)
        parser.add_argument("--seed", default=10_000, help="of environments and sampling", **_COUNT)
        parser.add_argument("--deterministic", action="store_true", help="take the likeliest choice, do not sample")
        parser.add_argument("--best", action="store_true", help="the policy that --eval-every found best, not the last")
        parser.add_argument("--json", action="store_true", help="print one JSON object")
        parser.add_argument(
            "--set",
            dest="sets",
            action="append",
            default=[],
            metavar="env.kwargs.KEY=VALUE",
            help="an argument of the environment, for example a password, which a run's files do not hold; repeatable",
        )
        parser.add_argument("--dir", metavar="DIR", help="folder that holds the runs")
        looks = parser.add_argument_group("to look at", "For environments whose plugin can show an episode.")
        looks.add_argument("--show", action="store_true", help="print one episode as a story")
        looks.add_argument("--plot", type=Path, metavar="FILE.png", help="draw one episode")

    def run(self, args: argparse.Namespace) -> int:
        """Play the episodes, print the returns, and return the exit code."""
        if args.episodes < 1:
            raise UsageError(f"eval: --episodes is {args.episodes}, at least 1 is needed")
        if not 0 <= args.seed < _SEEDS:
            raise UsageError(f"eval: --seed is {args.seed}", hint=f"give a number from 0 to {_SEEDS - 1}")
        if any(not text.strip().startswith(f"{_KWARGS}.") for text in args.sets):
            raise UsageError(
                "eval: --set gives arguments of the environment alone",
                hint=f"for example --set {_KWARGS}.password=VALUE",
            )
        import torch

        here = str(Path.cwd())
        if here not in sys.path:
            sys.path.append(here)  # the current folder: `esper ppo` finds the user's own environments there too

        from esper_core.ppo.agent import PPOAgent
        from esper_core.ppo.checkpoint_file import load_checkpoint
        from esper_core.runs.search import find_run

        directory = find_run(args.run, runs_dir(args))
        env = _with_secrets(_env_config(directory), directory, args.sets)
        if args.best and not directory.best.is_file():
            raise UsageError(
                f"{directory.path} has no {directory.best.name}", hint="a run with --eval-every keeps its best policy"
            )
        checkpoint = load_checkpoint(directory.best if args.best else directory.checkpoint)
        agent = PPOAgent.of(checkpoint)
        _refuse_non_finite(agent, directory)
        torch.set_num_threads(1)
        agent.sampling_generator.manual_seed(args.seed)
        if args.show or args.plot is not None:
            return self._look(args, agent, env)
        return self._report(args, directory, agent, checkpoint, env)

    def _report(
        self,
        args: argparse.Namespace,
        directory: RunDir,
        agent: PPOAgent,
        checkpoint: Checkpoint,
        env: EnvConfig,
    ) -> int:
        from esper_core.envs.closing import close_in_time
        from esper_core.envs.evaluation import evaluation_task
        from esper_core.ppo.evaluation import evaluate

        task = evaluation_task(env, episodes=args.episodes, seed=args.seed)
        try:
            task.read_as(checkpoint.observation_form)
            _fits(agent, task, checkpoint, env.id)
            played = evaluate(agent, task, episodes=args.episodes, seed=args.seed, deterministic=args.deterministic)
        finally:
            close_in_time(task, lambda line: note(f"esper: {line}"))
        found: dict[str, Any] = {
            "run_id": directory.run_id,
            "environment": env.id,
            "update_id": agent.updates,
            "episodes": len(played.returns),
            "deterministic": args.deterministic,
            "seed": args.seed,
            "return_mean": played.return_mean,
            "return_std": played.return_std,
            "return_min": min(played.returns),
            "return_max": max(played.returns),
            "episode_length_mean": sum(played.lengths) / len(played.lengths),
        }
        if args.json:
            say(json.dumps(found | {"returns": played.returns}))
            return EXIT_OK
        say(f"{directory.run_id}: {env.id} after update {agent.updates}")
        how = "greedy" if args.deterministic else "sampled"
        say(
            f"return {played.return_mean:.2f} ± {played.return_std:.2f} over {len(played.returns)} {how} episodes"
            f" (min {found['return_min']:.2f}, max {found['return_max']:.2f},"
            f" mean length {found['episode_length_mean']:.1f})"
        )
        return EXIT_OK

    def _look(self, args: argparse.Namespace, agent: PPOAgent, env: EnvConfig) -> int:
        """Call ``show`` or ``plot`` of the environment's plugin."""
        from esper_core.config.environments import load_environment

        plugin = load_environment(env.id)
        show = plugin.show if plugin is not None else None
        plot = plugin.plot if plugin is not None else None
        for name, asked, able in (("show", args.show, show), ("plot", args.plot is not None, plot)):
            if asked and able is None:
                raise UsageError(
                    f"{env.id} has nothing to {name}", hint=f"without --{name}, eval reports returns of any environment"
                )
        if args.show and show is not None:
            agent.sampling_generator.manual_seed(args.seed)  # before each: both play the same episode
            for line in show(agent, env.kwargs, seed=args.seed):
                say(line)
        if args.plot is not None and plot is not None:
            agent.sampling_generator.manual_seed(args.seed)
            plot(agent, env.kwargs, seed=args.seed, path=args.plot)
            say(f"wrote {args.plot}")
        return EXIT_OK


def _env_config(directory: RunDir) -> EnvConfig:
    """The ``[env]`` table that the run was trained with."""
    import msgspec

    from esper_core.config.schema import EnvConfig
    from esper_core.reading import Run

    config = Run(directory).config
    if not config:
        raise ConfigError(f"{directory.path} has no config.toml", hint="is it a run's directory?")
    try:
        return msgspec.convert(config.get("env", {}), EnvConfig)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{directory.config_path}: {error}", hint="restore what [env] was in the run") from error


def _with_secrets(env: EnvConfig, directory: RunDir, sets: list[str]) -> EnvConfig:
    """The environment's arguments with what ``--set`` gives, and with variables in the place of masked secrets."""
    import msgspec

    from esper_core.config.layers import load_config
    from esper_core.config.lower_layers import refuse_masked
    from esper_core.masking import masked_places

    prefix = "ESPER_ENV__KWARGS__"
    variables = {name: value for name, value in os.environ.items() if name.startswith(prefix)}
    alone: dict[str, Any] = {"no_file": True, "flags": {"preset": "none"}}
    of_variables = load_config(env=variables, **alone).config.env.kwargs
    masked = {
        key: of_variables[key]
        for key, value in env.kwargs.items()
        if key in of_variables and any(masked_places(value, key))
    }
    given = load_config(sets=sets, **alone).config.env.kwargs
    kwargs = _merged(_merged(env.kwargs, masked), given)
    refuse_masked(kwargs, _KWARGS, str(directory.config_path))
    return msgspec.structs.replace(env, kwargs=kwargs)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Two trees of tables; where both have a value the upper one's."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _refuse_non_finite(agent: PPOAgent, directory: RunDir) -> None:
    """Raise for a policy that cannot play: it would choose by NaN."""
    import torch

    weights = dict(agent.policy.named_parameters())
    bad = {name: int((~torch.isfinite(weight)).sum()) for name, weight in weights.items()}
    first = next((name for name, count in bad.items() if count), None)
    if first is not None:
        total = sum(weight.numel() for weight in weights.values())
        raise NonFiniteError(
            f"{directory.checkpoint}: {sum(bad.values())} of {total} weights are NaN or infinite after update"
            f" {agent.updates}, the first in {first}: this policy cannot play",
            hint="train anew with a lower ppo.learning_rate; a run without --keep-going stops before such weights",
        )


def _fits(agent: PPOAgent, task: Task, checkpoint: Checkpoint, name: str) -> None:
    """Raise for an environment that is not the checkpoint's."""
    heads, obs_shape = task.heads, task.obs_shape
    if agent.layout.heads != heads or agent.obs_shape != obs_shape:
        raise ConfigError(
            f"the checkpoint does not fit {name}: it has heads {agent.layout.heads} and observations {agent.obs_shape},"
            f" the environment {heads} and {obs_shape}",
            hint="was the environment changed since the run?",
        )
    if not checkpoint.fits(task.observation_form):
        raise ConfigError(
            f"the checkpoint does not fit {name}: it reads {checkpoint.observation_form}, and the environment shows"
            f" {task.observation_form}",
            hint="was the environment changed since the run?",
        )


command = EvalCommand()
