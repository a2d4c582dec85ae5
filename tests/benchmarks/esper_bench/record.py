"""The recorded figures, ``results/peers.json``: ``make bench`` writes them; page and ``make bench-check`` read them."""

from __future__ import annotations

import datetime as dt
import functools
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from esper_bench.row import OWN, SCALES
from esper_bench.spread import Spread, ratios, spread

if TYPE_CHECKING:
    from esper_bench.meter import Turns
    from esper_bench.row import Row

__all__ = ["Compared", "Machine", "Measured", "Record", "machine", "measured", "read", "write"]

_CPUINFO: Final = Path("/proc/cpuinfo")


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where figures were measured.

    Attributes:
        cpu: its model's name.
        cores: that the system shows.
        system: kernel and architecture.
        python: version.
        torch: version.
    """

    cpu: str
    cores: int
    system: str
    python: str
    torch: str


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """One peer in one row.

    Attributes:
        name: the peer's.
        version: of its distribution; empty for none.
        cost: CPU time of one thing, in the row's unit.
        ratio: Esper's cost over the peer's, round by round.
        absent: why it was not measured; empty when it was.
    """

    name: str
    version: str = ""
    cost: Spread | None = None
    ratio: Spread | None = None
    absent: str = ""


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One row.

    Attributes:
        subject: the title it stands under.
        name: the row's.
        what: the work.
        unit: of all costs.
        per: what one cost is of.
        clock: whose CPU time.
        rounds: that were counted.
        date: when, UTC, YYYY-MM-DD.
        commit: of the repository, short, with ``+`` when files differed from it.
        load: running processes over the last minute, before the row.
        ours: Esper's cost.
        peers: the others.
        planned: things that a turn was to do, where it can lose some.
        kept: the fewest that a turn of Esper's did.
    """

    subject: str
    name: str
    what: str
    unit: str
    per: str
    clock: str
    rounds: int
    date: str
    commit: str
    load: float
    ours: Spread
    peers: tuple[Compared, ...]
    planned: int = 0
    kept: int = 0


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """All rows of a machine, in the order of the page."""

    machine: Machine
    rows: tuple[Measured, ...] = ()

    def row(self, name: str) -> Measured | None:
        """The row of that name, if there is one."""
        return next((row for row in self.rows if row.name == name), None)

    def with_rows(self, new: list[Measured], order: list[str]) -> Record:
        """These rows in place of their older selves; rows that no longer exist are left out."""
        found = {row.name: row for row in (*self.rows, *new)}
        return msgspec.structs.replace(self, rows=tuple(found[name] for name in order if name in found))


def measured(subject: str, row: Row, turns: Turns, *, load: float) -> Measured:
    """What the turns of a row come to."""
    scale = SCALES[row.unit]
    costs = {name: [scale * second for second in seconds] for name, seconds in turns.costs.items()}
    peers = tuple(
        Compared(name=party.name, absent=turns.absent[party.name])
        if party.name in turns.absent
        else Compared(
            name=party.name,
            version=turns.versions.get(party.name, ""),
            cost=_rounded(spread(costs[party.name])),
            ratio=_rounded(spread(ratios(costs[OWN], costs[party.name]))),
        )
        for party in row.others
        if party.name in costs or party.name in turns.absent
    )
    return Measured(
        subject=subject,
        name=row.name,
        what=row.what,
        unit=row.unit,
        per=row.per,
        clock=row.clock,
        rounds=len(costs[OWN]),
        date=dt.datetime.now(dt.UTC).date().isoformat(),
        commit=_commit(),
        load=round(load, 1),
        ours=_rounded(spread(costs[OWN])),
        peers=peers,
        planned=row.planned,
        kept=turns.kept if row.planned else 0,
    )


def machine() -> Machine:
    """This one."""
    return Machine(
        cpu=_cpu(),
        cores=os.cpu_count() or 0,
        system=f"{platform.system()} {platform.release()}, {platform.machine()}",
        python=platform.python_version(),
        torch=metadata.version("torch"),
    )


def read(path: Path) -> Record | None:
    """The record in a file; None when there is none."""
    return msgspec.json.decode(path.read_bytes(), type=Record) if path.exists() else None


def write(record: Record, path: Path) -> None:
    """Keep it, readable in a diff."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")


def _rounded(of: Spread) -> Spread:
    """Four digits: more would only make diffs."""
    return Spread(*(float(f"{value:.4g}") for value in of))


def _cpu() -> str:
    if _CPUINFO.exists():
        for line in _CPUINFO.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@functools.cache  # before the first row is written: the record itself is no difference
def _commit() -> str:
    words = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--exclude=*", "--dirty=+"]
    try:
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # not a checkout, or no git
        return ""
