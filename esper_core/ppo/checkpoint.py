"""Checkpoints: what is kept of an agent after its last completed update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from esper_core.ppo.preprocessing import ObservationForm

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import nn

    from esper_core.config.schema import PPOConfig
    from esper_core.ppo.actions import ActionForm
    from esper_core.ppo.adam import FlatAdam
    from esper_core.ppo.heads import HeadLayout, HeadSpec
    from esper_core.ppo.normalisation import ObservationNormaliser, RewardNormaliser

__all__ = ["Checkpoint", "Checkpointed", "checkpoint_content"]

FORMAT: Final = 1


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
        ranks: of several, each one's own part, see
            :func:`~esper_core.ppo.distributed.part_of_rank`; empty in other files.
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
    ranks: tuple[dict[str, Any], ...] = ()
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


def _kept_head(head: HeadSpec) -> tuple[str, int] | tuple[str, int, str, float, float]:
    """A head as it is kept: name and size, as ever, and the rest where there is any."""
    if head.kind == "categorical":
        return head.name, head.size
    return head.name, head.size, head.kind, float(head.low), float(head.high)
