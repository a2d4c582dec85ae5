"""The numbers that a loop gives by name: which there are, and reading them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Final

from esper_core.errors import nearest
from esper_core.events import Divergence, PPOUpdatePayload
from esper_core.monitoring.inputs import scalar
from esper_core.monitoring.misuse import MisuseError
from esper_core.updates import LOOP_FIELDS

__all__ = ["GIVEN_FIELDS", "SHOWN_FIELDS", "read_divergences", "read_number", "read_numbers"]

GIVEN_FIELDS: Final = LOOP_FIELDS | {
    "advantage_mean",
    "advantage_std",
    "clip_fraction",
    "entropy",
    "entropy_coef",
    "entropy_normalised",
    "explained_variance",
    "grad_norm",
    "learning_rate",
    "library_kl",
    "policy_loss",
    "value_loss",
}
"""The payload's fields that a loop may give. Every other one follows from what the loop says."""
SHOWN_FIELDS: Final = frozenset({"policy_loss", "value_loss", "grad_norm"})
"""The payload's fields that a loop may give of one minibatch."""


def read_number(name: str, value: Any) -> float:
    """A number that must be given."""
    found = scalar(name, value)
    if found is None:
        raise MisuseError(f"{name} is None; a number is needed")
    return found


def read_divergences(given: Any) -> tuple[Divergence, ...]:
    """What a loop compares its policy with beside the behaviour policy; None is nothing."""
    found = () if given is None else tuple(given)
    for item in found:
        if not isinstance(item, Divergence):
            raise MisuseError(
                f"divergences holds {type(item).__name__}; each must be an esper_core.events.Divergence",
                hint='Divergence(name="reference", reference="reference_model", estimator="k3", per_decision=0.01)',
            )
    return found


def read_numbers(given: dict[str, Any], known: frozenset[str], call: str) -> dict[str, float | None]:
    """Fields by name, as plain numbers. A name that is not among them is a typo, or worked out by Esper itself."""
    for name in given:
        if name in known:
            continue
        if name in {item.name for item in fields(PPOUpdatePayload)}:
            raise MisuseError(f"{call}(): {name} is worked out from the other arguments", hint="leave it out")
        raise MisuseError(
            f'{call}(): no field "{name}"{nearest(name, known)}', hint=f"known are {', '.join(sorted(known))}"
        )
    return {name: scalar(name, value) for name, value in given.items()}
