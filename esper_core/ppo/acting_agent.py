"""ActingAgent: a policy with all that it takes to act in an environment."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from esper_core.errors import EnvironmentUnsupportedError
from esper_core.ppo.acting import Actor
from esper_core.ppo.devices import resolve_device
from esper_core.ppo.given_masks import conditional_choices, legal_choices
from esper_core.ppo.heads import HeadLayout, HeadSpec
from esper_core.ppo.normalisation import ObservationNormaliser
from esper_core.ppo.policy import MultiHeadPolicy
from esper_core.ppo.preprocessing import ObservationForm, Preprocessing
from esper_core.ppo.sampling import Noise, noise
from esper_core.ppo.schedules import refuse_impossible
from esper_core.ppo.threads import torch_threads
from esper_core.ppo.trunk_choice import chosen, trunk_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray
    from torch import Tensor

    from esper_core.config.schema import PPOConfig
    from esper_core.ppo.actions import ActionForm
    from esper_core.ppo.task import FloatArray

__all__ = ["ActingAgent", "Decision"]


@dataclass(frozen=True, slots=True)
class Decision:
    """Actions of n environments, on the CPU.

    Attributes:
        actions: (n, heads) as they were sampled: int64, or float32 where any head is Gaussian.
        log_prob: float32 (n, heads), nats.
        values: float32 (n,).
        legal: bool (n, heads, width), the mask each head was sampled under; None when all was legal.
    """

    actions: Tensor
    log_prob: Tensor
    values: Tensor
    legal: Tensor | None


class ActingAgent:
    """Reads observations, samples actions of any number of heads, and gives them as the environment takes them.

    Args:
        heads: the action's columns.
        obs_shape: of one observation; flattened before the network.
        config: the ``[ppo]`` table.
        weights: seed of the first weights.
        sampling: seed of what is sampled.
        conditioning_head: the head sampled first when a conditional mask is given.
        action_form: how the heads' columns make the environment's action; None for the columns themselves.
        form: what an observation consists of; None reads numbers of ``obs_shape`` as they are.

    Raises:
        EnvironmentUnsupportedError: the heads do not make a policy, or ``ppo.squash`` has no bounds to reach.
    """

    def __init__(
        self,
        heads: Sequence[HeadSpec],
        obs_shape: Sequence[int],
        config: PPOConfig,
        *,
        weights: int,
        sampling: int,
        conditioning_head: str | None,
        action_form: ActionForm | None,
        form: ObservationForm | None,
    ) -> None:
        self.layout = HeadLayout(heads)
        self.obs_shape = tuple(obs_shape)
        self.observation_form = form if form is not None else ObservationForm.numbers(self.obs_shape)
        self.config = chosen(config, self.observation_form)
        refuse_impossible(self.config)
        self.conditioning_head = conditioning_head
        self._conditioning = self._conditioning_column()
        self.action_form = action_form
        if self.config.squash:
            _refuse_unbounded(self.layout)
        self.device = resolve_device(self.config.device)
        self.sampling_generator = torch.Generator().manual_seed(sampling)
        first = torch.Generator().manual_seed(weights)
        # A second thread would only wait for work: drawing the weights of 64x64 took 0.3 s of CPU with one.
        with torch_threads(1):
            trunk = trunk_of(self.config, self.observation_form, first)
            self.policy = MultiHeadPolicy(
                self.layout, trunk, first, log_std_init=self.config.log_std_init, squash=self.config.squash
            ).to(self.device)
        self._preprocessing = Preprocessing(self.observation_form)
        self.normaliser = (
            ObservationNormaliser(self.observation_form.measured) if self.config.normalise_observations else None
        )

    def _conditioning_column(self) -> int | None:
        """The conditioning head's column; None when no head conditions the others."""
        if self.conditioning_head is None:
            return None
        column = self.layout.index(self.conditioning_head)
        if self.layout.heads[column].dense:
            raise EnvironmentUnsupportedError(
                f"head {self.conditioning_head} is {self.layout.kinds[column]} and conditions the others",
                hint="only a head with choices can: each selects a row of the conditional mask",
            )
        return column

    def act(
        self,
        obs: Any,
        mask: ArrayLike | None = None,
        *,
        conditional_mask: ArrayLike | None = None,
        deterministic: bool = False,
    ) -> Any:
        """Choose actions.

        Args:
            obs: one observation as the environment returns it (an array, a number, a dict or a tuple of them), or n
                of them stacked. It is scaled, made one-hot and normalised here as it was in training.
            mask: bool (sum of head sizes) or (n, ...), the legal choices; None when all are.
            conditional_mask: bool (choices of the conditioning head, sum of head sizes) or (n, ...).
            deterministic: the likeliest choice of each head, or its mean, instead of a sample.

        Returns:
            One action of the environment's space, within its bounds; for stacked observations n of them, stacked (a
            tuple or a dict of stacks for those spaces). An agent that was made without ``action_form`` returns the
            heads' columns: shape () for one head, (heads,) for more, choices counted from 0.

        Raises:
            UsageError: the observation is not what the policy was trained on, or a mask is none, has another shape or
                leaves a head no legal choice.
        """
        rows, single = self._preprocessing.read(obs)
        count, layout = len(rows), self.layout
        columns = self.columns(
            rows,
            None if mask is None else legal_choices(layout, mask, count),
            conditional_mask=None
            if conditional_mask is None
            else conditional_choices(layout, conditional_mask, count, self._conditioning),
            deterministic=deterministic,
        )
        if self.action_form is not None:
            actions = self.action_form.batch(columns)
            return self.action_form.first(actions) if single else actions
        if self.layout.count == 1:
            columns = columns[:, 0]
        return columns[0] if single else columns

    def columns(
        self,
        rows: FloatArray,
        mask: NDArray[np.bool_] | None = None,
        *,
        conditional_mask: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
        generator: torch.Generator | None = None,
        actor: Actor | None = None,
    ) -> NDArray[np.int64] | NDArray[np.float64]:
        """What every head decides, as a task takes it: (n, heads), on its rows (n, inputs); masks as in :meth:`act`.

        Samples are drawn from ``generator``, or from the agent's own. Who calls this often between two updates makes
        one ``actor`` for all calls, see :meth:`actor`: to make it costs as much as a small network.
        """
        count = len(rows)
        legal = None if mask is None else np.asarray(mask, dtype=bool).reshape(count, -1)
        conditional = None
        if conditional_mask is not None:
            conditional = np.asarray(conditional_mask, dtype=bool).reshape(count, -1, self.layout.total)
        drawn = None if deterministic else self.noise(1, count, generator)[0]
        shown = np.ascontiguousarray(self.seen(torch.as_tensor(rows)).numpy(), dtype=np.float32)
        actor = self.actor(count) if actor is None else actor
        return self.bounded(actor(shown, legal, conditional, drawn).actions)

    def seen(self, rows: Tensor) -> Tensor:
        """Rows float32 (..., inputs) as the policy reads them: normalised by the statistics of this moment."""
        return rows if self.normaliser is None else self.normaliser(rows)

    def bounded(self, actions: NDArray[Any]) -> NDArray[np.int64] | NDArray[np.float64]:
        """Sampled actions (n, heads) as the environment takes them: clipped or squashed to its bounds."""
        return self.layout.bounded(actions, squash=self.config.squash)

    def noise(self, steps: int, n_envs: int, generator: torch.Generator | None = None) -> Noise:
        """What the actions of n environments are drawn with, for many steps at once; by default the agent's own."""
        return noise(self.layout, steps, n_envs, self.sampling_generator if generator is None else generator)

    def actor(self, n_envs: int) -> Actor:
        """Acts in n environments with the weights of this moment, until an update changes them."""
        return Actor(self.policy, n_envs, self._conditioning)

    def decide(
        self, observations: Tensor, mask: Tensor | None, conditional: Tensor | None, noise: Noise | None
    ) -> Decision:
        """Act in n environments at once, with tensors.

        Args:
            observations: float32 (n, inputs), as :meth:`seen` returns them.
            mask: bool (n, total), or None.
            conditional: bool (n, choices, total), or None.
            noise: of n environments; None acts greedily.
        """
        actions, log_prob, values, legal = self.actor(len(observations))(
            observations.detach().cpu().contiguous().numpy(),
            None if mask is None else mask.cpu().numpy(),
            None if conditional is None else conditional.cpu().numpy(),
            noise,
        )
        return Decision(
            torch.from_numpy(actions),
            torch.from_numpy(log_prob),
            torch.from_numpy(values),
            None if legal is None else torch.from_numpy(legal),
        )

    @torch.no_grad()
    def values_of(self, observations: Tensor) -> Tensor:
        """Value estimates float32 (n,) on the CPU, without acting."""
        values: Tensor = self.policy(observations.to(self.device))[1]
        return values.cpu()


def _refuse_unbounded(layout: HeadLayout) -> None:
    """Raise for a Gaussian head whose values a squash cannot be scaled to."""
    for head in layout.heads:
        if head.dense and not (math.isfinite(head.low) and math.isfinite(head.high)):
            raise EnvironmentUnsupportedError(
                f"ppo.squash = true needs bounds, and head {head.name} goes from {head.low:g} to {head.high:g}",
                hint="leave ppo.squash at false, or rescale the action: gymnasium.wrappers.RescaleAction",
            )
