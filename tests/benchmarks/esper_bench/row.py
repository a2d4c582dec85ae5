"""What is compared: a row, its parties, and how the CPU time of a turn is read."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["OWN", "SCALES", "Clock", "Party", "Row", "Setup", "Unit", "Work"]

Work = Callable[[], int]
"""One turn: does the work and returns how many things it did (updates, steps, records); the cost is of one of them."""
Setup = Callable[[ExitStack], Work]
"""Makes the turn, in the process where it is run; what it opens is put on the stack and closed after the last turn.
Libraries are imported inside it: the process that prints the table imports none of them."""
Clock = Literal["process", "thread", "commands", "tree"]
"""CPU time of: all threads of the process; the calling thread alone; commands that the turn has run and waited for;
the process with everything that it has started."""
Unit = Literal["s", "ms", "µs"]

SCALES: dict[Unit, float] = {"s": 1.0, "ms": 1e3, "µs": 1e6}
OWN = "Esper"
"""The name of Esper's party, in records and tables."""


@dataclass(frozen=True)
class Party:
    """Who does the work.

    Attributes:
        name: for the table.
        setup: makes the turn.
        distribution: whose version stands on the page and without which the party is absent; "" asks for none.
        install: the line that installs it.
        peers: it lives in the environment of ``make bench-peers``.
    """

    name: str
    setup: Setup
    distribution: str = ""
    install: str = ""
    peers: bool = False


@dataclass(frozen=True)
class Row:
    """One piece of work and those who do it.

    Attributes:
        name: short and unique; recorded figures are found by it.
        what: the work in words: sizes, settings, and what a party does differently.
        unit: of the costs; of one thing, when ``per`` names it.
        ours: Esper's way.
        others: the peers' ways; each cost is compared with Esper's of the same round.
        per: what one cost is of.
        clock: whose CPU time.
        rounds: turns of each party that count.
        warm: turns before them that do not.
        quick: belongs to ``make bench-quick``.
        planned: how many things a turn is to do, where it can lose some; 0 where it cannot.
    """

    name: str
    what: str
    unit: Unit
    ours: Setup
    others: tuple[Party, ...]
    per: str
    clock: Clock = "process"
    rounds: int = 9
    warm: int = 1
    quick: bool = False
    planned: int = 0
    parties: tuple[Party, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parties", (Party(OWN, self.ours), *self.others))

    def party(self, name: str) -> Party:
        """The party of that name; raises StopIteration without one."""
        return next(party for party in self.parties if party.name == name)
