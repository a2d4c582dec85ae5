"""Checkpoints: the agent after its last completed update, in one file that is either whole or absent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import msgspec
import torch
from torch import nn

from esper_core.config.retired import todays_ppo
from esper_core.config.schema import PPOConfig
from esper_core.errors import ConfigError, EsperError
from esper_core.ppo._plausible import refuse_implausible
from esper_core.ppo.actions import ActionForm
from esper_core.ppo.heads import HeadLayout, HeadSpec
from esper_core.ppo.preprocessing import ObservationForm
from esper_core.runs.files import fault_of, open_file
from esper_core.runs.folder import Folder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import IO

    from esper_core.ppo.adam import FlatAdam
    from esper_core.ppo.normalisation import ObservationNormaliser, RewardNormaliser
    from esper_core.ppo.task import Task

__all__ = [
    "Checkpoint",
    "Checkpointed",
    "check_environment",
    "checkpoint_content",
    "load_checkpoint",
    "restore",
    "save_checkpoint",
    "write_checkpoint",
]

FORMAT: Final = 1
_PLACE: Final = ("base", "episode", "actions", "shown")
_UNDO: Final = "undo what changed it (env.kwargs, a wrapper, the environment's code), or begin a new run"
_SAME_RUN: Final = "resume with the configuration of the run that wrote it"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint holds. Environments are not in it: a resumed run begins fresh episodes, but for ``places``.

    Attributes:
        update_id: the last completed update.
        env_steps: environment steps taken by then.
        episodes: episodes finished by then.
        recent_returns: returns of the last 100 of them, oldest first.
        heads: of the policy.
        obs_shape: of one observation.
        conditioning_head: the head sampled first, or None.
        config: the ``[ppo]`` table.
        config_digest: of the whole configuration, see :func:`esper_core.config.digest.config_digest`.
        seed: the run's.
        state: weights, optimizer, generators, and the statistics of normalisation.
        environment: the environment's id; empty in files that were written without it.
        spaces: its observation and action space as text; None as above.
        wrappers: ``[env] wrappers``; None as above.
        evaluated: mean return of the evaluation that made this the best policy; None in any other file.
        places: where each environment was, see :class:`~esper_core.ppo.boundary.ResumableTask`; empty when they begin
            fresh episodes.
        running: return and length so far of each environment's episode; None with empty ``places``.
        action_form: how the heads' columns make the environment's action; None as above.
        observation_form: how observations become rows; None in files of 0.1, whose agents read rows alone.
    """

    update_id: int
    env_steps: int
    episodes: int
    recent_returns: tuple[float, ...]
    heads: tuple[HeadSpec, ...]
    obs_shape: tuple[int, ...]
    conditioning_head: str | None
    config: PPOConfig
    config_digest: str
    seed: int
    state: dict[str, Any]
    environment: str = ""
    spaces: tuple[str, str] | None = None
    wrappers: tuple[str, ...] | None = None
    evaluated: float | None = None
    places: tuple[dict[str, Any], ...] = ()
    running: list[list[float]] | None = None
    action_form: ActionForm | None = None
    observation_form: ObservationForm | None = None

    def fits(self, form: ObservationForm) -> bool:
        """Whether its policy reads observations of this form: its own, or any when it was made to read rows."""
        rows = ObservationForm.numbers((form.size,))
        return self.observation_form in {None, form, rows}


class Checkpointed(Protocol):
    """What a checkpoint keeps of an agent. ``updates`` is the id of its last update."""

    layout: HeadLayout
    obs_shape: tuple[int, ...]
    observation_form: ObservationForm
    conditioning_head: str | None
    action_form: ActionForm | None
    config: PPOConfig
    normaliser: ObservationNormaliser | None
    reward_normaliser: RewardNormaliser | None
    seed: int
    learning_rate: float
    sampling_generator: torch.Generator
    order_generator: torch.Generator
    updates: int

    @property
    def policy(self) -> nn.Module:
        """Holds the weights."""

    @property
    def optimizer(self) -> FlatAdam:
        """Holds its own state of each weight."""


def save_checkpoint(path: Path, agent: Checkpointed, *, folder: Folder | None = None, **counts: Any) -> None:
    """Write a checkpoint of this moment: :func:`checkpoint_content`, then :func:`write_checkpoint`."""
    write_checkpoint(path, checkpoint_content(agent, **counts), folder=folder)


