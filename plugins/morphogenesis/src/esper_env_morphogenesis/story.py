"""Describes one episode as text: ``esper eval RUN --show``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from esper_env_morphogenesis.blueprints import BLUEPRINTS
from esper_env_morphogenesis.env import MorphogenesisEnv
from esper_env_morphogenesis.host import HOST_SIZE
from esper_env_morphogenesis.lifecycle import OFFSETS, TEMPOS, Operation, Slot, Stage
from esper_env_morphogenesis.masks import HEAD_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from esper_core.hooks import TrainedPolicy
    from esper_env_morphogenesis.baselines import Policy
    from esper_env_morphogenesis.world import World

__all__ = ["Episode", "Moment", "record", "tell", "trained"]


@dataclass(frozen=True)
class Moment:
    """One epoch of one host.

    Attributes:
        epoch: from 0.
        operation: the agent's operation before it.
        action: int64 (heads,), the whole action.
        forced: True when no other action was legal.
        slots: the slots during the epoch.
        accuracy: accuracy on the validation set after it, 0 to 1.
        reward: the reward of the epoch.
        died: blocks that died before it.
    """

    epoch: int
    operation: Operation
    action: tuple[int, ...]
    forced: bool
    slots: tuple[Slot, ...]
    accuracy: float
    reward: float
    died: tuple[int, ...]


@dataclass(frozen=True)
class Episode:
    """A whole episode: its world, the accuracy before it and every epoch."""

    world: World
    start: float
    moments: tuple[Moment, ...]


def trained(policy: TrainedPolicy, *, deterministic: bool = False) -> Policy:
    """Adapts a trained policy to this module's ``Policy``; it samples as it did in training."""

    def choose(_env: MorphogenesisEnv, observations: Any, info: dict[str, Any], /) -> Any:
        return policy.act(
            observations,
            info["action_mask"],
            conditional_mask=info["conditional_action_mask"],
            deterministic=deterministic,
        )

    return choose


def record(policy: Policy, options: Mapping[str, Any], *, seed: int) -> Episode:
    """Play one episode in one host.

    Args:
        policy: chooses the actions.
        options: arguments of the environment; ``stagger`` is ignored.
        seed: the environment's seed.
    """
    env = MorphogenesisEnv(1, **{**options, "stagger": False})
    observations, info = env.reset(seed=seed)
    world, start, moments = env.worlds[0], float(info["accuracy"][0]), []
    for epoch in range(env.epochs):
        forced = bool(info["action_mask"][0].sum() == len(HEAD_NAMES))
        actions = np.asarray(policy(env, observations, info))
        observations, rewards, _, _, info = env.step(actions)
        final = info.get("final_info")
        accuracy = (info if final is None else final)["accuracy"][0]
        moments.append(
            Moment(
                epoch=epoch,
                operation=Operation(int(actions[0, -1])),
                action=tuple(int(choice) for choice in actions[0]),
                forced=forced,
                slots=env.trained_slots[0],
                accuracy=float(accuracy),
                reward=float(rewards[0]),
                died=tuple(block for when, block in world.lesions if when == epoch),
            )
        )
    return Episode(world, start, tuple(moments))


_SHORT: Final = {
    Stage.DORMANT: "dormant",
    Stage.TRAINING: "training",
    Stage.BLENDING: "blending",
    Stage.HOLDING: "holding",
    Stage.FOSSILIZED: "fossil",
    Stage.PRUNED: "resting",
}


def tell(episode: Episode) -> Iterator[str]:
    """Lines of text, one for each epoch with an operation or a change, with slots as ``stage blueprint alpha``."""
    world = episode.world
    deaths = " and ".join(f"block {block} dies at epoch {when}" for when, block in world.lesions)
    order = "shuffled" if world.shuffled else "in order"
    yield f"world: signals {order}, rent {world.rent:.3f} an epoch for {HOST_SIZE} parameters, {deaths}"
    yield f"{'epoch':>5}  {'operation':<42}{''.join(f'slot {index:<19}' for index in range(3))}accuracy  return"
    gained, quiet = 0.0, 0
    before: tuple[Slot, ...] = ()
    last = len(episode.moments) - 1
    for moment in episode.moments:
        gained += moment.reward
        stages = tuple((slot.stage, slot.blueprint) for slot in moment.slots)
        changed = stages != tuple((slot.stage, slot.blueprint) for slot in before)
        before = moment.slots
        told = moment.operation is not Operation.WAIT or moment.died or changed or moment.epoch in {0, last}
        if not told:
            quiet += 1
            continue
        if quiet:
            yield f"{'':>5}  ... {quiet} more epoch{'s' * (quiet > 1)} of waiting"
            quiet = 0
        for block in moment.died:
            yield f"{moment.epoch:>5}  block {block} DIES"
        yield (
            f"{moment.epoch:>5}  {_deed(moment):<42}{''.join(f'{_state(slot):<24}' for slot in moment.slots)}"
            f"{moment.accuracy:>7.1%}  {gained:+.2f}"
        )
    yield f"accuracy {episode.start:.1%} -> {episode.moments[-1].accuracy:.1%}, return {gained:+.2f}"


def _deed(moment: Moment) -> str:
    place, blueprint, tempo, offset, _ = moment.action
    match moment.operation:
        case Operation.GERMINATE:
            name = BLUEPRINTS[blueprint].name
            return f"GERMINATE {name} in {place}, tempo {TEMPOS[tempo]}, offset {OFFSETS[offset]}"
        case Operation.WAIT:
            return "WAIT (nothing else is legal)" if moment.forced else "WAIT"
        case _:
            return f"{moment.operation.name} slot {place}"


def _state(slot: Slot) -> str:
    name = f" {BLUEPRINTS[slot.blueprint].name}" if slot.living else ""
    alpha = f" {slot.alpha:.2f}" if slot.stage is Stage.BLENDING else ""
    return f"{_SHORT[slot.stage]}{name}{alpha}"
