"""The table on the terminal: a line a peer, printed as soon as its row is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from esper_bench.record import Machine, Measured

__all__ = ["head", "lines"]

_FORM: Final = "{:28s} {:>12s} {:3s} {:38s} {:>10s}   {}"


def head(machine: Machine) -> str:
    """Where, and what the columns are."""
    return (
        f"{machine.cpu}, {machine.cores} cores; Python {machine.python}, torch {machine.torch}. CPU time, medians.\n\n"
        + _FORM.format("", "Esper", "", "peer", "its cost", "Esper / peer (quartiles): below 1 Esper is cheaper")
    )


def lines(row: Measured) -> list[str]:
    """One row."""
    found = []
    for place, peer in enumerate(row.peers):
        first = (row.name, f"{row.ours.middle:.4g}", row.unit) if place == 0 else ("", "", "")
        name = f"{peer.name} {peer.version}".strip()
        if peer.cost is None or peer.ratio is None:
            found.append(_FORM.format(*first, name, "", peer.absent))
            continue
        ratio = f"{peer.ratio.middle:.3g} ({peer.ratio.low:.3g} to {peer.ratio.high:.3g})"
        found.append(_FORM.format(*first, name, f"{peer.cost.middle:.4g}", ratio))
    if row.planned:
        found.append(_FORM.format("", "", "", f"kept {row.kept:,} of {row.planned:,}", "", ""))
    return [line.rstrip() for line in found]