def checkpoint_content(
    agent: Checkpointed,
    *,
    update_id: int | None = None,
    env_steps: int = 0,
    episodes: int = 0,
    recent_returns: Sequence[float] = (),
    config_digest: str = "",
    environment: str = "",
    spaces: tuple[str, str] | None = None,
    wrappers: Sequence[str] | None = None,
    evaluated: float | None = None,
) -> dict[str, Any]:
    """What a checkpoint holds of this moment: plain values, and the agent's own tensors (copy what must stay).

    Args:
        agent: what is kept.
        update_id: id of the last update that changed the weights; the agent's own counter by default.
        env_steps: environment steps taken by then.
        episodes: episodes finished by then.
        recent_returns: returns of the last 100 of them, oldest first.
        config_digest: of the whole configuration.
        environment: the environment's id.
        spaces: its observation and action space as text.
        wrappers: ``[env] wrappers``.
        evaluated: mean return of this policy's evaluation.
    """
    return {
        "format": FORMAT,
        "update_id": agent.updates if update_id is None else update_id,
        "env_steps": env_steps,
        "episodes": episodes,
        "recent_returns": [float(value) for value in recent_returns],
        "heads": [_kept_head(head) for head in agent.layout.heads],
        "action_form": None if agent.action_form is None else msgspec.to_builtins(agent.action_form),
        "obs_shape": list(agent.obs_shape),
        "observation_form": msgspec.to_builtins(agent.observation_form),
        "conditioning_head": agent.conditioning_head,
        "config": msgspec.to_builtins(agent.config),
        "config_digest": config_digest,
        "seed": agent.seed,
        "environment": environment,
        "spaces": None if spaces is None else list(spaces),
        "wrappers": None if wrappers is None else list(wrappers),
        "evaluated": evaluated,
        "state": {
            "policy": agent.policy.state_dict(),
            "optimizer": agent.optimizer.state_dict(),
            "sampling": agent.sampling_generator.get_state(),
            "order": agent.order_generator.get_state(),
            "learning_rate": agent.learning_rate,
            "observations": None if agent.normaliser is None else agent.normaliser.moments.state(),
            "rewards": None if agent.reward_normaliser is None else agent.reward_normaliser.state(),
        },
    }


def write_checkpoint(path: Path, content: dict[str, Any], *, folder: Folder | None = None) -> None:
    """Write a checkpoint beside the old one, make it durable, then put it in its place.

    A reader, or a crash at any moment, finds the old file or the new one, never a part.

    Args:
        path: the file.
        content: see :func:`checkpoint_content`.
        folder: the file's folder, held open: the file is written there, wherever that is by now.

    Raises:
        EsperError: it cannot be written. The old file is still there, and nothing is left beside it.
    """
    try:
        if folder is not None:
            folder.replace(path.name, lambda file: _write(content, file))
        else:
            with Folder(path.parent) as own:
                own.replace(path.name, lambda file: _write(content, file))
    except Exception as error:
        raise EsperError(
            f"cannot write checkpoint {path}: {_reason(error)}", hint="free some space, or check rights"
        ) from error


def _write(content: dict[str, Any], file: IO[bytes]) -> None:
    """Write a checkpoint's content; an error of the file is raised as itself, and not as torch words it."""
    kept = _Kept(file)
    try:
        torch.save(content, cast("IO[bytes]", kept))  # write and flush are all that torch calls
    except RuntimeError:
        if kept.error is not None:
            raise kept.error from None
        raise


class _Kept:
    """A file for torch, which turns every error of it into a RuntimeError about itself: the first one is kept."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        self._file.flush()


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint. Only plain values and tensors are unpickled (``weights_only``), never code."""
    try:
        with open_file(path) as file:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ConfigError(
            f"no checkpoint at {path}",
            hint="the trainer writes one after its first update; a loop that monitor() watches keeps its policy itself",
        ) from error
    except OSError as error:
        fault = fault_of(path, error)
        raise ConfigError(f"cannot read {path}: {fault.reason}", hint=fault.remedy) from error
    except Exception as error:  # torch and pickle raise nearly anything on damaged bytes
        raise ConfigError(f"{path} is not a readable checkpoint", hint="it may be damaged; train anew") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ConfigError(f"{path} is no checkpoint of format {FORMAT}", hint="it was written by another version")
    try:
        refuse_implausible(content)
        form = msgspec.convert(content.get("observation_form"), ObservationForm | None)
        config = msgspec.convert(todays_ppo(content["config"]), PPOConfig)
        if form is None:  # of 0.1, which knew no other network
            config = msgspec.structs.replace(config, policy="mlp")
        return Checkpoint(
            update_id=content["update_id"],
            env_steps=content["env_steps"],
            episodes=content["episodes"],
            recent_returns=tuple(content["recent_returns"]),
            heads=tuple(HeadSpec(*head) for head in content["heads"]),
            obs_shape=tuple(content["obs_shape"]),
            conditioning_head=content["conditioning_head"],
            config=config,
            config_digest=content["config_digest"],
            seed=content["seed"],
            state=_state_of(content["state"]),
            environment=content.get("environment", ""),
            spaces=_pair(content.get("spaces")),
            wrappers=msgspec.convert(content.get("wrappers"), tuple[str, ...] | None),
            evaluated=msgspec.convert(content.get("evaluated"), float | None),
            places=tuple({key: place[key] for key in _PLACE} for place in content.get("places", ())),
            running=content.get("running"),
            action_form=_form(content),
            observation_form=form,
        )
    except (KeyError, TypeError, ValueError, AttributeError, msgspec.ValidationError) as error:
        raise ConfigError(f"{path} lacks what a checkpoint holds: {error}", hint="it may be damaged") from error


