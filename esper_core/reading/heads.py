"""The heads after the last update, with their histories. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_core.reading.snapshot import HeadState
from esper_core.reading.tamiyo import rounded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper_core.events import PPOUpdatePayload

__all__ = ["heads_of"]


def heads_of(payloads: Sequence[PPOUpdatePayload], declared: tuple[str, ...]) -> tuple[HeadState, ...]:
    """The heads after the last update, in the policy's order, with their histories."""
    if not payloads:
        return tuple(HeadState(name=name) for name in declared)
    kl: dict[str, list[float | None]] = {}
    entropy: dict[str, list[float | None]] = {}
    names = [head.name for head in payloads[-1].heads] or list(declared)
    for payload in payloads:
        measured = {head.name: head for head in payload.heads}
        for name in names:
            head = measured.get(name)
            kl.setdefault(name, []).append(rounded(head.kl if head is not None else None))
            entropy.setdefault(name, []).append(rounded(head.entropy_normalised if head is not None else None))
    last = {head.name: head for head in payloads[-1].heads}
    states = []
    for name in names:
        head = last.get(name)
        if head is None:
            states.append(HeadState(name=name, kl_history=tuple(kl[name]), entropy_history=tuple(entropy[name])))
            continue
        states.append(
            HeadState(
                name=name,
                kl=head.kl,
                weight=head.weight,
                share=head.share,
                kind=head.kind,
                entropy=head.entropy,
                entropy_normalised=head.entropy_normalised,
                differential=head.differential,
                clip_fraction=head.clip_fraction,
                decisions=head.decisions,
                kl_history=tuple(kl[name]),
                entropy_history=tuple(entropy[name]),
            )
        )
    return tuple(states)
