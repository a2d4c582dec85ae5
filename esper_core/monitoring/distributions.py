"""Torch distributions in place of log-probabilities: the KL is then exact, and entropies and head kinds come with it.

Known are Categorical (and its masked subclasses), Bernoulli, Normal and Beta, each also inside Independent or, on both
sides with the same transforms, inside TransformedDistribution: a squash moves both densities alike and leaves the KL.
A Normal over D dimensions is D heads. A list or a dict of heads holds one distribution a head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from esper_core.monitoring.inputs import Floats, floats, is_narrow
from esper_core.monitoring.misuse import MisuseError

if TYPE_CHECKING:
    from esper_core.events import HeadKind

__all__ = ["Exact", "are_distributions", "compare"]

_KINDS: dict[str, HeadKind] = {
    "Categorical": "categorical",
    "OneHotCategorical": "categorical",
    "Bernoulli": "bernoulli",
    "Normal": "gaussian",
    "Beta": "beta",
}


_PARAMETERS: dict[str, tuple[str, ...]] = {
    "Categorical": ("logits",),
    "OneHotCategorical": ("logits",),
    "Bernoulli": ("logits",),
    "Normal": ("loc", "scale"),
    "Beta": ("concentration1", "concentration0"),
}


@dataclass(frozen=True, slots=True)
class Exact:
    """What two distributions show.

    Attributes:
        kl: float (N, heads), KL(old || new) of each decision, nats.
        entropy: float (N, heads), of the new one, nats; None when it has none in closed form.
        choices: float (N, heads), how many options the old one gives a probability above 0; None for densities.
        kinds: of each column.
    """

    kl: Floats
    entropy: Floats | None
    choices: Floats | None
    kinds: tuple[HeadKind, ...]


def are_distributions(value: Any) -> bool:
    """Whether a value is a distribution, or a list or dict of them."""
    if isinstance(value, Mapping):
        value = next(iter(value.values()), None)
    elif isinstance(value, (list, tuple)) and value:
        value = value[0]
    return hasattr(value, "log_prob") and hasattr(value, "entropy")


def compare(old: Any, new: Any, heads: Sequence[str]) -> Exact:
    """The exact KL of every decision.

    Args:
        old: the behaviour policy's distribution, or one a head.
        new: likewise, of the policy after the update.
        heads: names, for dicts and errors.

    Raises:
        MisuseError: the two do not fit each other, or their KL has no closed form.
    """
    pairs = list(zip(_parts("old", old, heads), _parts("new", new, heads), strict=True))
    found = [_compared(before, after) for before, after in pairs]
    kl = np.concatenate([item.kl for item in found], axis=1)
    if kl.shape[1] != len(heads):
        raise MisuseError(
            f"the distributions hold {kl.shape[1]} columns for {len(heads)} heads ({', '.join(heads)})",
            hint="a Normal over D dimensions is D heads: monitor(..., heads=(...)) names each; steps and environments "
            "are one dimension, flattened",
        )
    entropies = [item.entropy for item in found]
    kinds = tuple(kind for item in found for kind in item.kinds)
    counted = [
        item.choices if item.choices is not None else np.full_like(item.kl, np.inf, dtype=np.float64) for item in found
    ]
    return Exact(
        kl=kl,
        entropy=None
        if any(item is None for item in entropies)
        else np.concatenate([item for item in entropies if item is not None], axis=1),
        choices=np.concatenate(counted, axis=1) if any(item.choices is not None for item in found) else None,
        kinds=kinds,
    )


def _parts(name: str, value: Any, heads: Sequence[str]) -> list[Any]:
    """One distribution for all heads, or one a head, in their order."""
    if isinstance(value, Mapping):
        if set(value) != set(heads):
            raise MisuseError(
                f"{name} has distributions for {', '.join(map(str, value))}; heads are {', '.join(heads)}"
            )
        return [value[head] for head in heads]
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _compared(old: Any, new: Any) -> Exact:
    from torch.distributions import kl_divergence  # noqa: PLC0415  # the caller has torch: these are its objects

    before, after = _bare(old), _bare(new)
    one, other = (tuple(getattr(item, "batch_shape", ())) for item in (before, after))
    if one != other:
        raise MisuseError(
            f"old has batch shape {one} and new has batch shape {other}; they must be equal",
            hint="one of them was probably not flattened, or kept a last dimension of 1",
        )
    before, after = _widened(before), _widened(after)
    try:
        kl = floats("KL", kl_divergence(before, after))
    except (NotImplementedError, RuntimeError) as error:
        raise MisuseError(
            f"no KL of {type(old).__name__} and {type(new).__name__}: {error}",
            hint="give old= and new= log-probabilities instead, or kl= with values of your own",
        ) from None
    kl = _columns(kl)
    probabilities = getattr(after, "probs", None)
    kind = _kind(after)
    choices = None
    if kind == "categorical" and probabilities is not None:
        choices = _columns((floats("probs", before.probs) > 0).sum(-1).astype(np.float64))
    elif kind == "bernoulli":
        choices = np.full_like(kl, 2.0, dtype=np.float64)
    return Exact(kl=kl, entropy=_entropy(after, kl.shape), choices=choices, kinds=(kind,) * kl.shape[1])


def _bare(distribution: Any) -> Any:
    """Without the wrappers that add dimensions up: their parts are the heads."""
    while type(distribution).__name__ == "Independent":
        distribution = distribution.base_dist
    return distribution


def _widened(distribution: Any) -> Any:
    """With parameters in float32 where they are of half precision: the KL is a difference of almost equal numbers."""
    names = _PARAMETERS.get(_known(distribution), ())
    found = {name: getattr(distribution, name) for name in names}
    if not any(is_narrow(value) for value in found.values()):
        return distribution
    import torch.distributions  # noqa: PLC0415  # the caller has torch: these are its objects

    kind = getattr(torch.distributions, _known(distribution))
    return kind(**{name: value.float() for name, value in found.items()}, validate_args=False)


def _known(distribution: Any) -> str:
    """The name of the first known distribution among its ancestors; empty when there is none."""
    return next((item.__name__ for item in type(distribution).__mro__ if item.__name__ in _KINDS), "")


def _kind(distribution: Any) -> HeadKind:
    name = type(distribution).__name__
    if name == "TransformedDistribution":
        return _kind(_bare(distribution.base_dist))
    return _KINDS.get(_known(distribution), "categorical")


def _entropy(distribution: Any, shape: tuple[int, ...]) -> Floats | None:
    try:
        found = _columns(floats("entropy", distribution.entropy()))
    except NotImplementedError:
        return None
    return found if found.shape == shape else None


def _columns(found: Floats) -> Floats:
    if found.ndim == 1:
        return found[:, None]
    if found.ndim == 2:  # rows and columns
        return found
    raise MisuseError(f"the distributions' KL has shape {found.shape}; needed is (N,) or (N, heads)")