def check_environment(checkpoint: Checkpoint, task: Task) -> None:
    """Refuse a task that is not the one the checkpoint learned, though its shapes may be the same.

    A checkpoint without an environment (of 0.1) fits every task. The module before an id's colon is not compared: code
    moves.

    Raises:
        ConfigError: the task is another environment, or the environment's spaces have changed.
    """
    stored = checkpoint.environment
    if stored and stored.rpartition(":")[2] != task.name.rpartition(":")[2]:
        raise ConfigError(
            f"the checkpoint is of environment {stored}, and this run would train {task.name}",
            hint=f"resume it in {stored}, or begin a new run in {task.name}",
        )
    for what, before, now in zip(("observation", "action"), checkpoint.spaces or (), task.spaces, strict=False):
        if before != now:
            raise ConfigError(
                f"{stored or task.name} had {what} space {before} when the checkpoint was written, and has {now} now",
                hint=_UNDO,
            )
    if not checkpoint.fits(task.observation_form):
        raise ConfigError(
            f"the checkpoint's policy reads {checkpoint.observation_form}, and {stored or task.name} shows "
            f"{task.observation_form}",
            hint=_UNDO,
        )


def restore(agent: Checkpointed, checkpoint: Checkpoint) -> None:
    """Put a checkpoint's weights, optimizer, generators and update id into an agent of the same shape."""
    _same("heads", _heads(agent.layout.heads), _heads(checkpoint.heads))
    _same("observation shape", agent.obs_shape, checkpoint.obs_shape)
    if not checkpoint.fits(agent.observation_form):
        _same("preprocessing", str(agent.observation_form), str(checkpoint.observation_form))
        raise ConfigError("the checkpoint's observations have other bounds than this run's", hint=_SAME_RUN)
    _same("ppo.hidden", tuple(agent.config.hidden), tuple(checkpoint.config.hidden))
    for key in ("squash", "policy", "activation", "shared_trunk", "normalise_observations", "normalise_rewards"):
        _same(f"ppo.{key}", getattr(agent.config, key), getattr(checkpoint.config, key))
    _same("conditioning head", agent.conditioning_head, checkpoint.conditioning_head)
    state = checkpoint.state
    try:
        agent.policy.load_state_dict(state["policy"])
        agent.optimizer.load_state_dict(state["optimizer"])
        agent.sampling_generator.set_state(state["sampling"])
        agent.order_generator.set_state(state["order"])
        if agent.normaliser is not None:
            agent.normaliser.restore(state["observations"])
        if agent.reward_normaliser is not None:
            agent.reward_normaliser.restore(state["rewards"])
        # The file's rate is that of its own run, and this agent's configuration decides, but where both adapt it.
        adapts = {agent.config.learning_rate_schedule, checkpoint.config.learning_rate_schedule} == {"kl_adaptive"}
        agent.learning_rate = _rate(state["learning_rate"]) if adapts else agent.config.learning_rate
    except (KeyError, IndexError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise ConfigError(f"the checkpoint does not fit this agent: {first}") from error
    agent.updates = checkpoint.update_id


def _rate(value: object) -> float:
    """A learning rate as a file holds it."""
    if type(value) is not float or not 0.0 < value < math.inf:
        raise ValueError(f"its learning rate is {value!r}")
    return value


def _form(content: dict[str, Any]) -> ActionForm | None:
    form = msgspec.convert(content.get("action_form"), ActionForm | None)
    if form is not None and form.columns != len(content["heads"]):
        raise ValueError(f"an action of {form.columns} columns for {len(content['heads'])} heads")
    return form


def _state_of(state: dict[str, Any]) -> dict[str, Any]:
    """The state under today's names: in 0.1 the layers of the trunk were parameters of the policy itself."""
    policy = {
        f"trunk.{name.removeprefix('trunk_')}" if name.startswith("trunk_") else name: weight
        for name, weight in state["policy"].items()
    }
    return {**state, "policy": policy}


def _pair(spaces: object) -> tuple[str, str] | None:
    if spaces is None:
        return None
    observation, action = msgspec.convert(spaces, tuple[str, str])
    return observation, action


def _heads(heads: Sequence[HeadSpec]) -> str:
    return ", ".join(f"{head.name} ({head.kind if head.dense else head.size})" for head in heads)


def _kept_head(head: HeadSpec) -> tuple[str, int] | tuple[str, int, str, float, float]:
    """A head as it is kept: name and size, as ever, and the rest where there is any."""
    if head.kind == "categorical":
        return head.name, head.size
    return head.name, head.size, head.kind, float(head.low), float(head.high)


def _same(what: str, mine: object, stored: object) -> None:
    if mine != stored:
        raise ConfigError(
            f"the checkpoint has another {what}: {stored}, this run has {mine}",
            hint=_SAME_RUN,
        )
