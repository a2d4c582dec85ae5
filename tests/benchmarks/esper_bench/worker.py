"""The process in which one party works: ``python -m esper_bench.worker PARTY`` reads a line a question.

Questions and answers are JSON lines on the standard streams it was started with; what a library prints goes to
standard error. ``{"open": ROW}`` makes the turn, ``{"turn": true}`` does it, ``{"close": true}`` undoes the row.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import traceback
from contextlib import ExitStack
from typing import IO, TYPE_CHECKING, Any

from esper_bench.subjects import find_row

if TYPE_CHECKING:
    from esper_bench.row import Clock, Work

__all__ = ["cpu_s", "main"]


def cpu_s(clock: Clock) -> float:
    """CPU seconds so far by this clock; differences count."""
    if clock == "process":
        return time.process_time()
    if clock == "thread":
        return time.thread_time()
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    commands = ended.ru_utime + ended.ru_stime
    return commands if clock == "commands" else commands + time.process_time() + _living()


def _living() -> float:
    """Of processes that this one has started and that still run: their own time and that of their ended ones."""
    import psutil

    total = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


class _Worker:
    """Answers questions about one party."""

    def __init__(self, party: str) -> None:
        self._party = party
        self._clock: Clock = "process"
        self._stack = ExitStack()
        self._work: Work | None = None

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """The answer to one question."""
        if "open" in question:
            row = find_row(question["open"])
            self._clock = row.clock
            self._work = row.party(self._party).setup(self._stack)
            return {"opened": True}
        if "turn" in question and self._work is not None:
            begun = cpu_s(self._clock)
            things = self._work()
            return {"seconds": cpu_s(self._clock) - begun, "things": things}
        self._work = None
        self._stack.close()
        return {"closed": True}


def _one_thread() -> None:
    """For a party that uses torch, as Esper itself does; the variables are read before a library is imported."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"


def main(questions: IO[str], answers: IO[str], party: str) -> None:
    """Answer until the questions end; a party that fails says why and goes on with the next row."""
    worker = _Worker(party)
    for line in questions:
        try:
            answer = worker.answer(json.loads(line))
        except Exception:  # noqa: BLE001  # whatever the party's library raises is the row's answer
            answer = {"failed": traceback.format_exc(limit=-3)}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    _one_thread()
    own = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # a library's own prints must not stand between the answers
    main(sys.stdin, own, sys.argv[1])
