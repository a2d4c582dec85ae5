"""Whether a checkpoint fits a task or an agent, and putting it into one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from esper_core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper_core.ppo.checkpoint import Checkpoint, Checkpointed
    from esper_core.ppo.heads import HeadSpec
    from esper_core.ppo.task import Task

__all__ = ["check_environment", "restore"]

_UNDO: Final = "undo what changed it (env.kwargs, a wrapper, the environment's code), or begin a new run"
_SAME_RUN: Final = "resume with the configuration of the run that wrote it"


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


def _heads(heads: Sequence[HeadSpec]) -> str:
    return ", ".join(f"{head.name} ({head.kind if head.dense else head.size})" for head in heads)


def _same(what: str, mine: object, stored: object) -> None:
    if mine != stored:
        raise ConfigError(
            f"the checkpoint has another {what}: {stored}, this run has {mine}",
            hint=_SAME_RUN,
        )
