"""Interleaves the turns of a row's parties and reads what each cost.

pyperf, pytest-benchmark and asv were looked at: each measures one thing after the other (pyperf and asv in processes of
their own, all rounds of one before the next begins) and compares afterwards; none takes turns between two programs or
gives the ratio round by round, which is what holds on a machine that others use. pyperf can be given a clock
(``--track-...`` and ``timer``), the other two measure wall-clock time by default.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from esper_bench.peers import interpreter_of, version_of

if TYPE_CHECKING:
    from esper_bench.row import Party, Row

__all__ = ["Meter", "PartyFailedError", "Turns"]

_BENCHMARKS: Final = Path(__file__).resolve().parents[1]
_LONGEST_S: Final = 900.0
"""Seconds that an answer may take; a library that hangs is absent from its row and does not hold up the rest."""


class PartyFailedError(Exception):
    """A party could not do its work; the text says why."""


@dataclass
class Turns:
    """What the rounds of one row cost.

    Attributes:
        costs: name of a party -> CPU seconds of one thing, a number a round.
        absent: name of a peer -> why it was not measured.
        versions: name of a party -> its distribution's version.
        kept: the fewest things that a turn of Esper's did.
    """

    costs: dict[str, list[float]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    kept: int = 0


def _environment() -> dict[str, str]:
    """Of a party and its commands. Bytecode is kept, as installers leave it; the warm turn writes what is missing."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return inherited | {"PYTHONPATH": str(_BENCHMARKS)}


class _Process:
    """A party's own process, by which it is asked for turns."""

    def __init__(self, party: Party) -> None:
        self._name = party.name
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as the process
        self._process = subprocess.Popen(
            [str(interpreter_of(party)), "-m", "esper_bench.worker", party.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=_environment(),
            text=True,
        )

    def ask(self, **question: Any) -> dict[str, Any]:
        """The answer; raises PartyFailedError when the party failed or its process ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        guard = threading.Timer(_LONGEST_S, self._process.kill)
        guard.start()
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            guard.cancel()
        if not line:
            code = self._process.wait()
            raise PartyFailedError(f"the process of {self._name} ended with {code}: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "failed" in answer:
            raise PartyFailedError(f"{self._name}: {answer['failed'].strip()}")
        return answer

    def end(self) -> None:
        """Let the process end, and wait for it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:  # a library's own thread or service that does not let go
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._log.close()

    def _last_words(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-2000:].strip()


class Meter:
    """Measures rows. A party's process lives until :meth:`end`; leaving the ``with`` block ends all."""

    def __init__(self) -> None:
        self._processes: dict[str, _Process] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def measure(self, row: Row, *, rounds: int | None = None, light: bool = False) -> Turns:
        """Turns of all parties, every second round in the other order.

        A peer that is not installed or that fails is noted as absent, and the others go on; with ``light`` those of
        ``make bench-peers`` are left out without a word.

        Raises:
            PartyFailedError: Esper itself failed.
        """
        turns = Turns()
        asked = [party for party in row.parties if not (light and party.peers)]
        ready = [party for party in asked if self._opened(row, party, turns)]
        for number in range(row.warm + (rounds or row.rounds)):
            for party in ready[:: 1 if number % 2 == 0 else -1]:
                if party.name in turns.absent:
                    continue
                cost = self._turn(party, row, turns)
                if cost is not None and number >= row.warm:
                    turns.costs.setdefault(party.name, []).append(cost)
        for party in ready:
            self._attempt(party, row, turns, close=True)
        for name in turns.absent:
            turns.costs.pop(name, None)
        return turns

    def end(self) -> None:
        """End every party's process; the next row begins with new ones."""
        while self._processes:
            self._processes.popitem()[1].end()

    def _opened(self, row: Row, party: Party, turns: Turns) -> bool:
        if party.distribution:
            version = version_of(party)
            if version is None:
                turns.absent[party.name] = f"peer not installed: {party.install}"
                return False
            turns.versions[party.name] = version
        return self._attempt(party, row, turns, open=row.name) is not None

    def _turn(self, party: Party, row: Row, turns: Turns) -> float | None:
        answer = self._attempt(party, row, turns, turn=True)
        if answer is None:
            return None
        things = int(answer["things"])
        if party is row.parties[0]:
            turns.kept = min(turns.kept or things, things)
        return float(answer["seconds"]) / things

    def _attempt(self, party: Party, row: Row, turns: Turns, **question: Any) -> dict[str, Any] | None:
        if party.name not in self._processes:
            self._processes[party.name] = _Process(party)
        try:
            return self._processes[party.name].ask(**question)
        except PartyFailedError as failure:
            self._processes.pop(party.name).end()
            if party is row.parties[0]:
                raise
            turns.absent[party.name] = f"failed: {str(failure).splitlines()[-1]}"
            print(f"{row.name}: {failure}", file=sys.stderr)
            return None
