"""Acting: what the policy decides in n environments at once, on the host, in NumPy.

One step of a few environments is little arithmetic in many operations. Each costs torch several times what it costs
NumPy, so whatever is small is done here; the network itself is torch's where it is large, where it is a user's own and
on an accelerator (see :meth:`~esper_core.ppo.policy.MultiHeadPolicy.on_host`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from esper_core.ppo.distributions import ILLEGAL
from esper_core.ppo.sampling import Noise, condition

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from esper_core.ppo.policy import MultiHeadPolicy
    from esper_core.ppo.task import BoolArray, FloatArray

__all__ = ["Acted", "Actor"]

_HALF_LOG_2PI: Final = np.float32(0.5 * math.log(2.0 * math.pi))
_LOG_2: Final = np.float32(math.log(2.0))
_ILLEGAL: Final = np.float32(ILLEGAL)
_LOWEST: Final = np.finfo(np.float32).min
_NO_NOISE: Final = Noise()


class Acted(NamedTuple):
    """Actions of n environments.

    Attributes:
        actions: (n, heads) as they were sampled: int64, or float32 where any head is Gaussian.
        log_prob: float32 (n, heads), nats.
        values: float32 (n,).
        legal: bool (n, heads, width), the mask each head was sampled under; None when all was legal.
    """

    actions: NDArray[np.int64] | NDArray[np.float32]
    log_prob: NDArray[np.float32]
    values: NDArray[np.float32]
    legal: BoolArray | None


class Actor:
    """The policy as it is now: make another one after its weights have changed.

    Not thread-safe: two calls share memory.

    Args:
        policy: of an agent.
        n_envs: rows of every call.
        conditioning: column of the conditioning head; None without one.
    """

    def __init__(self, policy: MultiHeadPolicy, n_envs: int, conditioning: int | None) -> None:
        layout = self._layout = policy.layout
        self._network = policy.on_host(n_envs)
        self._conditioning = conditioning
        # Among the heads that choose: noise has rows for them alone.
        self._conditioning_row = sum(not head.dense for head in layout.heads[: conditioning or 0])
        self._choosing, self._dense = layout.choosing.numpy(), layout.dense.numpy()
        self._order = layout.order.numpy()
        self._bernoulli = np.array([kind == "bernoulli" for kind in layout.kinds])
        self._has_bernoulli = bool(self._bernoulli.any())
        self._padding = layout.valid.numpy()[None] if layout.padded else None
        self._first_choice = np.arange(n_envs * len(self._choosing)).reshape(n_envs, -1) * layout.width
        self._squash = policy.heads.squash
        log_std = policy.heads.log_std
        if log_std is not None:
            self._log_std = log_std.detach().cpu().numpy().copy()
            with np.errstate(all="ignore"):  # a policy whose weights are NaN acts until the update reports it
                self._std, self._precision = np.exp(self._log_std), np.exp(-self._log_std)

    def __call__(
        self, rows: FloatArray, mask: BoolArray | None, conditional: BoolArray | None, noise: Noise | None
    ) -> Acted:
        """Act once in every environment.

        Args:
            rows: float32 (n, inputs), contiguous, as the agent's ``seen`` returns them.
            mask: bool (n, total), or None.
            conditional: bool (n, choices of the conditioning head, total), or None.
            noise: of n environments; None acts greedily.
        """
        noise = _NO_NOISE if noise is None else noise
        with np.errstate(all="ignore"):  # likewise
            outputs, values = self._network(rows)
            # NaN weights must not choose an illegal action before the update reports them.
            if not math.isfinite(outputs.sum()):
                outputs = np.nan_to_num(outputs, nan=0.0)
            legal = None if mask is None else self._layout.padded_mask(mask)
            first = None
            if conditional is not None and self._conditioning is not None:
                first, legal = self._condition(self._conditioning, outputs, legal, conditional, noise)
            if not len(self._dense):
                chosen, log_prob = self._choose(outputs, legal, noise, first)
                return Acted(chosen, log_prob, values, legal)
            drawn, density = self._draw(outputs[:, self._dense, 0], noise)
            if not len(self._choosing):
                return Acted(drawn, density, values, legal)
            chosen, log_prob = self._choose(outputs, legal, noise, first)
            actions = np.concatenate([chosen.astype(np.float32), drawn], axis=1)
            both = np.concatenate([log_prob, density], axis=1)
            # take leaves no gaps between rows, which an index would.
            return Acted(actions.take(self._order, axis=1), both.take(self._order, axis=1), values, legal)

    def _condition(
        self, head: int, outputs: NDArray[np.float32], legal: BoolArray | None, conditional: BoolArray, noise: Noise
    ) -> tuple[NDArray[np.int64], BoolArray]:
        """What the conditioning head chooses, and the mask of every head under that choice."""
        scores = outputs[:, head]
        if noise.gumbel is not None:
            scores = scores + noise.gumbel[:, self._conditioning_row]
        return condition(self._layout, head, scores=scores, legal=legal, conditional=conditional)

    def _choose(
        self, outputs: NDArray[np.float32], legal: BoolArray | None, noise: Noise, first: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Choices of the heads that choose, and their log-probabilities: (n, heads that choose) each."""
        if self._has_bernoulli:  # a choice of two whose first logit is 0
            outputs = outputs.copy()
            outputs[:, self._bernoulli, 0] = 0.0
        shown = self._padding if legal is None else legal
        if len(self._dense):
            outputs = outputs[:, self._choosing]
            shown = None if shown is None else shown[:, self._choosing]
        log_probs = _masked_log_softmax(outputs, shown)
        scores = log_probs if noise.gumbel is None else log_probs + noise.gumbel
        chosen: NDArray[np.int64] = scores.argmax(-1)
        if first is not None:
            # Not sampled twice: rounding could break a near tie the other way, under another choice's masks.
            chosen[:, self._conditioning_row] = first
        return chosen, log_probs.take(self._first_choice + chosen)

    def _draw(self, mean: NDArray[np.float32], noise: Noise) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Samples of the Gaussian heads, and their log-densities: (n, Gaussian heads) each."""
        drawn = mean if noise.normal is None else mean + self._std * noise.normal
        if not math.isfinite(drawn.sum()):
            drawn = np.nan_to_num(drawn, nan=0.0)
        density = np.float32(-0.5) * np.square((drawn - mean) * self._precision) - self._log_std - _HALF_LOG_2PI
        if self._squash:
            # log(1 - tanh(x)^2), which cancels to -inf in its own form from x = 9 on.
            density -= np.float32(2.0) * (_LOG_2 - drawn - np.logaddexp(np.float32(0.0), np.float32(-2.0) * drawn))
        return drawn, density


def _masked_log_softmax(logits: NDArray[np.float32], legal: BoolArray | None) -> NDArray[np.float32]:
    """Log-probabilities over legal choices, as :func:`~esper_core.ppo.distributions.masked_log_softmax` has them."""
    if legal is not None:
        logits = np.where(legal, logits, _LOWEST)
    shifted = logits - np.maximum.reduce(logits, axis=-1, keepdims=True)
    log_probs: NDArray[np.float32] = shifted - np.log(np.add.reduce(np.exp(shifted), axis=-1, keepdims=True))
    return log_probs if legal is None else np.where(legal, log_probs, _ILLEGAL)
