"""The morphogenesis environment: hosts that learn, and an agent that grafts modules into them.

One step is one host epoch. Order within a step: the operation, the lesions of this epoch, one epoch of training,
validation, reward, and last the changes of the slots' stages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from esper_env_morphogenesis import observation as obs
from esper_env_morphogenesis.data import load
from esper_env_morphogenesis.host import SLOTS, Graft
from esper_env_morphogenesis.lifecycle import (
    EMPTY,
    OFFSETS,
    TEMPOS,
    Operation,
    Slot,
    Stage,
    advance,
    apply,
    legal_slots,
)
from esper_env_morphogenesis.masks import (
    CAUSAL_TABLE,
    CONDITIONING_HEAD,
    HEAD_NAMES,
    HEAD_SIZES,
    conditional_mask,
    joint_mask,
)
from esper_env_morphogenesis.network import HostNetworks
from esper_env_morphogenesis.reward import rent, reward
from esper_env_morphogenesis.world import draw

if TYPE_CHECKING:
    from esper_env_morphogenesis.data import Dataset
    from esper_env_morphogenesis.host import Validation
    from esper_env_morphogenesis.native import Choice
    from esper_env_morphogenesis.world import World

__all__ = ["MorphogenesisEnv"]

Array = npt.NDArray[Any]


class MorphogenesisEnv(VectorEnv[Array, Array, Array]):
    """``num_envs`` hosts; an episode has ``epochs`` steps.

    Autoreset is SAME_STEP: in the step that ends an episode the observation and the masks are those of the next one,
    ``info["final_obs"]`` holds the last observation and ``info["final_info"]`` the final accuracy of the host.
    Episodes terminate (the observation contains the epoch), so nothing is bootstrapped.

    Info of every reset and step: ``action_mask`` bool (n, 18), ``conditional_action_mask`` bool (n, 4, 18),
    ``accuracy`` float32 (n,); of a step also ``causal_mask`` bool (n, 5) of its actions and ``rent`` float64 (n,).

    Args:
        num_envs: the number of hosts trained together.
        epochs: steps of an episode.
        batches: minibatches of a host epoch.
        batch_size: signals of a minibatch.
        stagger: spread the hosts over the phases of an episode, by first episodes of different lengths. Short
            rollouts then contain every phase; without it all episodes begin and end together.
        learning_rate: Adam's, for hosts and modules.
        validation_size: signals of the validation set that accuracy is measured on, at most 1000.
        compute: what trains the hosts: ``native``, compiled C, ``torch``, several times slower, or ``auto``, the first
            of these that the machine has. Results agree to rounding.
        data: the data; by default MNIST-1D from the cache.
    """

    head_names: Final = HEAD_NAMES
    conditioning_head: Final = CONDITIONING_HEAD
    causal_table: Final = CAUSAL_TABLE

    def __init__(
        self,
        num_envs: int = 8,
        *,
        epochs: int = 24,
        stagger: bool = False,
        batches: int = 6,
        batch_size: int = 64,
        learning_rate: float = 1.5e-2,
        validation_size: int = 250,
        compute: Choice = "auto",
        data: Dataset | None = None,
    ) -> None:
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.epochs = epochs
        self._stagger = stagger
        self.single_observation_space = spaces.Box(-5.0, 5.0, (obs.SIZE,), np.float32)
        self.single_action_space = spaces.MultiDiscrete(list(HEAD_SIZES))
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._generator = torch.Generator()
        self._hosts = HostNetworks(
            num_envs,
            load() if data is None else data,
            self._generator,
            batch_size=batch_size,
            batches=batches,
            learning_rate=learning_rate,
            validation_size=validation_size,
            compute=compute,
        )
        self._epoch = np.zeros(num_envs, dtype=np.int64)
        self._last = np.full(num_envs, epochs)
        self._slots: list[tuple[Slot, ...]] = [(EMPTY,) * SLOTS] * num_envs
        self._trained = tuple(self._slots)
        self._worlds: list[World] = []
        self._accuracy = np.zeros(num_envs, dtype=np.float32)
        self._best = np.zeros(num_envs, dtype=np.float32)

    @property
    def slots(self) -> tuple[tuple[Slot, ...], ...]:
        """The slots of every host, as they are in the next epoch."""
        return tuple(self._slots)

    @property
    def trained_slots(self) -> tuple[tuple[Slot, ...], ...]:
        """The slots of every host as they were in the last epoch, also of an episode that just ended."""
        return self._trained

    @property
    def worlds(self) -> tuple[World, ...]:
        """The world of every host; the agent receives only the part that the observation contains."""
        return tuple(self._worlds)

    @property
    def hosts(self) -> HostNetworks:
        """The hosts themselves."""
        return self._hosts

    def grafts(self) -> list[Graft]:
        """Every module in a slot, in the form that the hosts accept."""
        return [
            Graft(
                host=row,
                slot=index,
                blueprint=slot.blueprint,
                alpha=slot.alpha,
                detached=slot.stage is Stage.TRAINING,
                frozen=slot.stage is Stage.FOSSILIZED,
            )
            for row, slots in enumerate(self._slots)
            for index, slot in enumerate(slots)
            if slot.living
        ]

    def reset(
        self,
        *,
        seed: int | None = None,
        options: dict[str, Any] | None = None,  # noqa: ARG002 - part of Gymnasium's signature
    ) -> tuple[Array, dict[str, Any]]:
        """Begin a new episode in every host. With a seed, all that follows is reproducible bit for bit."""
        super().reset(seed=seed)
        if seed is not None or not self._worlds:
            # Worlds and hosts draw from separate generators: the worlds do not depend on the agent's actions.
            self._generator.manual_seed(int(self.np_random.integers(2**31)))
        self._last[:] = self.epochs
        if self._stagger:
            self._last -= np.arange(self.num_envs) * self.epochs // self.num_envs
        everyone = np.ones(self.num_envs, dtype=np.bool_)
        return self._begin(everyone, np.zeros((self.num_envs, obs.SIZE), dtype=np.float32)), self._info()

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Do one operation in every host and train all of them for one epoch.

        Args:
            actions: int (n, 5), one choice per head, in the order of ``head_names``.

        Raises:
            ValueError: an action that the masks forbid.
        """
        operations = self._operate(actions)
        for row, world in enumerate(self._worlds):
            if any(start == self._epoch[row] for start, _ in world.lesions):
                self._hosts.injure(row, world.alive(int(self._epoch[row])))
        self._trained = tuple(self._slots)
        grafts = self.grafts()
        training_loss = self._hosts.train(grafts)
        validation = self._hosts.validate(grafts)
        accuracy = validation.accuracy.numpy()
        gains = accuracy - self._accuracy
        rents = np.array([rent(slots, world.rent) for slots, world in zip(self._slots, self._worlds, strict=True)])
        rewards = np.array(
            [
                reward(gain=float(gain), rent_charged=charged, operation=operation)
                for gain, charged, operation in zip(gains, rents, operations, strict=True)
            ]
        )
        self._slots = [tuple(advance(slot) for slot in slots) for slots in self._slots]
        self._epoch += 1
        observations = self._observe(validation, training_loss, gains, rents)
        ended = self._epoch >= self._last
        extra: dict[str, Any] = {"causal_mask": CAUSAL_TABLE[actions[:, -1]], "rent": rents}
        if ended.any():
            last = np.full(self.num_envs, None, dtype=object)
            for row in np.flatnonzero(ended).tolist():
                last[row] = observations[row].copy()
            extra["final_obs"], extra["_final_obs"] = last, ended
            extra["final_info"] = {"accuracy": np.where(ended, accuracy, 0.0), "_accuracy": ended}
            extra["_final_info"] = ended
            observations = self._begin(ended, observations)
        return observations, rewards, ended, np.zeros(self.num_envs, dtype=np.bool_), {**self._info(), **extra}

    def _operate(self, actions: Array) -> list[Operation]:
        """Apply one action per host; return the operations."""
        operations = []
        for row, (place, blueprint, tempo, offset, choice) in enumerate(np.asarray(actions).tolist()):
            operation, slots = Operation(choice), self._slots[row]
            operations.append(operation)
            if operation is Operation.WAIT:
                continue
            if not legal_slots(slots, operation)[place]:
                raise ValueError(f"{operation.name} in slot {place} of environment {row} is not legal; see action_mask")
            changed = apply(slots[place], operation, blueprint=blueprint, tempo=TEMPOS[tempo], offset=OFFSETS[offset])
            self._slots[row] = (*slots[:place], changed, *slots[place + 1 :])
            if operation is Operation.GERMINATE:
                self._hosts.plant(row, place, blueprint)
        return operations

    def _begin(self, rows: Array, observations: Array) -> Array:
        """Create new worlds, hosts and slots in some rows; return the observations with those rows replaced."""
        begun = np.flatnonzero(rows).tolist()
        if len(self._worlds) < self.num_envs:
            self._worlds = [draw(self.np_random, self.epochs) for _ in begun]
        else:
            for row in begun:
                self._worlds[row] = draw(self.np_random, self.epochs)
        for row in begun:
            self._slots[row] = (EMPTY,) * SLOTS
            self._hosts.reset(row, order=self._worlds[row].order, alive=self._worlds[row].alive(0))
        self._last[self._epoch >= self._last] = self.epochs
        self._epoch[rows] = 0
        validation = self._hosts.validate(self.grafts(), begun)
        accuracy = validation.accuracy.numpy()
        self._accuracy = np.where(rows, accuracy, self._accuracy)
        self._best = np.where(rows, accuracy, self._best)
        nothing = np.zeros(self.num_envs)
        fresh = self._views(validation, validation.loss, nothing, nothing)
        return np.where(rows[:, None], fresh, observations)

    def _observe(self, validation: Validation, training_loss: torch.Tensor, gains: Array, rents: Array) -> Array:
        """The observations after an epoch; stores the accuracies with which the next epoch is compared."""
        self._accuracy = validation.accuracy.numpy()
        self._best = np.maximum(self._best, self._accuracy)
        return self._views(validation, training_loss, gains, rents)

    def _views(self, validation: Validation, training_loss: torch.Tensor, gains: Array, rents: Array) -> Array:
        return np.stack(
            [
                obs.observe(
                    obs.HostView(
                        progress=float(self._epoch[row]) / self.epochs,
                        accuracy=float(self._accuracy[row]),
                        gain=float(gains[row]),
                        best_accuracy=float(self._best[row]),
                        training_loss=float(training_loss[row]),
                        validation_loss=float(validation.loss[row]),
                        smoothness=float(self._hosts.smoothness[row]),
                        rent_rate=self._worlds[row].rent,
                        rent_charged=float(rents[row]),
                        spread=validation.spread[row].tolist(),
                        response=validation.response[row].tolist(),
                    ),
                    self._slots[row],
                )
                for row in range(self.num_envs)
            ]
        )

    def _info(self) -> dict[str, Any]:
        conditional = np.stack([conditional_mask(slots) for slots in self._slots])
        return {
            "action_mask": joint_mask(conditional),
            "conditional_action_mask": conditional,
            "accuracy": self._accuracy.copy(),
        }
