"""Policies that do not learn, to measure the learned one against.

``python -m esper_env_morphogenesis.baselines`` searches the best fixed schedule: one that is chosen for the task and
ignores the observations. A schedule defines for each graft its slot, blueprint, epoch, tempo, offset, and when it is
fossilised. Candidates are compared by successive halving: all play a few episodes, the better part plays more, and the
last round plays new episodes, so that the winner is not the one that was lucky in the first. Then the best schedules
are compared with their neighbours in the same way.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch

from esper_env_morphogenesis.blueprints import BLUEPRINTS
from esper_env_morphogenesis.env import MorphogenesisEnv
from esper_env_morphogenesis.lifecycle import OFFSETS, TEMPOS, Operation, legal_slots
from esper_env_morphogenesis.masks import HEAD_SIZES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "AlwaysWait",
    "FixedSchedules",
    "Graft",
    "Policy",
    "Random",
    "Result",
    "Schedule",
    "neighbours",
    "play",
    "search",
]

Actions = npt.NDArray[np.int64]
Observations = npt.NDArray[Any]
Info = dict[str, Any]
_STARTS: Final = np.cumsum((0, *HEAD_SIZES))


class Policy(Protocol):
    """Chooses actions for every host of an environment."""

    def __call__(self, env: MorphogenesisEnv, _observations: Observations, _info: Info, /) -> Actions:
        """Actions int64 (n, heads)."""
        ...


class AlwaysWait:
    """Does nothing: every host learns without grafts."""

    def __call__(self, env: MorphogenesisEnv, _observations: Observations, _info: Info, /) -> Actions:
        """Return WAIT for every host."""
        return np.zeros((env.num_envs, len(HEAD_SIZES)), dtype=np.int64)


class Random:
    """Plays each legal operation with equal probability, then legal choices of the heads that the operation reads.

    Args:
        seed: seed of the choices.
    """

    def __init__(self, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)

    def __call__(self, env: MorphogenesisEnv, _observations: Observations, _info: Info, /) -> Actions:
        """Return one legal action per host."""
        masks = _info["conditional_action_mask"]
        actions = np.zeros((env.num_envs, len(HEAD_SIZES)), dtype=np.int64)
        for row, mask in enumerate(masks):
            actions[row, -1] = self._random.choice(np.flatnonzero(mask[0, _STARTS[-2] :]))
            legal = mask[actions[row, -1]]
            for head, start in enumerate(_STARTS[:-2]):
                actions[row, head] = self._random.choice(np.flatnonzero(legal[start : _STARTS[head + 1]]))
        return actions


@dataclass(frozen=True)
class Graft:
    """One module of a schedule. Choices are indices of the heads.

    Attributes:
        slot: the slot of the module.
        blueprint: the module's blueprint.
        epoch: germinated in this epoch, or the first one after it in which that is legal.
        tempo: choice of the tempo head.
        offset: choice of the tempo_offset head.
        fossil: fossilised in this epoch or the first legal one after it; None means never.
        prune: pruned in this epoch or the first legal one after it; None means never.
    """

    slot: int
    blueprint: int
    epoch: int
    tempo: int = 0
    offset: int = 0
    fossil: int | None = None
    prune: int | None = None

    def __str__(self) -> str:
        ends = (("fossil", self.fossil), ("prune", self.prune))
        return (
            f"{BLUEPRINTS[self.blueprint].name} in slot {self.slot} at epoch {self.epoch} "
            f"tempo {TEMPOS[self.tempo]} offset {OFFSETS[self.offset]}"
            + "".join(f" {name} at {epoch}" for name, epoch in ends if epoch is not None)
        )


Schedule = tuple[Graft, ...]


class FixedSchedules:
    """Host i follows schedule i and ignores the observations.

    Args:
        schedules: one per host.
    """

    def __init__(self, schedules: Sequence[Schedule]) -> None:
        self._schedules = tuple(schedules)
        self._epoch = 0
        self._done: list[set[tuple[int, Operation]]] = [set() for _ in schedules]

    def __call__(self, env: MorphogenesisEnv, _observations: Observations, _info: Info, /) -> Actions:
        """Return the action of the first entry of each schedule that is due and legal."""
        actions = np.zeros((env.num_envs, len(HEAD_SIZES)), dtype=np.int64)
        for row, schedule in enumerate(self._schedules):
            for index, graft in enumerate(schedule):
                operation = self._due(index, graft, row)
                if operation is not None and legal_slots(env.slots[row], operation)[graft.slot]:
                    actions[row] = (graft.slot, graft.blueprint, graft.tempo, graft.offset, operation)
                    self._done[row].add((index, operation))
                    break
        self._epoch = (self._epoch + 1) % env.epochs
        if self._epoch == 0:
            self._done = [set() for _ in self._schedules]
        return actions

    def _due(self, index: int, graft: Graft, row: int) -> Operation | None:
        done = self._done[row]
        if (index, Operation.GERMINATE) not in done:
            return Operation.GERMINATE if self._epoch >= graft.epoch else None
        ended = (index, Operation.PRUNE) in done or (index, Operation.FOSSILIZE) in done
        if ended:
            return None
        if graft.prune is not None and self._epoch >= graft.prune:
            return Operation.PRUNE
        if graft.fossil is not None and self._epoch >= graft.fossil:
            return Operation.FOSSILIZE
        return None


@dataclass(frozen=True)
class Result:
    """Finished episodes.

    Attributes:
        returns: float64 (episodes, n), sum of rewards.
        accuracies: float64 (episodes, n), validation accuracy of the host at the end.
    """

    returns: npt.NDArray[np.float64]
    accuracies: npt.NDArray[np.float64]


def play(env: MorphogenesisEnv, policy: Policy, *, seed: int, episodes: int) -> Result:
    """Play whole episodes in every host of an environment.

    Worlds depend only on the seed: every policy plays in the same worlds.

    Args:
        env: the environment with n hosts.
        policy: chooses the actions.
        seed: the environment's seed.
        episodes: the number of episodes of each host.
    """
    observations, info = env.reset(seed=seed)
    returns, accuracies = np.zeros((episodes, env.num_envs)), np.zeros((episodes, env.num_envs))
    for episode in range(episodes):
        for _ in range(env.epochs):
            observations, rewards, _, _, info = env.step(policy(env, observations, info))
            returns[episode] += rewards
        accuracies[episode] = info["final_info"]["accuracy"]
    return Result(returns, accuracies)


def candidates(epochs: int) -> list[Schedule]:
    """The grid: one or two grafts over slots, blueprints, epochs, tempo, offset and time of fossilising."""
    random = np.random.default_rng(0)
    starts = [0, 2, epochs // 4, epochs // 2]
    fossils = [None, epochs // 4, epochs // 2, 3 * epochs // 4]
    blueprints = range(len(BLUEPRINTS))
    single: list[Schedule] = [
        (Graft(slot, blueprint, start, tempo, offset, fossil),)
        for slot, blueprint, start, tempo, offset, fossil in itertools.product(
            range(3), blueprints, starts[:3], range(len(TEMPOS)), range(2), fossils
        )
    ]
    pair: list[Schedule] = [
        (Graft(slots[0], first, 0, tempo, 0, fossil), Graft(slots[1], second, start, tempo, 0, fossil))
        for slots, first, second, start, tempo, fossil in itertools.product(
            itertools.permutations(range(3), 2), blueprints, blueprints, starts, range(len(TEMPOS)), fossils
        )
    ]
    # Three grafts where two modules may stand at once: the first is pruned so that a third can be grafted.
    moved: list[Schedule] = [
        (
            Graft(slots[0], kinds[0], 0, tempo, 0, None, prune),
            Graft(slots[1], kinds[1], 0, tempo, 0, fossil),
            Graft(slots[2], kinds[0], prune, tempo, 0, fossil),
        )
        for slots, kinds, tempo, prune, fossil in itertools.product(
            itertools.permutations(range(3)),
            itertools.product(blueprints, blueprints),
            range(2),
            (epochs // 4, epochs // 2),
            (None, 3 * epochs // 4),
        )
    ]
    chosen: list[Schedule] = [()]
    for family, most in ((single, 60), (pair, 300), (moved, 60)):
        picks = random.choice(len(family), size=min(most, len(family)), replace=False)
        chosen.extend(family[index] for index in sorted(picks))
    return chosen


def neighbours(schedule: Schedule, epochs: int) -> list[Schedule]:
    """Schedules that differ in one choice of one graft, and those with all slots shifted by the same number."""
    near: list[Schedule] = []
    for index, graft in enumerate(schedule):
        changes = (
            *({"blueprint": choice} for choice in range(len(BLUEPRINTS))),
            *({"tempo": choice} for choice in range(len(TEMPOS))),
            *({"offset": choice} for choice in range(len(OFFSETS))),
            *({"epoch": max(0, graft.epoch + shift)} for shift in (-2, -1, 1, 2, 4)),
            *({"fossil": epoch} for epoch in (None, *range(epochs // 4, epochs, 3))),
        )
        for change in changes:
            changed = replace(graft, **change)
            if changed != graft:
                near.append((*schedule[:index], changed, *schedule[index + 1 :]))
    near += [tuple(replace(graft, slot=(graft.slot + shift) % 3) for graft in schedule) for shift in (1, 2)]
    return near


def search(
    schedules: Sequence[Schedule],
    *,
    rounds: Iterable[tuple[int, int]],
    n: int = 32,
    by: Literal["return", "accuracy"] = "return",
    **env_options: Any,
) -> list[tuple[float, float, Schedule]]:
    """Compare schedules by successive halving.

    Args:
        schedules: the schedules of the first round.
        rounds: pairs of (episodes that each plays in this round, number of schedules kept for the next).
        n: the number of hosts in one environment.
        by: the measure by which schedules are kept.
        env_options: arguments of the environment.

    Returns:
        Mean return and mean final accuracy of the last round with the schedule, best first.
    """
    env = MorphogenesisEnv(n, **env_options)
    standing = list(schedules)
    ranked: list[tuple[float, float, Schedule]] = []
    for number, (episodes, keep) in enumerate(rounds):
        returns: list[list[float]] = [[] for _ in standing]
        accuracies: list[list[float]] = [[] for _ in standing]
        lots = [index for index in range(len(standing)) for _ in range(episodes)]
        for start in range(0, len(lots), n):
            rows = [lots[min(start + row, len(lots) - 1)] for row in range(n)]
            result = play(
                env, FixedSchedules([standing[row] for row in rows]), seed=10_000 * number + start, episodes=1
            )
            for row, index in enumerate(rows[: len(lots) - start]):
                returns[index].append(result.returns[0, row])
                accuracies[index].append(result.accuracies[0, row])
        ranked = sorted(
            (
                (float(np.mean(gain)), float(np.mean(accuracy)), schedule)
                for gain, accuracy, schedule in zip(returns, accuracies, standing, strict=True)
            ),
            key=lambda row: -row[0] if by == "return" else -row[1],
        )
        standing = [schedule for _, _, schedule in ranked[:keep]]
    return ranked


def main() -> None:
    """Search the best fixed schedule and print the leaders."""
    parser = argparse.ArgumentParser(description="search the best fixed schedule of the morphogenesis task")
    parser.add_argument("--scale", type=float, default=1.0, help="episodes of every round are multiplied with this")
    parser.add_argument("--rounds", type=int, default=2, help="races among the leaders' neighbours after the grid")
    parser.add_argument("--by", choices=("return", "accuracy"), default="return", help="what decides who goes on")
    options = parser.parse_args()
    torch.set_num_threads(1)
    epochs = MorphogenesisEnv(1).epochs

    def race(schedules: list[Schedule], plan: list[tuple[int, int]]) -> list[tuple[float, float, Schedule]]:
        rounds = [(max(1, round(episodes * options.scale)), keep) for episodes, keep in plan]
        print(f"{len(schedules)} schedules", flush=True)
        ranked = search(schedules, rounds=rounds, by=options.by)
        for gain, accuracy, schedule in ranked:
            print(f"return {gain:.3f} accuracy {accuracy:.3f}: {'; '.join(map(str, schedule))}", flush=True)
        return ranked

    leaders = race(candidates(epochs), [(8, 120), (24, 24), (96, 6), (256, 6)])
    for _ in range(options.rounds):
        kept = [schedule for _, _, schedule in leaders[:3]]
        near = [near for schedule in kept for near in neighbours(schedule, epochs)]
        leaders = race(list(dict.fromkeys([*kept, *near])), [(16, 24), (96, 6), (256, 6)])


if __name__ == "__main__":
    main()
