"""What the pass after the last step gives to the payload, of the update and of each head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from esper_core.events import HeadStats
from esper_core.updates.records import FinalPass, Mean, Measured, UpdateSettings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["fields_of_final", "head_stats"]


def fields_of_final(final: FinalPass | None) -> dict[str, Measured]:
    """The payload's fields that come from the final pass; entropies follow from the heads' own."""
    if final is None:
        return {}
    found: dict[str, Measured] = dict(final.measured)
    if entropy := final.by_head.get("entropy"):
        found["entropy"] = Mean(Mean.pooled(entropy).total, final.kl.steps)
    if normalised := final.by_head.get("entropy_normalised"):
        found["entropy_normalised"] = Mean.pooled(normalised)
    return found


def head_stats(
    settings: UpdateSettings, in_loop: Mapping[str, Sequence[Mean]], final: FinalPass | None
) -> tuple[HeadStats, ...]:
    """One entry a head; what was not measured stays None."""
    found = []
    for index, (name, kind) in enumerate(zip(settings.heads, settings.kinds, strict=True)):
        means = {**in_loop, **(final.by_head if final is not None else {})}
        values: dict[str, Any] = {field_name: parts[index].value for field_name, parts in means.items()}
        if final is not None:
            kl = final.kl
            values |= {
                "kl": kl.by_head[index],
                "decisions": int(kl.decisions[index]),
                "weight": kl.weights[index],
                "share": kl.shares[index],
            }
        found.append(HeadStats(name=name, kind=kind, **values))
    return tuple(found)
